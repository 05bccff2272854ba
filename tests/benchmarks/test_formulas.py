r"""lm-eval's tasks that compare formulas, with the real math_verify and sympy, on rows of a file.

The answers are of the kind that models give: `Final Answer: The final answer is $\frac{1}{2}$. I hope it is correct.`
"""

import json
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks import grading_pool
from eval_pipelines.benchmarks.grading_pool import POOL
from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.benchmarks.scorer import cpu_limit
from eval_pipelines.errors import ConfigError
from eval_pipelines.records import Response
from tests.benchmarks.conftest import spec_of

pytestmark = pytest.mark.slow

try:
    import math_verify  # noqa: F401

    IS_INSTALLED = version("antlr4-python3-runtime").startswith("4.11")
except ImportError:
    IS_INSTALLED = False
needs_math = pytest.mark.skipif(not IS_INSTALLED, reason="`pip install -e .[math]` brings math_verify, sympy and antlr")

# gold, answer, verdict of sympy on the texts after Minerva's rules, verdict of math_verify
CASES = [
    (r"\frac{1}{2}", "0.5", 1, 1),
    (r"\frac{1}{2}", r"\dfrac{2}{4}", 1, 1),
    (r"\frac{1}{2}", r"\frac12", 1, 1),
    (r"\frac{1}{2}", "0.51", 0, 0),
    (r"-\frac{2}{3}", "-2/3", 1, 1),
    (r"-\frac{2}{3}", "2/3", 0, 0),
    (r"2\sqrt{3}", r"\sqrt{12}", 1, 1),
    (r"2\sqrt{3}", r"3\sqrt{2}", 0, 0),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", 1, 1),
    ("x^2+2x+1", "(x+1)^2", 1, 1),
    ("x^2+2x+1", "(x-1)^2", 0, 0),
    ("2^{10}", "1024", 1, 1),
    ("10000", "10{,}000", 1, 1),
    ("10000", "1000", 0, 0),
    ("[2,5)", "[2, 5)", 1, 1),
    ("[2,5)", "(2, 5)", 0, 0),
    ("[2,5)", "[2, 5]", 0, 0),
    # sympy's parser knows neither tuples nor sets: there they are right as the same text only
    (r"(3, \frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)", 0, 1),
    (r"(3, \frac{\pi}{2})", r"(3, 0.5\pi)", 0, 1),
    (r"(3, \frac{\pi}{2})", r"(\frac{\pi}{2}, 3)", 0, 0),
    (r"\{1,2\}", r"\{2,1\}", 0, 1),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", 1, 1),
    (r"\text{(C)}", "C", 1, 1),
    ("24", "", 0, 0),
]
SUBJECTS = {
    "algebra": "Algebra", "counting_and_probability": "Counting & Probability", "geometry": "Geometry",
    "intermediate_algebra": "Intermediate Algebra", "number_theory": "Number Theory", "prealgebra": "Prealgebra",
    "precalculus": "Precalculus",
}  # fmt: skip


def rows_of(golds: list[str], subject: str = "Algebra") -> list[dict[str, str]]:
    """As in the data sets MATH and Putnam-AXIOM; no two problems are the same."""
    return [
        {"problem": f"Find the {at}th of {subject}.", "solution": rf"Step by step, we find $\boxed{{{gold}}}$.",
         "level": "Level 5", "type": subject, "variation": "1"}
        for at, gold in enumerate(golds)
    ]  # fmt: skip


def said(answer: str) -> str:
    return f"Step by step, we find it.\nFinal Answer: The final answer is ${answer}$. I hope it is correct."


@pytest.fixture
def opened(tmp_path: Path, index: Path) -> Callable[..., Benchmark]:
    def build(task: str, rows: list[dict[str, Any]], split: str = "test", **fields: Any) -> Benchmark:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"folder": tmp_path, "splits": {split: "rows.jsonl"}, **fields.pop("data", {})}
        return load(task, spec_of(task=task, data=data, **fields), limit=None, cache=index)

    return build


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    yield
    POOL.close()


def answered(benchmark: Benchmark, say: Callable[..., Response], answers: list[str]) -> dict[str, Response]:
    """The answers in the order of the rows of each subtask."""
    requests = list(benchmark.requests())
    return {one.digest: say(one, said(answers[int(one.sample_id.split("/")[1])])) for one in requests}


@needs_math
def test_equal_formulas_are_right_and_others_wrong_as_lm_eval_itself_says(opened, say) -> None:
    benchmark = opened("minerva_math_algebra", rows_of([gold for gold, *_ in CASES]))
    scores, metrics = benchmark.grade(answered(benchmark, say, [answer for _, answer, *_ in CASES]))
    found = {(int(one.sample_id.split("/")[1]), one.metric): one.value for one in scores}

    assert found == {
        key: value
        for at, (_, _, by_text, verified) in enumerate(CASES)
        for key, value in (((at, "exact_match"), by_text), ((at, "math_verify"), verified))
    }
    # of the same file that the task names, in this process
    task = benchmark._subtasks[0].task
    for at, (question, (_, answer, *_)) in enumerate(zip(benchmark._subtasks[0].questions, CASES, strict=True)):
        theirs = task.process_results(question.doc, [said(answer)])
        assert theirs == {name: found[at, name] for name in ("exact_match", "math_verify")}, CASES[at]
    assert {one.coverage for one in metrics} == {1.0}


@needs_math
def test_the_group_has_its_subtasks_by_subject_and_their_average_by_size(opened, say) -> None:
    golds = {subject: ["1", "2", "3"] if subject == "algebra" else ["1"] for subject in SUBJECTS}
    rows = [row for subject, name in SUBJECTS.items() for row in rows_of(golds[subject], name)]
    data = {"subset_column": "subject", "columns": {"subject": f"= { ({v: k for k, v in SUBJECTS.items()}) }[type]"}}
    benchmark = opened("minerva_math", rows, data=data)
    _, metrics = benchmark.grade(answered(benchmark, say, ["1"] * 3))
    found = {one.subtask: one.value for one in metrics if one.metric == "math_verify"}
    assert len(found) == len(SUBJECTS) + 1
    assert found["minerva_math_algebra"] == pytest.approx(1 / 3)
    assert found["minerva_math_geometry"] == 1.0
    assert found[""] == pytest.approx(7 / 9)


@needs_math
@pytest.mark.parametrize(
    ("task", "split", "metrics"),
    [
        ("minerva_math500", "test", ("exact_match", "math_verify")),
        ("leaderboard_math_algebra_hard", "test", ("exact_match", "exact_match_original")),
        ("putnam_axiom_original", "full_eval", ("exact_match",)),
    ],
)
def test_others_that_compare_formulas_do_it_likewise(opened, say, task, split, metrics) -> None:
    benchmark = opened(task, rows_of([r"\frac{1}{2}"] * 2), split)
    scores, _ = benchmark.grade(answered(benchmark, say, ["0.5", "0.51"]))
    assert next(benchmark.requests()).prompt.count("Problem:") == 5, "its own four examples come from no split"
    verdicts = {name: [one.value for one in scores if one.metric == name] for name in metrics}
    assert verdicts == {name: [1.0, 0.0] for name in metrics}


@needs_math
def test_a_task_whose_metrics_are_not_of_one_answer_has_its_shares(opened, say) -> None:
    benchmark = opened("prompt_robustness_math_algebra", rows_of([r"\frac{1}{2}"] * 2))
    answers = [r"The final answer is: $\boxed{0.5}$", r"The final answer is: $\boxed{3}$"]
    requests = list(benchmark.requests())
    _, metrics = benchmark.grade({one.digest: say(one, answers[at % 2]) for at, one in enumerate(requests)})
    found = {one.metric: one.value for one in metrics}
    assert {found[f"{at}_accuracy"] for at in range(10)} <= {0.0, 0.5, 1.0}
    assert 0 < found["consistency_rate"] < 1


@needs_math
def test_a_comparison_that_hangs_is_ungraded_and_not_wrong(opened, say, monkeypatch) -> None:
    monkeypatch.setattr(grading_pool, "_SLACK_S", 1.0)
    # the first two compute in Python, the third in one step of C
    hang = [r"\int_0^1 \frac{\sin(x^3)\ln(x)}{\sqrt{1+x^5}} dx", r"((x+y)^{200}+1)^{30}", "9^{9^{9}}"]
    answers = [*hang, *["2"] * 8, "3"]
    benchmark = opened("minerva_math_algebra", rows_of(["2"] * 12), grading_timeout_s=1.5, max_failed_share=0.25)
    scores, metrics = benchmark.grade(answered(benchmark, say, answers))
    by_sample = {one.sample_id: one.ungraded_reason or one.value for one in scores if one.metric == "math_verify"}
    in_order = [by_sample[f"minerva_math_algebra/{at}"] for at in range(12)]
    assert in_order == ["grading_timeout"] * 3 + [1.0] * 8 + [0.0]
    [found] = [one for one in metrics if one.metric == "math_verify"]
    assert (found.value, found.n, found.n_asked) == (8 / 9, 9, 12)
    assert (found.bound_low, found.bound_high) == (8 / 12, 11 / 12)


@needs_math
def test_limits_of_libraries_on_the_clock_on_the_wall_make_no_answer_wrong() -> None:
    from lm_eval.tasks.leaderboard.math.utils import timeout as of_a_task
    from math_verify.utils import timeout

    with cpu_limit(5):
        timeout(1)(time.sleep)(1.2)
        with of_a_task(1):
            time.sleep(1.2)
    with pytest.raises(TimeoutError), of_a_task(1):
        time.sleep(1.2)


@pytest.mark.parametrize("lack", ["package", "release"])
def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(opened, monkeypatch, lack) -> None:
    import importlib.metadata
    import sys

    monkeypatch.delitem(sys.modules, "lm_eval.tasks.minerva_math.utils", raising=False)
    if lack == "package":
        monkeypatch.setitem(sys.modules, "math_verify", None)
    elif not IS_INSTALLED:
        pytest.skip("math_verify is not installed, so the release of antlr is not looked at")
    else:
        monkeypatch.setattr(importlib.metadata, "version", lambda _: "4.13.2")
    with pytest.raises(ConfigError, match=r"antlr4-python3-runtime==4\.11.*pip install 'eval-pipelines\[math\]'"):
        opened("minerva_math_algebra", rows_of(["1"]))
