"""Group averages are lm-eval's own, from the same verdicts."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_pipelines.benchmarks.catalog import Aggregate, Group
from eval_pipelines.benchmarks.grading import Subtask
from eval_pipelines.benchmarks.groups import metrics_of
from eval_pipelines.records import Metric
from eval_pipelines.scoring.aggregate import Verdicts

ACC = ("acc", "none")


def subtask(name: str, *groups: Group) -> Subtask:
    return Subtask(name, None, [], groups=groups)


def graded(raw: dict[str, list[float]], n_lost: int = 0) -> dict[str, dict[tuple[str, str], Verdicts]]:
    return {name: {ACC: Verdicts(raw=list(values), n_asked=len(values) + n_lost)} for name, values in raw.items()}


def lm_eval_says(raw: dict[str, list[float]], *, weight_by_size: bool) -> dict[str, Any]:
    from lm_eval.api.group import Group as TheirGroup
    from lm_eval.api.metrics import mean
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.config.group import AggMetricConfig
    from lm_eval.evaluator_utils import _compute_task_aggregations

    class Named(ConfigurableTask):
        def __init__(self, name: str) -> None:
            self._config = SimpleNamespace(task=name)

        def aggregation(self) -> dict[str, Any]:
            return {"acc": mean}

    group = TheirGroup("g", aggregate_metric_list=[AggMetricConfig("acc", weight_by_size=weight_by_size)])
    found = {}
    for name, values in raw.items():
        group.add(Named(name))
        metrics, n = _compute_task_aggregations(Named(name), {ACC: list(values)})
        found[name] = {**metrics, "sample_len": n}
    told: dict[str, Any] = dict(group.aggregate(found))
    return told


values = st.lists(st.sampled_from([0.0, 1.0, 0.25]), min_size=2, max_size=12)


@given(raw=st.dictionaries(st.sampled_from("abcde"), values, min_size=2), weight_by_size=st.booleans())
def test_value_and_error_of_a_group_are_those_of_the_reference(raw, weight_by_size) -> None:
    group = Group("g", (Aggregate("acc", None, weight_by_size),))
    whole = metrics_of([subtask(name, group) for name in raw], graded(raw), ACC)[-1]
    theirs = lm_eval_says(raw, weight_by_size=weight_by_size)
    assert whole.value == pytest.approx(theirs["acc,none"])
    assert whole.stderr == pytest.approx(float(theirs["acc_stderr,none"]), abs=1e-12)
    assert (whole.subtask, whole.is_headline, whole.n) == ("", True, theirs["sample_len"])
    assert whole.value is not None
    assert whole.ci_low is not None
    assert whole.ci_high is not None
    assert whole.bound_low is not None
    assert whole.bound_high is not None
    assert whole.ci_low - 1e-9 <= whole.value <= whole.ci_high + 1e-9
    assert whole.bound_low == pytest.approx(whole.value)
    assert whole.bound_high == pytest.approx(whole.value)


def by_name(metrics: list[Metric]) -> dict[str, Metric]:
    return {one.subtask: one for one in metrics if one.metric == "acc"}


def test_a_group_in_a_group_has_a_row_of_its_own() -> None:
    averages = (Aggregate("acc", ("none",), True),)
    outer, inner = Group("mmlu", averages), Group("mmlu_stem", averages)
    subtasks = [subtask("a", outer, inner), subtask("b", outer, inner), subtask("c", outer)]
    found = by_name(metrics_of(subtasks, graded({"a": [1, 1], "b": [0, 0, 0, 1], "c": [0, 0]}), ACC))
    assert {name: (one.value, one.n) for name, one in found.items()} == {
        "a": (1.0, 2), "b": (0.25, 4), "c": (0.0, 2), "mmlu_stem": (0.5, 6), "": (0.375, 8),
    }  # fmt: skip
    assert [name for name, one in found.items() if one.is_headline] == [""]


def test_a_macro_average_counts_each_subtask_once_and_says_so_in_its_bounds() -> None:
    group = Group("g", (Aggregate("acc", None, False),))
    raw = {"a": [1.0] * 6, "b": [0.0, 0.0]}
    whole = by_name(metrics_of([subtask(name, group) for name in raw], graded(raw, n_lost=2), ACC))[""]
    assert whole.value == 0.5
    assert (whole.bound_low, whole.bound_high) == ((6 / 8 + 0) / 2, (1 + 2 / 4) / 2)
    assert whole.ci_method == "normal"


def test_a_subtask_of_which_nothing_was_graded_only_widens_the_bounds() -> None:
    group = Group("g", (Aggregate("acc", None, False),))
    found = graded({"a": [1.0, 1.0], "b": []})
    found["b"][ACC].n_asked = 4
    whole = by_name(metrics_of([subtask(name, group) for name in "ab"], found, ACC))[""]
    assert (whole.value, whole.bound_low, whole.bound_high) == (1.0, 0.5, 1.0)


def test_what_is_graded_gives_a_subtask_its_weight_and_not_what_was_answered() -> None:
    group = Group("g", (Aggregate("acc", None, True),))
    found = graded({"a": [1.0], "b": [0.0]}, n_lost=3)
    found["a"]["refused_share", "none"] = Verdicts(raw=[0.0] * 4, n_asked=4)
    whole = by_name(metrics_of([subtask(name, group) for name in "ab"], found, ACC))[""]
    assert (whole.value, whole.n, whole.n_asked) == (0.5, 2, 8)


def test_a_tag_is_taken_over_all_samples_together() -> None:
    found = by_name(metrics_of([subtask("a"), subtask("b")], graded({"a": [1, 1, 1], "b": [0]}), ACC))
    assert (found[""].value, found[""].ci_method) == (0.75, "wilson")


def test_a_metric_that_the_group_does_not_state_is_taken_over_all_samples_together() -> None:
    group = Group("g", (Aggregate("other", None, False),))
    raw = {"a": [1.0, 1.0, 1.0], "b": [0.0]}
    assert by_name(metrics_of([subtask(name, group) for name in raw], graded(raw), ACC))[""].value == 0.75


def test_questions_that_share_a_passage_across_subtasks_widen_the_error_of_the_whole() -> None:
    group = Group("mgsm", (Aggregate("acc", None, True),))
    found = graded({"en": [1, 1, 0, 0], "de": [1, 1, 0, 0]})
    for one in found.values():
        one[ACC].clusters = ["0", "1", "2", "3"]
    whole = by_name(metrics_of([subtask(name, group) for name in found], found, ACC))[""]
    alone = by_name(metrics_of([subtask("x", group)], graded({"x": [1, 1, 0, 0]}), ACC))[""]
    assert (whole.ci_method, whole.n_clusters) == ("clustered", 4)
    assert whole.stderr == pytest.approx(alone.stderr)
