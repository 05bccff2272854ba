"""By which number of the published record a gate goes: the metric that is meant, and the value that is quoted."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.analysis.gating import judge_model
from eval_pipelines.config import Gate
from eval_pipelines.records import Metric, Score
from eval_pipelines.scoring.aggregate import Verdicts, metric_of
from eval_pipelines.scoring.gate_records import BenchmarkVerdict
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import open_published
from tests.warehouse.builders import at, evaluation, grade, land, metric, samples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OLD, NEW = "tiny@step-100", "tiny@step-200"


def put(
    root: Path, model: str, raw: Sequence[Any], combine: Callable[[list[Any]], float], name: str, *, higher: bool = True
) -> None:
    """Land an evaluation by an aggregation of lm-eval, graded as the project grades, with a share beside it."""
    from eval_pipelines.benchmarks.scorer import value_of

    told = Verdicts(higher_is_better=higher, combine=combine, raw=list(raw), n_asked=len(raw))
    share = Verdicts(higher_is_better=False, raw=[0.0] * len(raw), n_asked=len(raw))
    what = evaluation(model, "bench", recorded_at=at(0), n_samples=len(raw))
    landing = Landing(root)
    landing.land_samples("bench", what.ask_version, samples(len(raw)))
    landing.land_evaluation(what)
    landing.land_scores(
        what,
        [
            Score(sample_id=f"main/{i}", subtask="main", metric=name, filter="none", value=value_of(one, combine))
            for i, one in enumerate(raw)
        ],
        [
            metric_of(told, "", name, "none", is_headline=True),
            metric_of(share, "", "unparseable_share", "none", is_headline=False),
        ],
        score_version="s1",
        run_id="grade1",
        recorded_at=at(1),
    )


def judged(root: Path, model: str = NEW, **policy: Any) -> tuple[str, BenchmarkVerdict]:
    with closing(open_published(root)) as connection:
        found = judge_model(connection, "g", Gate.model_validate({"benchmarks": {"bench": policy}}), model).verdict
    return found.decision, found.benchmarks[0]


def test_a_perplexity_is_judged_by_the_one_on_the_leaderboard(tmp_path: Path) -> None:
    from lm_eval.api.metrics import weighted_perplexity

    def texts(long: float, short: float) -> list[tuple[float, int]]:
        return [(-math.log(long) * 10_000, 10_000)] * 100 + [(-math.log(short) * 5, 5)] * 20

    # better on nearly all words, worse on twenty short texts
    put(tmp_path, OLD, texts(12, 900), weighted_perplexity, "word_perplexity", higher=False)
    put(tmp_path, NEW, texts(11, 1_500), weighted_perplexity, "word_perplexity", higher=False)
    publish(tmp_path)
    decision, of_ceiling = judged(tmp_path, max_value=20)
    assert (decision, of_ceiling.value) == ("GO", pytest.approx(11.005, abs=0.001))
    decision, of_drop = judged(tmp_path, max_drop=0.5)
    assert (decision, of_drop.difference) == ("GO", pytest.approx(-1.0, abs=0.001))


def test_an_f1_is_not_judged_by_how_many_labels_are_right(tmp_path: Path) -> None:
    from lm_eval.api.metrics import f1_score

    gold = [1] * 272 + [0] * 128
    put(tmp_path, OLD, [(one, 1) for one in gold], f1_score, "f1")
    put(tmp_path, NEW, [(1, 1)] * 222 + [(1, 0)] * 50 + [(0, 0)] * 64 + [(0, 1)] * 64, f1_score, "f1")
    publish(tmp_path)
    decision, found = judged(tmp_path, min_value=0.75)
    assert (decision, found.value) == ("GO", pytest.approx(0.7957, abs=1e-4))
    decision, found = judged(tmp_path, max_drop=0.01)
    assert (decision, found.difference) == ("INCONCLUSIVE", pytest.approx(0.7957 - 0.8095, abs=1e-4))


def test_a_share_of_answers_is_judged_without_verdicts(tmp_path: Path) -> None:
    from lm_eval.api.metrics import f1_score

    for model in (OLD, NEW):
        put(tmp_path, model, [(1, 1), (0, 1), (0, 0)] * 40, f1_score, "f1")
    publish(tmp_path)
    decision, found = judged(tmp_path, metric="unparseable_share", max_value=0.05)
    assert (decision, found.reasons) == ("GO", ("kept: 0.0000 on 120 questions, max_value 0.05",))


def test_a_metric_that_is_no_number_is_told(tmp_path: Path) -> None:
    land(
        tmp_path, evaluation(NEW, "bench", n_samples=60), [1.0] * 60, pairs=(), metrics=[metric(None, n=60, n_asked=60)]
    )
    publish(tmp_path)
    decision, found = judged(tmp_path, min_value=0.1)
    assert (decision, found.status) == ("INCONCLUSIVE", "lacking")
    assert found.reasons[0].startswith("exact_match,strict of tiny@step-200 on bench is no number, though 60 questions")


@pytest.mark.parametrize("headline", ["lenient", "strict", "none"])
def test_of_several_filters_the_headlines_is_meant_else_one_has_to_be_named(tmp_path: Path, headline: str) -> None:
    def by(name: str, filter_name: str) -> Metric:
        return metric(0.5, n=60, n_asked=60, metric=name, filter=filter_name, is_headline=filter_name == headline)

    metrics = [by("exact_match", "lenient"), by("exact_match", "strict"), by("bleu", "none")]
    land(tmp_path, evaluation(NEW, "bench", n_samples=60), [0.0, 1.0] * 30, pairs=(), metrics=metrics)
    publish(tmp_path)
    _, found = judged(tmp_path, metric="exact_match", min_value=0.1)
    if headline == "none":
        assert found.reasons == (
            "tiny@step-200 has several 'exact_match' on bench, none with the filter of the headline: name one of "
            "exact_match,lenient, exact_match,strict as `metric`",
        )
        _, found = judged(tmp_path, metric="exact_match,strict", min_value=0.1)
        assert found.filter == "strict"
    else:
        assert found.filter == headline


@pytest.mark.parametrize(("baseline", "status"), [("previous", "lacking"), (OLD, "lacking"), ("huge@1", "within")])
def test_within_a_family_answers_must_be_read_through_the_same_however_the_baseline_is_named(
    tmp_path: Path, baseline: str, status: str
) -> None:
    values = [1.0] * 150
    for minute, (model, graded_as) in enumerate([(OLD, None), ("huge@1", None), (NEW, '["reasoning"]')]):
        what = evaluation(model, "bench", recorded_at=at(minute), n_samples=150)
        Landing(tmp_path).land_samples("bench", what.ask_version, samples(150))
        Landing(tmp_path).land_evaluation(what)
        grade(tmp_path, what, values, graded_as=graded_as)
    publish(tmp_path)
    gate = Gate.model_validate({"baseline": baseline, "benchmarks": {"bench": {"max_drop": 0.1}}})
    with closing(open_published(tmp_path)) as connection:
        found = judge_model(connection, "g", gate, NEW).verdict.benchmarks[0]
    assert found.status == status, found.reasons
    assert ("read through" in " ".join(found.reasons)) == (status == "lacking")
