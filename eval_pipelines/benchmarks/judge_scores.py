"""From what judges said to scores and metrics: each judge's own, theirs together, and how far they agree."""

import json
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from eval_pipelines.benchmarks.judged import Answer, Answers, Judging
from eval_pipelines.benchmarks.scorer import TimeUp, cpu_limit
from eval_pipelines.config import JudgeRules
from eval_pipelines.judgements import Judgement
from eval_pipelines.keys import digest
from eval_pipelines.records import Evaluation, Metric, Response, Score
from eval_pipelines.scoring import agreement
from eval_pipelines.scoring.aggregate import Verdicts, metric_of
from eval_pipelines.scoring.verdicts import (
    UNPARSEABLE,
    NoVerdict,
    Said,
    Verdict,
    combined,
    of_both_orders,
    read_verdict,
)

# bumped when verdicts are made otherwise of the same answers
_VERSION = 1
_SAME = Verdict("tie", 0.5, "the same answer")
# of processor time: a regular expression that backtracks does not end
_MOST_READING_S = 1.0


@dataclass(frozen=True, slots=True)
class Judge:
    """One judge and what it was answered.

    Attributes:
        evaluation: in which it was asked.
        responses: by request digest, read through what stands around its requests.
        seen_through: that, as plain JSON.
    """

    evaluation: Evaluation
    judging: Judging
    responses: Mapping[str, Response]
    seen_through: Sequence[object] = ()

    @property
    def key(self) -> str:
        """Its model key."""
        return self.evaluation.model_key


@dataclass(frozen=True, slots=True)
class Graded:
    """What became of one model's answers.

    Attributes:
        judgements: Every single answer of every judge.
        judged_by: JSON of the judges' versions, and of the baseline's; None without judges.
    """

    scores: list[Score]
    metrics: list[Metric]
    judgements: list[Judgement] = field(default_factory=list)
    judged_by: str | None = None

    def beside(self, scores: list[Score], metrics: list[Metric]) -> "Graded":
        """With what the task itself makes of the answers. There is one headline: the judges', if theirs is one."""
        if any(one.is_headline for one in self.metrics):
            metrics = [one.model_copy(update={"is_headline": False}) for one in metrics]
        return replace(self, scores=[*scores, *self.scores], metrics=[*metrics, *self.metrics])


@dataclass(slots=True)
class _Panel:
    """What the judges say, answer by answer: each one's verdict in the order of the judges."""

    rules: JudgeRules
    judges: Sequence[Judge]
    said: list[tuple[Answer, list[Said]]] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    # by sample: whether both orders gave the same verdict, for each pair that has two
    is_consistent: dict[str, list[bool]] = field(default_factory=dict)


def grade_judged(judges: Sequence[Judge], headline: tuple[str, str]) -> Graded:
    """Scores and metrics of one model's answers. Pure: the same responses give the same numbers.

    Each judge's own numbers have its key as `filter`; those of all together, `none`. A sample that has no verdict
    is ungraded, with the reason: the judged model's failure, or `judge_…`.

    Args:
        headline: metric and filter that people quote.
    """
    rules, answers = judges[0].judging.rules, judges[0].judging.answers
    panel = _Panel(rules, judges)
    for answer in answers.given:
        panel.said.append((answer, [_verdict_of(panel, judge, answer) for judge in judges]))
    name = rules.metric
    columns: list[tuple[str, list[Said]]] = [("none", [combined(said, rules) for _, said in panel.said])]
    if len(judges) > 1:
        columns += [(judge.key, [said[i] for _, said in panel.said]) for i, judge in enumerate(judges)]
    scores: list[Score] = []
    metrics: list[Metric] = []
    for filter_name, verdicts in columns:
        own = list(_scores(name, filter_name, answers, verdicts, panel))
        scores += own
        metrics += _metrics(name, filter_name, answers, own, is_headline=(name, filter_name) == headline)
    return Graded(scores, [*metrics, *_agreement(panel), *_reliability(panel)], panel.judgements, judged_by(judges))


def judged_by(judges: Sequence[Judge]) -> str:
    """Who judged, as JSON: numbers of different judges are not comparable."""
    versions = [{"model": one.key, "fingerprint": one.evaluation.fingerprint} for one in judges]
    told: dict[str, object] = {"judges": versions}
    if (baseline := judges[0].judging.baseline) is not None:
        told["baseline"] = {"model": baseline.model_key, "fingerprint": baseline.fingerprint}
    return json.dumps(told)


def judged_version(of_own_metrics: str, judges: Sequence[Judge]) -> str:
    """Score version of a benchmark with judges: changes with each of them, and with what is made of their answers.

    Args:
        of_own_metrics: the score version without judges, which begins with the author's.
    """
    rules = judges[0].judging.rules
    around = [list(one.seen_through) for one in judges]
    parts = [_VERSION, of_own_metrics, rules.asked, rules.graded, judged_by(judges), around]
    return f"{of_own_metrics.partition('-')[0]}-{digest(parts, n_bytes=6)}"


def _verdict_of(panel: _Panel, judge: Judge, answer: Answer) -> Said:
    """What one judge says of one answer, all its orders and repeats together; each is noted by itself."""
    if answer.is_same:
        return _SAME
    judging, rules = judge.judging, panel.rules
    asked = {order: judging.requests_for(answer, is_swapped=order) for order in judging.orders}
    said: dict[tuple[int, bool], Said] = {}
    for repeat, order in product(range(rules.repeats), judging.orders):
        request_digest = asked[order][repeat].digest
        response = judge.responses.get(request_digest)
        said[repeat, order] = one = _said(response, rules, is_swapped=order)
        panel.judgements.append(
            _judgement(
                judge, answer, one, response, repeat, order if rules.kind == "pairwise" else None, request_digest
            )
        )
    repeats: list[Said] = []
    for repeat in range(rules.repeats):
        pair = [said[repeat, order] for order in judging.orders]
        repeats.append(of_both_orders(pair) if rules.swap else pair[0])
        labels = [one.label for one in pair if isinstance(one, Verdict)]
        if len(labels) == 2:
            panel.is_consistent.setdefault(answer.sample.sample_id, []).append(labels[0] == labels[1])
    return combined(repeats, rules)


def _said(response: Response | None, rules: JudgeRules, *, is_swapped: bool) -> Said:
    if response is None:
        return NoVerdict("judge_not_asked")
    if response.failure is not None:
        return NoVerdict(f"judge_{response.failure.kind.value}", response.failure.message)
    in_main = threading.current_thread() is threading.main_thread()
    try:
        with cpu_limit(_MOST_READING_S if in_main else None):
            return read_verdict(response.text or "", rules, is_swapped=is_swapped)
    except TimeUp:
        return NoVerdict(UNPARSEABLE, f"reading it took more than {_MOST_READING_S:g} s: simplify `extract`")


def _judgement(
    judge: Judge, answer: Answer, said: Said, response: Response | None, repeat: int, order: bool | None, digest_: str
) -> Judgement:
    told: dict[str, Any] = (
        {"verdict": said.label, "value": said.value}
        if isinstance(said, Verdict)
        else {"verdict": None, "value": None, "no_verdict_reason": said.reason, "no_verdict_why": said.why or None}
    )
    return Judgement(
        sample_id=answer.sample.sample_id,
        subtask=answer.sample.subtask,
        answer_repeat=answer.repeat,
        judge=judge.key,
        judge_fingerprint=judge.evaluation.fingerprint,
        judge_evaluation_id=judge.evaluation.evaluation_id,
        is_swapped=order,
        repeat=repeat,
        request_digest=digest_,
        text=response.text if response is not None else None,
        **told,
    )


def _scores(name: str, filter_name: str, answers: Answers, verdicts: Sequence[Said], panel: _Panel) -> Iterator[Score]:
    """One per sample: the mean over the model's answers to it, if each has a verdict."""
    by_sample: dict[str, list[Said]] = {}
    raw_of: dict[str, list[str]] = {}
    for (answer, said), verdict in zip(panel.said, verdicts, strict=True):
        by_sample.setdefault(answer.sample.sample_id, []).append(verdict)
        if filter_name == "none" and len(panel.judges) > 1:
            raw_of.setdefault(answer.sample.sample_id, []).append(_by_judge(panel.judges, said))
        elif isinstance(verdict, Verdict):
            raw_of.setdefault(answer.sample.sample_id, []).append(verdict.raw)
    for sample in answers.samples:
        found = by_sample.get(sample.sample_id, [])
        lacking = next((one for one in found if isinstance(one, NoVerdict)), None)
        values = [one.value for one in found if isinstance(one, Verdict)]
        reason = answers.unjudged.get(sample.sample_id) or (lacking.reason if lacking else None)
        pairs = panel.is_consistent.get(sample.sample_id, [])
        yield Score(
            sample_id=sample.sample_id,
            subtask=sample.subtask,
            metric=name,
            filter=filter_name,
            value=None if reason else math.fsum(values) / len(values),
            ungraded_reason=reason,
            extracted=" | ".join(raw_of.get(sample.sample_id, []))[:2000] or None,
            note=f"position_inconsistent: {pairs.count(False)} of {len(pairs)}" if False in pairs else None,
        )


def _by_judge(judges: Sequence[Judge], said: Sequence[Said]) -> str:
    words = (one.raw if isinstance(one, Verdict) else one.reason for one in said)
    return "; ".join(f"{judge.key}: {word}" for judge, word in zip(judges, words, strict=True))


def _metrics(
    name: str, filter_name: str, answers: Answers, scores: Sequence[Score], *, is_headline: bool
) -> Iterator[Metric]:
    clusters = {sample.sample_id: sample.cluster for sample in answers.samples}
    subtasks = dict.fromkeys(score.subtask for score in scores)
    whole: list[tuple[str, Sequence[Score]]] = [("", scores)]
    if len(subtasks) > 1:
        whole = [(one, [score for score in scores if score.subtask == one]) for one in subtasks] + whole
    for subtask, of in whole:
        verdicts = Verdicts(n_asked=len(of))
        for one in of:
            if one.value is not None:
                verdicts.add(one.value, clusters[one.sample_id])
        yield metric_of(verdicts, subtask, name, filter_name, is_headline=is_headline and not subtask)


def _agreement(panel: _Panel) -> Iterator[Metric]:
    """How far the judges agree, over the answers that two of them or more gave a verdict on."""
    if len(panel.judges) < 2:
        return
    are_numbers = panel.rules.scale is not None
    asked = [said for answer, said in panel.said if not answer.is_same]
    units = [
        [None if isinstance(one, NoVerdict) else one.value if are_numbers else one.label for one in said]
        for said in asked
    ]
    shares = agreement.shares_of_agreeing_pairs(units)
    yield metric_of(Verdicts(raw=list(shares), n_asked=len(units)), "", "judge_agreement", "none", is_headline=False)
    counted: dict[str, Any] = {"subtask": "", "filter": "none", "n": len(shares), "n_asked": len(units)}
    interval = agreement.alpha_interval(units, are_numbers=are_numbers)
    value = agreement.krippendorffs_alpha(units, are_numbers=are_numbers)
    yield _with_interval("judge_alpha", value, interval, counted)
    if not are_numbers:
        of_two = len(panel.judges) == 2
        kappa = agreement.cohens_kappa(units) if of_two else agreement.fleiss_kappa(units)
        counted["n"] = sum(None not in unit for unit in units)
        yield _with_interval("judge_kappa", kappa, agreement.kappa_interval(units), counted)


def _with_interval(
    name: str, value: float | None, interval: tuple[float, float] | None, counted: dict[str, Any]
) -> Metric:
    if value is None or interval is None:
        return Metric(metric=name, value=value, **counted)
    return Metric(metric=name, value=value, ci_low=interval[0], ci_high=interval[1], ci_method="bootstrap", **counted)


def _reliability(panel: _Panel) -> Iterator[Metric]:
    """How often both orders give the same verdict, and how often a judge's answer holds none; means over samples."""
    samples = {answer.sample.sample_id for answer, _ in panel.said if not answer.is_same}
    if panel.rules.swap:
        yield _mean_over(samples, panel.is_consistent, "position_consistency")
    unparseable: dict[str, list[bool]] = {}
    for one in panel.judgements:
        if one.text is not None:
            unparseable.setdefault(one.sample_id, []).append(one.verdict is None)
    yield _mean_over(samples, unparseable, "judge_unparseable", higher_is_better=False)


def _mean_over(
    samples: Iterable[str], found: Mapping[str, Sequence[bool]], name: str, *, higher_is_better: bool = True
) -> Metric:
    shares = [sum(one) / len(one) for one in found.values()]
    verdicts = Verdicts(higher_is_better=higher_is_better, raw=list(shares), n_asked=len({*samples}))
    return metric_of(verdicts, "", name, "none", is_headline=False)
