"""What a gate says, and why: by hand on small worlds. How often it errs is in test_gate_rates."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from eval_pipelines.scoring import gate_claims
from eval_pipelines.scoring.gate_records import JUDGING_VERSION, Claim, Evidence, Lacking, Number

from .gate_worlds import NEW, OLD, evidence, gate, judged, pair

pytestmark = pytest.mark.unit

# version of the rules → what they say of the worlds below: decision, difference, p_breach, p_within
SAID = {
    2: [
        ("NO-GO", -0.08, 0.0, 1.0),
        ("INCONCLUSIVE", -0.0667, 0.7595, 0.2752),
        ("INCONCLUSIVE", -0.0667, 0.6724, 0.3276),
        ("GO", 0.0, 0.9615, 0.039),
        ("GO", 0.2, 0.9998, 0.0002),
        ("INCONCLUSIVE", -0.0667, 0.7766, 0.2598),
        ("INCONCLUSIVE", -0.0667, 1.0, 0.3437),
        ("INCONCLUSIVE", None, None, None),
    ],
}


def test_rules_that_say_something_else_have_a_higher_version() -> None:
    """If this fails: raise JUDGING_VERSION, so that recorded verdicts are judged again, and write down what is said now."""
    spread = np.linspace(0, 1, 60) ** 2
    groups = {f"q/{i:05}": f"passage {i // 4}" for i in range(60)}
    few = pair(60, 6, 2)
    rates = [
        evidence(1 + shift + spread, model, number=Number(1.3 + shift, 60, 0.05))
        for model, shift in ((NEW, 0.2), (OLD, 0.0))
    ]
    worlds: list[tuple[dict[str, float], Sequence[Evidence]]] = [
        ({"max_drop": 0.02}, pair(1_000, 100, 20)),
        ({"max_drop": 0.1}, few),
        ({"max_drop": 0.1}, [replace(one, clusters=groups) for one in few]),
        ({"max_drop": 0.1}, (evidence(spread, NEW), evidence(np.roll(spread, 9), OLD))),
        ({"max_drop": 0.05}, rates),
        ({"max_relative_drop": 0.2}, few),
        ({"min_value": 0.4, "max_value": 0.6}, few),
        ({"max_drop": 0.1, "min_coverage": 0.99}, [replace(one, n_asked=70) for one in few]),
    ]
    said = []
    for limits, (new, old) in worlds:
        verdict = judged(gate({"gsm8k": limits}), gsm8k=(new, old))
        [one] = verdict.benchmarks
        numbers = (one.difference, one.p_breach, one.p_within)
        said.append((verdict.decision, *(None if found is None else round(found, 4) for found in numbers)))
    assert said == SAID[JUDGING_VERSION]


def test_a_drop_shown_to_stay_within_the_limit_is_go() -> None:
    found = judged(gate(), gsm8k=pair(5_000, 100, 100))
    assert (found.decision, found.reasons) == ("GO", ("every limit is kept: gsm8k (critical)",))
    [one] = found.benchmarks
    assert (one.status, one.n, one.baseline, one.difference) == ("within", 5_000, OLD, 0.0)
    assert one.ci_low is not None
    assert -0.02 < one.ci_low < 0


def test_a_drop_shown_to_be_larger_is_no_go() -> None:
    found = judged(gate(), gsm8k=pair(1_000, 100, 20))
    assert (found.decision, found.reasons) == ("NO-GO", ("a limit is broken: gsm8k (critical)",))
    assert found.benchmarks[0].reasons[0].startswith("broken: -0.0800 (")
    assert "max_drop 0.02 down" in found.benchmarks[0].reasons[0]


def test_few_questions_show_neither_and_it_is_told_how_many_would() -> None:
    found = judged(gate(), gsm8k=pair(100, 5, 5))
    assert found.decision == "INCONCLUSIVE"
    [reason] = found.benchmarks[0].reasons
    assert reason.startswith("not settled: +0.0000 (-0.0559 to +0.0559) on 100 questions")
    assert "about 1,783" in reason
    assert reason.endswith("questions would show it (80 % power); there are 100")
    assert found.benchmarks[0].min_detectable == pytest.approx(0.0844, abs=0.001)


def test_a_drop_is_a_rise_where_lower_is_better() -> None:
    new, old = pair(1_000, 20, 100)
    lower = (replace(new, higher_is_better=False), replace(old, higher_is_better=False))
    assert judged(gate(), gsm8k=lower).decision == "NO-GO"
    assert judged(gate({"gsm8k": {"max_drop": 0.02, "direction": "higher_is_better"}}), gsm8k=lower).decision == "GO"
    assert (
        judged(gate({"gsm8k": {"max_drop": 0.02, "direction": "lower_is_better"}}), gsm8k=(new, old)).decision
        == "NO-GO"
    )


@pytest.mark.parametrize(
    ("tier", "lost", "decision", "words"),
    [
        ("critical", 100, "NO-GO", "a limit is broken: gsm8k (critical)"),
        ("supporting", 100, "NO-GO", "a limit is broken: gsm8k (supporting)"),
        ("advisory", 100, "GO", "only told, not counted: gsm8k (advisory)"),
        ("critical", 40, "INCONCLUSIVE", "not shown either way: gsm8k (critical)"),
        ("supporting", 40, "GO", "open, and not counted: gsm8k (supporting)"),
        ("advisory", 40, "GO", "open, and not counted: gsm8k (advisory)"),
    ],
)
def test_what_a_benchmark_counts_for_is_its_tiers(tier: str, lost: int, decision: str, words: str) -> None:
    policy = gate({"arc": {"max_drop": 0.05}, "gsm8k": {"max_drop": 0.02, "tier": tier}})
    found = judged(policy, arc=pair(3_000, 10, 10, benchmark="arc"), gsm8k=pair(1_000, lost, 20))
    assert found.decision == decision
    assert words in found.reasons


def test_a_share_of_the_baseline_may_be_lost_where_the_baseline_is_low() -> None:
    policy = gate({"gsm8k": {"max_drop": 0.05, "max_relative_drop": 0.1, "relative_guard_below": 0.3}})
    low = judged(policy, gsm8k=pair(20_000, 600, 200, right=0.1))  # 0.10 to 0.08: a fifth is lost
    assert low.decision == "NO-GO"
    assert low.benchmarks[0].reasons == (
        "broken: -20.0% of the baseline's 0.1000 on 20,000 questions, max_relative_drop 0.1",
    )
    high = judged(policy, gsm8k=pair(20_000, 600, 200, right=0.5))
    assert high.decision == "GO"
    assert any("is not below relative_guard_below 0.3" in reason for reason in high.benchmarks[0].reasons)


def test_a_share_of_the_baseline_counts_upwards_where_lower_is_better() -> None:
    random = np.random.default_rng(1)
    old = random.gamma(4, 1, 2_000)
    policy = gate({"gsm8k": {"max_relative_drop": 0.05}})
    for factor, decision in ((1.01, "GO"), (1.1, "NO-GO")):
        new = old * factor * random.normal(1, 0.1, 2_000)
        pairs = evidence(new, NEW, higher_is_better=False), evidence(old, OLD, higher_is_better=False)
        assert judged(policy, gsm8k=pairs).decision == decision


def test_nothing_can_be_lost_of_nothing() -> None:
    policy = gate({"gsm8k": {"max_relative_drop": 0.1}})
    for now in (0.0, 1.0):
        found = judged(policy, gsm8k=(evidence(np.full(100, now), NEW), evidence(np.zeros(100), OLD)))
        assert found.decision == "GO"
        assert "value is 0 on 100 questions, of which no share can be lost" in found.benchmarks[0].reasons[0]


def test_no_rise_at_all_is_a_share_of_nothing_where_lower_is_better() -> None:
    policy = gate({"gsm8k": {"max_relative_drop": 0.1, "direction": "lower_is_better"}})
    old = evidence(np.zeros(100), OLD)
    assert judged(policy, gsm8k=(evidence(np.ones(100), NEW), old)).decision == "NO-GO"
    level = judged(policy, gsm8k=(evidence(np.zeros(100), NEW), old))
    assert (level.decision, level.benchmarks[0].reasons[0]) == (
        "INCONCLUSIVE",
        "not settled: 0.0000 on 100 questions, and a share of the baseline's 0 is 0, max_relative_drop 0.1; "
        "set max_drop or max_value",
    )


@pytest.mark.parametrize(("now", "decision"), [(-1.05, "GO"), (-1.2, "NO-GO"), (-0.5, "GO")])
def test_a_share_of_a_negative_value_is_of_its_size(now: float, decision: str) -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, 200)
    pairs = evidence(now + noise, NEW), evidence(-1.0 + noise[::-1], OLD)
    assert judged(gate({"gsm8k": {"max_relative_drop": 0.1}}), gsm8k=pairs).decision == decision


def test_more_than_all_of_it_may_be_gained_where_lower_is_better() -> None:
    new, old = pair(1_000, 100, 0, right=0.3)  # 0.3 to 0.2: as errors, 0.2 to 0.3
    pairs = replace(old, model_key=NEW), replace(new, model_key=OLD)
    lower = {"direction": "lower_is_better"}
    assert judged(gate({"gsm8k": {"max_relative_drop": 1.5, **lower}}), gsm8k=pairs).decision == "GO"
    assert judged(gate({"gsm8k": {"max_relative_drop": 0.2, **lower}}), gsm8k=pairs).decision == "NO-GO"


@pytest.mark.parametrize(
    ("limits", "n_right", "decision"),
    [
        ({"min_value": 0.5}, 60, "GO"), ({"min_value": 0.5}, 55, "INCONCLUSIVE"), ({"min_value": 0.5}, 40, "NO-GO"),
        ({"max_value": 0.5}, 40, "GO"), ({"max_value": 0.5}, 60, "NO-GO"),
        ({"min_value": 1.0}, 99, "NO-GO"),
    ],
)  # fmt: skip
def test_a_floor_and_a_ceiling_need_no_baseline(limits: dict[str, float], n_right: int, decision: str) -> None:
    of_model = evidence(np.arange(100) < n_right)
    found = judged(gate({"gsm8k": limits}), gsm8k=(of_model, Lacking("there is no earlier checkpoint")))
    assert (found.decision, found.benchmarks[0].baseline) == (decision, None)


def test_what_is_no_number_shows_neither_that_a_limit_is_kept_nor_that_it_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = gate({"gsm8k": {"max_value": 20.0, "max_drop": 0.02}})
    claims = [Claim("max_value 20", np.nan, np.nan, "nan")]
    monkeypatch.setattr(gate_claims, "claims_alone", lambda *_: iter(claims))
    found = judged(policy, gsm8k=pair(5_000, 100, 100))
    assert (found.decision, found.benchmarks[0].status) == ("INCONCLUSIVE", "inconclusive")
    # nor does it hide what another limit shows
    assert judged(policy, gsm8k=pair(1_000, 100, 20)).decision == "NO-GO"


@pytest.mark.parametrize("required", [True, False])
def test_a_benchmark_that_was_not_asked_stands_in_the_way_if_it_is_required(required: bool) -> None:
    policy = gate({"gsm8k": {"max_drop": 0.02}, "mmlu": {"max_drop": 0.02, "required": required}})
    missing = Lacking("smol@step-200 was not asked mmlu: materialize responses/mmlu and scores/mmlu for it")
    found = judged(policy, gsm8k=pair(5_000, 100, 100), mmlu=(missing, evidence([1] * 50, OLD, "mmlu")))
    assert found.decision == ("INCONCLUSIVE" if required else "GO")
    assert found.benchmarks[1].status == "lacking"
    assert found.benchmarks[1].reasons == (missing.reason,)
    words = "no comparable evaluation" if required else "without a comparable evaluation, and not required"
    assert f"{words}: mmlu (critical)" in found.reasons


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"versions": {"asked as": "1.0-aa", "graded as": "2-cc"}}, "graded as 1-bb and smol@step-200 2-cc"),
        ({"versions": {"asked as": "1.0-aa", "graded as": "1-bb", "judged by": "j@1"}}, "judged by unknown"),
        ({"filter": "strict"}, "by exact_match,none and smol@step-200 by exact_match,strict"),
    ],
)
def test_evaluations_that_differ_in_a_version_are_never_compared(change: dict[str, object], words: str) -> None:
    new, old = pair(5_000, 2_000, 0)
    found = judged(gate(), gsm8k=(replace(new, **change), old))
    assert found.decision == "INCONCLUSIVE"
    [reason] = found.benchmarks[0].reasons
    assert reason.startswith("not comparable: smol@step-100 was ")
    assert words in reason
    assert "Materialize responses/gsm8k and scores/gsm8k" in reason


def test_what_was_not_answered_may_hide_anything() -> None:
    new, old = pair(1_000, 0, 0)
    found = judged(gate(), gsm8k=(replace(new, n_asked=1_100), old))
    assert found.decision == "INCONCLUSIVE"
    assert "only 1,000 of 1,100 questions were graded, and min_coverage is 0.95" in found.benchmarks[0].reasons[0]
    assert (
        judged(
            gate({"gsm8k": {"max_drop": 0.02, "min_coverage": 0.9}}), gsm8k=(replace(new, n_asked=1_100), old)
        ).decision
        == "GO"
    )


def test_too_few_questions_in_common_show_nothing() -> None:
    found = judged(gate(), gsm8k=pair(19, 15, 0, right=1))
    assert (found.decision, found.benchmarks[0].reasons) == (
        "INCONCLUSIVE", ("only 19 questions both were graded on, and min_questions is 20",),
    )  # fmt: skip


def test_questions_on_one_passage_are_not_so_many_observations() -> None:
    new, old = pair(2_000, 100, 20)
    groups = {key: f"passage {int(key[2:]) // 100}" for key in new.verdicts}
    assert judged(gate(), gsm8k=(new, old)).decision == "NO-GO"
    grouped = judged(gate(), gsm8k=(replace(new, clusters=groups), old))
    assert grouped.decision == "INCONCLUSIVE"
    one = dict.fromkeys(new.verdicts, "the only passage")
    assert (
        "all questions belong to one group"
        in judged(gate(), gsm8k=(replace(new, clusters=one), old)).benchmarks[0].reasons[0]
    )


def test_among_many_benchmarks_one_has_to_fall_further_to_be_no_go() -> None:
    names = [f"b{i}" for i in range(20)]
    pairs = {name: pair(2_000, 60, 60, benchmark=name) for name in names} | {"b0": pair(2_000, 120, 60, benchmark="b0")}
    limits = {name: {"max_drop": 0.015} for name in names}
    assert [judged(gate(limits, correction=one), **pairs).decision for one in ("none", "holm")] == [
        "NO-GO",
        "INCONCLUSIVE",
    ]


def test_a_gate_that_judged_nothing_is_no_go_ahead() -> None:
    policy = gate({"gsm8k": {"max_drop": 0.02, "tier": "supporting"}})
    found = judged(policy, gsm8k=(Lacking("not asked"), Lacking("not asked")))
    assert (found.decision, found.reasons[0]) == ("INCONCLUSIVE", "nothing was judged")


def test_no_drop_at_all_is_kept_by_an_improvement_only() -> None:
    policy = gate({"gsm8k": {"max_drop": 0}})
    assert judged(policy, gsm8k=pair(1_000, 10, 60)).decision == "GO"
    assert judged(policy, gsm8k=pair(1_000, 60, 10)).decision == "NO-GO"
    level = judged(policy, gsm8k=pair(1_000, 10, 10))
    assert (level.decision, "only an improvement can be shown" in level.benchmarks[0].reasons[0]) == (
        "INCONCLUSIVE",
        True,
    )
