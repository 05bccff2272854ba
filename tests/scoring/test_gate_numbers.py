"""Gates on metrics that are not the mean of verdicts: judged by the number that is quoted, with its own error."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eval_pipelines.benchmarks.catalog import Aggregate, Group
from eval_pipelines.benchmarks.grading import Subtask
from eval_pipelines.benchmarks.groups import metrics_of
from eval_pipelines.scoring.aggregate import Verdicts
from eval_pipelines.scoring.gate_records import Evidence, Lacking, Number

from .gate_worlds import NEW, OLD, evidence, gate, judged, pair

pytestmark = pytest.mark.unit

NOTHING = Lacking("there is no earlier checkpoint")


def f1(values: Any, quoted: float, model: str = NEW, **fields: Any) -> Evidence:
    """Verdicts say which labels are right; the F1 is another number."""
    told = Number(quoted, len(values), **({"stderr": 0.01, "ci_low": quoted - 0.02, "ci_high": quoted + 0.02} | fields))
    return evidence(values, model, metric="f1", number=told)


def test_a_floor_is_for_the_number_that_is_quoted() -> None:
    of_model = f1(np.arange(400) < 286, 0.796)  # 71.5 % of the labels are right
    for limits, decision in (
        ({"min_value": 0.75}, "GO"), ({"min_value": 0.79}, "INCONCLUSIVE"), ({"min_value": 0.83}, "NO-GO"),
        ({"max_value": 0.75}, "NO-GO"),
    ):  # fmt: skip
        found = judged(gate({"gsm8k": limits}), gsm8k=(of_model, NOTHING))
        assert (found.decision, found.benchmarks[0].value, found.benchmarks[0].n) == (decision, 0.796, 400)


def test_a_drop_is_of_the_numbers_that_are_quoted_as_if_of_different_questions() -> None:
    new, old = f1(np.arange(400) < 286, 0.70), f1(np.arange(400) < 272, 0.80, OLD)
    found = judged(gate(), gsm8k=(new, old))
    [one] = found.benchmarks
    assert (found.decision, one.baseline_value, one.value, one.n) == ("NO-GO", 0.80, 0.70, 400)
    assert one.difference == pytest.approx(-0.1)
    assert one.reasons[0].startswith(
        "broken: -0.1000 (-0.1237 to -0.0763) on 400 questions (not paired: f1 is not the mean "
    )
    error = math.hypot(0.02, 0.02) / 1.959964
    assert one.ci_low == pytest.approx(-0.1 - 1.644854 * error, abs=1e-6)
    assert judged(gate({"gsm8k": {"max_drop": 0.13}}), gsm8k=(new, old)).decision == "GO"
    assert judged(gate({"gsm8k": {"max_drop": 0.09}}), gsm8k=(new, old)).decision == "INCONCLUSIVE"


def test_a_share_of_the_baseline_is_of_the_number_that_is_quoted() -> None:
    new, old = f1(np.ones(400), 0.70), f1(np.ones(400), 0.80, OLD)
    for limit, decision in ((0.2, "GO"), (0.13, "INCONCLUSIVE"), (0.05, "NO-GO")):
        found = judged(gate({"gsm8k": {"max_relative_drop": limit}}), gsm8k=(new, old))
        assert found.decision == decision
        assert "-12.5% of the baseline's 0.8000" in found.benchmarks[0].reasons[0]


def test_a_few_long_texts_do_not_stand_for_a_perplexity() -> None:
    def perplexity(one: float, quoted: float, model: str) -> Evidence:
        told = Number(quoted, 120, stderr=0.02)
        values = [11.0] * 100 + [one] * 20
        return evidence(values, model, metric="word_perplexity", higher_is_better=False, number=told)

    new, old = perplexity(1_500, 11.0, NEW), perplexity(900, 12.0, OLD)
    for limits in ({"max_value": 20}, {"max_drop": 0.5}, {"max_relative_drop": 0.05}):
        assert judged(gate({"gsm8k": limits}), gsm8k=(new, old)).decision == "GO"
        worse = judged(gate({"gsm8k": limits}), gsm8k=(replace(old, model_key=NEW), replace(new, model_key=OLD)))
        assert worse.decision == ("GO" if "max_value" in limits else "NO-GO")


@pytest.mark.parametrize("error", [{}, {"stderr": 0.0, "ci_low": 0.7, "ci_high": 0.7}])
@pytest.mark.parametrize("limits", [{"max_drop": 0.02}, {"min_value": 0.5}])
def test_a_number_without_an_error_settles_nothing_and_another_metric_is_to_be_named(
    error: dict[str, float], limits: dict[str, float]
) -> None:
    none = {"stderr": None, "ci_low": None, "ci_high": None} | error
    found = judged(gate({"gsm8k": limits}), gsm8k=(f1(np.ones(400), 0.7, **none), f1(np.ones(400), 0.8, OLD)))
    assert found.decision == "INCONCLUSIVE"
    assert "f1 is not the mean of its verdicts on questions" in found.benchmarks[0].reasons[0]
    assert found.benchmarks[0].reasons[0].endswith("Name another one as `metric`")


def test_a_share_without_verdicts_is_judged_as_so_many_of_so_many() -> None:
    def unparseable(n: int, model: str) -> Evidence:
        told = Number(n / 200, 200, stderr=0.0, ci_low=0.0, ci_high=0.02, is_share=True)
        return evidence([], model, metric="unparseable_share", higher_is_better=False, n_asked=200, number=told)

    none, some = unparseable(0, NEW), unparseable(30, NEW)
    ceiling = gate({"gsm8k": {"max_value": 0.05}})
    assert judged(ceiling, gsm8k=(none, NOTHING)).decision == "GO"
    assert judged(ceiling, gsm8k=(some, NOTHING)).decision == "NO-GO"
    assert judged(gate({"gsm8k": {"max_drop": 0.05}}), gsm8k=(none, unparseable(0, OLD))).decision == "GO"
    assert judged(gate({"gsm8k": {"max_drop": 0.01}}), gsm8k=(some, unparseable(0, OLD))).decision == "NO-GO"
    short = replace(none, n_asked=400)
    assert "only 200 of 400 questions were graded" in judged(ceiling, gsm8k=(short, NOTHING)).benchmarks[0].reasons[0]


def test_a_number_that_is_the_mean_of_its_verdicts_is_paired() -> None:
    new, old = pair(5_000, 100, 100)
    told = [
        replace(one, number=Number(sum(one.verdicts.values()) / 5_000 * (1 + 1e-12), 5_000, stderr=0.4))
        for one in (new, old)
    ]
    assert judged(gate(), gsm8k=(told[0], told[1])) == judged(gate(), gsm8k=(new, old))


def test_a_number_that_only_by_chance_is_the_mean_of_its_verdicts_is_not_paired_with_one_that_is_not() -> None:
    new, old = f1(np.ones(400), 1.0), f1(np.arange(400) < 272, 0.80, OLD)
    assert "not paired" in judged(gate(), gsm8k=(new, old)).benchmarks[0].reasons[0]


@pytest.mark.parametrize("by_size", [True, False])
def test_an_average_of_groups_is_paired_where_it_weighs_questions_alike(by_size: bool) -> None:
    group = Group("g", (Aggregate("acc", None, by_size),))
    raw = {"a": [1.0] * 7 + [0.0] * 30, "b": [1.0] * 90 + [0.0] * 11}
    graded = {name: {("acc", "none"): Verdicts(raw=list(one), n_asked=len(one))} for name, one in raw.items()}
    subtasks = [Subtask(name, None, [], groups=(group,)) for name in raw]
    [whole] = [one for one in metrics_of(subtasks, graded, ("acc", "none")) if one.subtask == ""]
    assert whole.value is not None
    told = Number(whole.value, whole.n, whole.stderr, whole.ci_low, whole.ci_high)
    assert evidence([*raw["a"], *raw["b"]], number=told).is_mean == by_size
