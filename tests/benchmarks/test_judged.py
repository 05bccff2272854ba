"""Answers as questions to judges, and what judges say as scores: pure, without a server."""

from collections.abc import Callable
from typing import Any

import pytest

from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.benchmarks.judge_scores import Judge, grade_judged, judged_version
from eval_pipelines.benchmarks.judged import Judging, answers_of, texts_of
from eval_pipelines.benchmarks.own_file import read_own
from eval_pipelines.benchmarks.validation import validate
from eval_pipelines.client.chain import Chain
from eval_pipelines.client.interceptors import reasoning
from eval_pipelines.config import BenchmarkSpec, InterceptorEntry
from eval_pipelines.errors import ConfigError, UnsupportedError
from eval_pipelines.records import FailureKind, Metric, Request, Response
from tests.warehouse.builders import evaluation

pytestmark = pytest.mark.slow

RIGHT, WRONG, MUMBLED = "Yes.\nCORRECT", "No.\nINCORRECT", "Well"
Say = Callable[[Request, Any], Response]


@pytest.fixture
def judging_of(gsm8k: Callable[..., Benchmark], say: Say) -> Callable[..., Judging]:
    """What judges are asked of a model that answered each question so; `others` are the baseline's answers."""

    def build(answers: list[Any], others: list[Any] | None = None, **judge: Any) -> Judging:
        given = {"models": "j@a", "template": "correctness", **judge}
        repeats = {"repeats": 2, "generation": {"temperature": 1}} if isinstance(answers[0], list) else {}
        benchmark = gsm8k(limit=len(answers), judge=given, **repeats)
        spec = benchmark.spec.judge
        assert spec is not None

        def responses(of: list[Any]) -> dict[str, Response]:
            found = {}
            for question, answer in zip(benchmark.questions(), of, strict=True):
                for request, one in zip(
                    question.requests[0], answer if isinstance(answer, list) else [answer], strict=True
                ):
                    if one is not None:
                        found[request.digest] = say(request, one)
            return found

        baseline = texts_of(benchmark, Chain(), responses(others)) if others else None
        found = answers_of(benchmark, Chain(), responses(answers), baseline)
        other = evaluation("base@a") if others else None
        return Judging(benchmark.spec, spec, found, evaluation("mock@a"), other)

    return build


def grade(judging: Judging, *judges: Callable[[Request], Any], say: Say) -> tuple[list[Any], dict[str, Metric]]:
    """(value or reason) of each sample and metrics by `name filter`, of judges that answer each request so."""
    panel = []
    for i, answers in enumerate(judges):
        responses = {one.digest: say(one, said) for one in judging.requests() if (said := answers(one)) is not None}
        panel.append(Judge(evaluation(f"j{i}@a"), judging, judging.read(responses)))
    graded = grade_judged(panel, (judging.rules.metric, "none"))
    together = [one for one in graded.scores if one.filter == "none"]
    metrics = {f"{one.metric} {one.filter}": one for one in graded.metrics}
    return [one.ungraded_reason if one.value is None else one.value for one in together], metrics


def test_a_failed_answer_is_not_judged_and_a_failed_judge_is_no_verdict(judging_of, say) -> None:
    judging = judging_of(["2", FailureKind.TIMEOUT, None, "8", "10"])
    assert [one.sample_id for one in judging.requests()] == ["gsm8k/0", "gsm8k/3", "gsm8k/4"]
    said = {"gsm8k/0": RIGHT, "gsm8k/3": FailureKind.OVERLOADED, "gsm8k/4": MUMBLED}
    values, metrics = grade(judging, lambda one: said[one.sample_id], say=say)
    assert values == [1.0, "timeout", "not_asked", "judge_overloaded", "judge_unparseable"]
    score = metrics["judge_score none"]
    assert (score.value, score.n, score.n_asked, score.bound_low, score.bound_high) == (1.0, 1, 5, 0.2, 1.0)
    assert (metrics["judge_unparseable none"].value, metrics["judge_unparseable none"].n) == (0.5, 2)


def test_a_question_to_a_judge_shows_question_answer_and_reference_and_nothing_else_decides_its_address(
    judging_of,
) -> None:
    (request,) = judging_of(["It is 2."]).requests()
    assert request.messages is not None
    prompt = request.messages[0]["content"]
    for shown in ("What is 1 plus 1?", "It is 2.", "1 + 1 = 2"):
        assert shown in prompt
    assert request.params == {"max_tokens": 1024, "temperature": 0, "seed": 1234}
    (other,) = judging_of(["It is 2."], labels={"YES": 1}).requests()
    assert other.digest == request.digest, "what verdicts are read is no part of the question"


def test_every_answer_of_the_model_is_judged_and_its_score_is_their_mean(judging_of, say) -> None:
    judging = judging_of([["2", "3"], ["4", "4"]])
    assert len({one.digest for one in judging.requests()}) == 3, "the same answer twice is one question"
    values, _ = grade(judging, lambda one: WRONG if "\n3\n" in one.messages[0]["content"] else RIGHT, say=say)
    assert values == [0.5, 1.0]


def test_repeats_of_a_judge_have_seeds_of_their_own_and_most_of_them_decide(judging_of, say) -> None:
    judging = judging_of(["2", "4"], repeats=3, generation={"temperature": 0.7})
    first = [one for one in judging.requests() if one.sample_id == "gsm8k/0"]
    assert [(one.repeat, one.params["seed"]) for one in first] == [(0, 1234), (1, 1235), (2, 1236)]
    said = {"gsm8k/0": [RIGHT, WRONG, RIGHT], "gsm8k/1": [WRONG, MUMBLED, MUMBLED]}
    values, _ = grade(judging, lambda one: said[one.sample_id][one.repeat], say=say)
    assert values == [1.0, "judge_unparseable"]


def test_an_expression_that_does_not_end_takes_no_more_than_that_one_verdict(judging_of, say) -> None:
    judging = judging_of(["2", "4"], labels={"YES": 1, "NO": 0}, extract={"regex": r"((?:\w+\s?)+)$"})
    said = {"gsm8k/0": "the judge says a lot of words here and then some more!", "gsm8k/1": "YES"}
    (judge,) = [
        Judge(evaluation("j@a"), judging, {one.digest: say(one, said[one.sample_id]) for one in judging.requests()})
    ]
    graded = grade_judged([judge], ("judge_score", "none"))
    assert [one.ungraded_reason or one.value for one in graded.scores] == ["judge_unparseable", 1.0]
    assert graded.judgements[0].no_verdict_why == "reading it took more than 1 s: simplify `extract`"


def test_a_comparison_needs_both_answers_and_both_orders(judging_of, say) -> None:
    pair = {"kind": "pairwise", "template": "pairwise", "baseline": "base@a"}
    judging = judging_of(["mine", "mine", "same", "mine"], ["theirs", FailureKind.EMPTY, "same", "theirs"], **pair)
    assert [(one.sample_id, one.part) for one in judging.requests()] == [
        ("gsm8k/0", 0), ("gsm8k/0", 1), ("gsm8k/3", 0), ("gsm8k/3", 1)
    ]  # fmt: skip
    first, second = (one.messages[0]["content"] for one in list(judging.requests())[:2])
    assert first.index("mine") < first.index("theirs")
    assert second.index("theirs") < second.index("mine")
    lost_one = {("gsm8k/0", 0): "A", ("gsm8k/0", 1): "B", ("gsm8k/3", 0): "A"}
    values, metrics = grade(judging, lambda one: lost_one.get((one.sample_id, one.part)), say=say)
    assert values == [1.0, "baseline_empty", 0.5, "judge_not_asked"]
    consistency = metrics["position_consistency none"]
    assert (consistency.value, consistency.n, consistency.n_asked) == (1.0, 1, 2)


@pytest.mark.parametrize("headline", [None, "exact_match"])
def test_a_benchmark_with_judges_has_one_headline(gsm8k, say, tmp_path, index, headline) -> None:
    (tmp_path / "own.yaml").write_text("data: rows.jsonl\nprompt: Say {{ word }}.\ntarget: '{{ word }}'\n")
    (tmp_path / "rows.jsonl").write_text('{"word": "rain"}\n{"word": "tea"}\n')
    judge = {"models": "j@a", "template": "correctness"}
    own = {"task": "own", "include": tmp_path, "judge": judge, "headline": headline}
    benchmark = load("own", BenchmarkSpec.model_validate(own), limit=None, cache=index)
    responses = {one.digest: say(one, "rain") for one in benchmark.requests()}
    judging = Judging(
        benchmark.spec, benchmark.spec.judge, answers_of(benchmark, Chain(), responses), evaluation("mock@a"), None
    )
    said = {one.digest: say(one, RIGHT) for one in judging.requests()}
    graded = grade_judged([Judge(evaluation("j@a"), judging, said)], benchmark.headline)
    metrics = graded.beside(*benchmark.grade(responses)).metrics
    found = [(one.metric, one.value) for one in metrics if one.is_headline]
    assert found == ([("exact_match", 0.5)] if headline else [("judge_score", 1.0)])


def test_other_judges_or_rules_are_another_version(judging_of) -> None:
    judging = judging_of(["2"])
    regraded = judging_of(["2"], labels={"CORRECT": 1, "INCORRECT": 0.5})

    def version(of: Judging, fingerprint: str = "f1", around: Any = ()) -> str:
        one = evaluation("j@a").model_copy(update={"fingerprint": fingerprint})
        return judged_version("7-abc", [Judge(one, of, {}, around)])

    found = [version(judging), version(judging, "f2"), version(regraded), version(judging, around=["reasoning"])]
    assert len({*found}) == 4
    assert all(one.startswith("7-") for one in found)
    assert version(judging) == found[0]


def test_what_a_judge_thinks_aloud_is_stripped_as_its_model_says(judging_of, say) -> None:
    strips = InterceptorEntry(name="reasoning", spec=reasoning.Spec())
    judging = judging_of(["2"]).seen_through(Chain((), (strips,)))
    values, _ = grade(judging, lambda _: "<think>CORRECT or not?\nINCORRECT</think>CORRECT", say=say)
    assert values == [1.0]


def test_a_benchmark_of_ones_own_that_is_only_judged_is_one_file_without_a_target(gsm8k, tmp_path, index) -> None:
    (tmp_path / "only.yaml").write_text("data: rows.jsonl\nprompt: Write about {{ topic }}.\nmetric: judged\n")
    (tmp_path / "rows.jsonl").write_text('{"topic": "rain"}\n{"topic": "tea"}\n')
    judge = {"models": "j@a", "template": "rubric_1_10"}
    only = BenchmarkSpec.model_validate({"task": "only", "include": tmp_path})
    benchmark = load("only", only, limit=None, cache=index)
    assert [one.question for one in benchmark.samples()] == ["Write about rain.", "Write about tea."]
    with pytest.raises(ConfigError, match=r"benchmarks\.only: only has no metric of its own"):
        benchmark.check_is_graded()
    assert [
        one.check for one in validate(benchmark, read_own(tmp_path / "only.yaml").said) if one.level == "error"
    ] == []
    benchmark = load(
        "only", BenchmarkSpec.model_validate({**only.model_dump(), "judge": judge}), limit=None, cache=index
    )
    benchmark.check_is_graded()
    known = BenchmarkSpec.model_validate({**only.model_dump(), "judge": {"models": "j@a", "template": "correctness"}})
    with pytest.raises(
        ConfigError, match=r"benchmarks\.only\.judge: its prompt shows the `reference`, and only/0 has no ta"
    ):
        load("only", known, limit=None, cache=index).check_is_graded()
    assert (benchmark.has_own_metrics, benchmark.headline) == (False, ("judge_score", "none"))
    assert gsm8k(judge=judge, headline="exact_match").has_own_metrics
    assert gsm8k(judge=judge, headline="exact_match").headline[0] == "exact_match"


def test_what_cannot_be_judged_is_told_before_anybody_is_asked(gsm8k, judging_of) -> None:
    prompt = {"template": None, "prompt": "{{ answer }} {{ doc.hint }}", "labels": {"A": 1}}
    with pytest.raises(ConfigError, match=r"gsm8k/0.*no attribute 'hint'.*Its `doc` has answer, question"):
        list(judging_of(["2"], **prompt).requests())
    prompt |= {"prompt": "{{ answer }} {{ doc.answer / 2 }}"}
    with pytest.raises(ConfigError, match=r"gsm8k/0: TypeError: unsupported .*Its `doc` has answer, question"):
        list(judging_of(["2"], **prompt).requests())
    with pytest.raises(UnsupportedError, match="compares log-likelihoods"):
        texts_of(_Likelihoods(), Chain(), {})  # type: ignore[arg-type]


class _Likelihoods:
    """A benchmark of one question with two choices."""

    name = "arc"

    def requests(self) -> list[Request]:
        return [
            Request(sample_id="arc/0", subtask="arc", part=i, operation="loglikelihood", prompt="Q", continuation=c)
            for i, c in enumerate(" ab")
        ]

    def questions(self) -> list[Any]:
        from types import SimpleNamespace

        sample = SimpleNamespace(sample_id="arc/0", subtask="arc")
        return [SimpleNamespace(sample=sample, requests=[[one] for one in self.requests()])]
