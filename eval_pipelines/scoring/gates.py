"""A gate's verdict on a model, from evaluations and a policy. Pure.

Two ways to be wrong, both at the policy's significance:

GO though a critical benchmark broke a limit   each limit of each critical benchmark must be shown to be kept, at the
                                               level of one test: an intersection-union test needs no correction
NO-GO though every limit is kept               one limit shown to be broken is enough, so the p-values of all limits of
                                               critical and supporting benchmarks are corrected for their number

Source  Berger (1982) for intersection-union tests; see `multiplicity`
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from eval_pipelines.config import BenchmarkPolicy, Gate
from eval_pipelines.scoring import gate_claims, power
from eval_pipelines.scoring.gate_comparisons import compared, n_shared, single
from eval_pipelines.scoring.gate_records import (
    BenchmarkVerdict,
    Claim,
    Decision,
    Evidence,
    GateVerdict,
    Lacking,
    Status,
)
from eval_pipelines.scoring.multiplicity import CORRECTIONS

Found = Evidence | Lacking


@dataclass(slots=True)
class _Tested:
    """One benchmark before its p-values are corrected."""

    verdict: BenchmarkVerdict
    claims: list[Claim]


def judge(
    name: str, gate: Gate, model_key: str, of_model: Mapping[str, Found], of_baseline: Mapping[str, Found]
) -> GateVerdict:
    """What the gate `name` says of a model.

    Args:
        of_model: Benchmark → the model's newest evaluation, or why there is none; every benchmark of the gate.
        of_baseline: Benchmark → the baseline's; each benchmark may have another.
    """
    tested = [_test(one, gate, of_model[one], of_baseline[one]) for one in gate.benchmarks]
    counted = [(i, j) for i, one in enumerate(tested) if _counts(one) for j, _ in enumerate(one.claims)]
    corrected = CORRECTIONS[gate.correction]([tested[i].claims[j].p_breach for i, j in counted])
    p_breach = dict(zip(counted, corrected, strict=True))
    verdicts = tuple(
        _decide_one(
            one, [p_breach.get((i, j), claim.p_breach) for j, claim in enumerate(one.claims)], gate.significance
        )
        for i, one in enumerate(tested)
    )
    decision, reasons = _decide(verdicts)
    return GateVerdict(name, model_key, decision, reasons, verdicts)


def _counts(tested: _Tested) -> bool:
    return tested.verdict.policy.tier != "advisory"


def _test(benchmark: str, gate: Gate, of_model: Found, of_baseline: Found) -> _Tested:
    policy = gate.policy(benchmark)
    problem = _problem(gate, policy, of_model, of_baseline)
    if isinstance(of_model, Lacking) or problem:
        return _Tested(BenchmarkVerdict(benchmark, policy, "lacking", (problem,), baseline=_key(of_baseline)), [])
    own = single(of_model)
    head = BenchmarkVerdict(
        benchmark,
        policy,
        "inconclusive",
        (),
        metric=of_model.metric,
        filter=of_model.filter,
        n=own.n,
        value=own.value,
    )
    claims = _numbered(gate_claims.claims_alone(policy, own))
    # an advisory benchmark without limits is still compared, for whoever reads it
    if isinstance(of_baseline, Lacking) or _problem(gate, policy, of_model, of_baseline, is_compared=True):
        return _Tested(head, claims)
    return _against(head, claims, gate, of_model, of_baseline)


def _against(
    head: BenchmarkVerdict, claims: list[Claim], gate: Gate, of_model: Evidence, of_baseline: Evidence
) -> _Tested:
    direction = head.policy.direction
    higher = of_model.higher_is_better if direction is None else direction == "higher_is_better"
    both = compared(of_model, of_baseline, higher_is_better=higher)
    found = both.contrast(1.0)
    low, high = found.interval(1 - 2 * gate.significance) if found else (None, None)
    verdict = replace(
        head,
        baseline=of_baseline.model_key,
        n=both.n,
        value=both.value,
        baseline_value=both.base,
        difference=found.value if found else None,
        ci_low=low,
        ci_high=high,
        min_detectable=power.min_detectable(found.stderr, alpha=2 * gate.significance) if found else None,
    )
    return _Tested(verdict, [*_numbered(gate_claims.claims_against(head.policy, both, gate.significance)), *claims])


def _numbered(claims: Iterable[Claim]) -> list[Claim]:
    """The claims; what is no number shows nothing, neither that a limit is kept nor that it is broken."""

    def known(p: float) -> float:
        return 1.0 if math.isnan(p) else p

    return [replace(one, p_breach=known(one.p_breach), p_within=known(one.p_within)) for one in claims]


def _problem(
    gate: Gate, policy: BenchmarkPolicy, of_model: Found, of_baseline: Found, *, is_compared: bool = False
) -> str:
    """Why the evaluations cannot be judged; empty if they can."""
    needed = [of_model, of_baseline] if is_compared or policy.needs_baseline else [of_model]
    lacking = [one.reason for one in needed if isinstance(one, Lacking)]
    if lacking:
        return "; ".join(lacking)
    evidence = [one for one in needed if isinstance(one, Evidence)]
    for one in evidence:
        if one.coverage < policy.min_coverage:
            return (
                f"{one.model_key}: only {one.n_graded:,} of {one.n_asked:,} questions were graded, and min_coverage "
                f"is {policy.min_coverage:g}. Materialize {_cells(one.benchmark)} for it again"
            )
    if len(evidence) == 2 and (words := _incomparable(evidence[0], evidence[1])):
        return words
    n = n_shared(evidence)
    if n < gate.min_questions:
        whose = "both were graded on" if len(evidence) == 2 else "were graded"
        return f"only {n:,} questions {whose}, and min_questions is {gate.min_questions}"
    return ""


def _incomparable(of_model: Evidence, of_baseline: Evidence) -> str:
    """Why the two do not compare, and what to do about it; empty if they do."""
    a, b = of_model, of_baseline
    differing = [
        f"{what} {b.versions.get(what) or 'unknown'} and {a.model_key} {a.versions.get(what) or 'unknown'}"
        for what in dict.fromkeys([*a.versions, *b.versions])
        if a.versions.get(what) != b.versions.get(what)
    ]
    if (a.metric, a.filter) != (b.metric, b.filter):
        differing.append(f"by {b.metric},{b.filter} and {a.model_key} by {a.metric},{a.filter}")
    if not differing:
        return ""
    return (
        f"not comparable: {b.model_key} was {'; '.join(differing)}. "
        f"Materialize {_cells(a.benchmark)} for the one that is outdated"
    )


def _cells(benchmark: str) -> str:
    return f"responses/{benchmark} and scores/{benchmark}"


def _key(found: Found) -> str | None:
    return found.model_key if isinstance(found, Evidence) else None


def _decide_one(tested: _Tested, p_breach: list[float], alpha: float) -> BenchmarkVerdict:
    """The verdict on one benchmark, once the p-values of its limits are corrected."""
    claims = tested.claims
    if tested.verdict.status == "lacking":
        return tested.verdict
    if not claims:
        return replace(tested.verdict, status="within", reasons=("no limit: told, not judged",))
    broken = [i for i, p in enumerate(p_breach) if p <= alpha]
    unsure = [i for i, claim in enumerate(claims) if claim.p_within > alpha]
    status: Status = "breach" if broken else "inconclusive" if unsure else "within"
    deciding = broken or unsure or list(range(len(claims)))
    word = {"breach": "broken", "inconclusive": "not settled", "within": "kept"}[status]
    reasons = [
        f"{word}: {claims[i].found}" + (f"; {claims[i].open}" if status == "inconclusive" and claims[i].open else "")
        for i in deciding
    ]
    return replace(
        tested.verdict,
        status=status,
        reasons=tuple(reasons),
        p_breach=min(p_breach[i] for i in deciding),
        p_within=max(claims[i].p_within for i in deciding),
    )


def _decide(verdicts: tuple[BenchmarkVerdict, ...]) -> tuple[Decision, tuple[str, ...]]:
    """NO-GO before INCONCLUSIVE before GO; the reasons name benchmarks."""

    def named(*statuses: Status, tiers: tuple[str, ...], only_required: bool = False) -> list[str]:
        return [
            f"{one.benchmark} ({one.policy.tier})"
            for one in verdicts
            if one.status in statuses and one.policy.tier in tiers and (one.policy.required or not only_required)
        ]

    broken = named("breach", tiers=("critical", "supporting"))
    open_ = named("inconclusive", tiers=("critical",))
    lacking = named("lacking", tiers=("critical", "supporting", "advisory"), only_required=True)
    told = [
        *_list("only told, not counted", named("breach", tiers=("advisory",))),
        *_list("open, and not counted", named("inconclusive", tiers=("supporting", "advisory"))),
        *_list("without a comparable evaluation, and not required", [
            f"{one.benchmark} ({one.policy.tier})" for one in verdicts if one.status == "lacking" and not one.policy.required
        ]),
    ]  # fmt: skip
    if broken:
        return "NO-GO", (*_list("a limit is broken", broken), *told)
    if open_ or lacking:
        return "INCONCLUSIVE", (
            *_list("not shown either way", open_),
            *_list("no comparable evaluation", lacking),
            *told,
        )
    kept = named("within", tiers=("critical", "supporting"))
    if not kept and not named("inconclusive", tiers=("supporting",)):
        return "INCONCLUSIVE", ("nothing was judged", *told)
    return "GO", (*(_list("every limit is kept", kept) or ["no limit is shown to be broken"]), *told)


def _list(words: str, names: list[str]) -> list[str]:
    return [f"{words}: {', '.join(names)}"] if names else []
