"""From what a judge wrote to its verdict, and from several verdicts to one.

Source  Zheng et al. (2023), "Judging LLM-as-a-Judge": each pair in both orders, a win only if it is one in both
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eval_pipelines.config import JudgeRules
from eval_pipelines.config.judges import AROUND_A_LINE

WIN, LOSS, TIE = "win", "loss", "tie"
_WORTH = {WIN: 1.0, LOSS: 0.0, TIE: 0.5}
UNPARSEABLE, SPLIT = "judge_unparseable", "judge_split"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of an answer.

    Attributes:
        label: what verdicts are compared by: the label as the rules write it, the number, or win, loss, tie.
        value: from 0 (worst) to 1 (best).
        raw: as the judge wrote it.
    """

    label: str
    value: float
    raw: str


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """Why there is none.

    Attributes:
        reason: `judge_unparseable`, `judge_split`, or `judge_` and the kind of failure.
        why: in words.
    """

    reason: str
    why: str = ""


Said = Verdict | NoVerdict


def read_verdict(text: str, rules: JudgeRules, *, is_swapped: bool = False) -> Said:
    """The verdict a judge's answer holds where the rules say that it stands; nothing is guessed.

    Args:
        is_swapped: the judged answer stood second.
    """
    found = _extracted(text, rules)
    if isinstance(found, NoVerdict):
        return found
    if rules.scale is not None:
        return _number(found, rules.scale.low, rules.scale.high)
    labels = {label.casefold(): label for label in rules.labels or {}}
    label = labels.get(found.casefold())
    if label is None:
        return _unparseable(f"{found[:80]!r} is none of {', '.join(rules.labels or {})}")
    meaning = (rules.labels or {})[label]
    if isinstance(meaning, str):
        side = TIE if meaning == "tie" else WIN if (meaning == "a") != is_swapped else LOSS
        return Verdict(side, _WORTH[side], found)
    return Verdict(label, meaning, found)


def _number(found: str, low: float, high: float) -> Said:
    try:
        number = float(found)
    except ValueError:
        return _unparseable(f"{found[:80]!r} is no number")
    if not low <= number <= high:
        return _unparseable(f"{number:g} is not between {low:g} and {high:g}")
    return Verdict(f"{number:g}", (number - low) / (high - low), found)


def _extracted(text: str, rules: JudgeRules) -> str | NoVerdict:
    place = rules.extract
    if place.regex is not None:
        found = {str(match).strip() for match in re.findall(place.regex, text)}
        if len(found) == 1:
            return found.pop()
        return _unparseable(f"says {' and '.join(sorted(found))[:80]}" if found else "nothing fits the expression")
    if place.json_field is not None:
        value = _last_object(text).get(place.json_field)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return _unparseable(f"no JSON object whose {place.json_field!r} is a text or a number")
        return str(value).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip(AROUND_A_LINE) if lines else _unparseable("the answer is empty")


def _last_object(text: str) -> Mapping[str, object]:
    """The JSON object that ends last; of nested ones the outer."""
    decoder, found, at = json.JSONDecoder(), dict[str, object](), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        if isinstance(value, dict):
            found = value
        at = text.find("{", end)
    return found


def _unparseable(why: str) -> NoVerdict:
    return NoVerdict(UNPARSEABLE, why)


def of_both_orders(said: Sequence[Said]) -> Said:
    """One comparison from its two orders: what both say; a tie if they differ; none if one says nothing."""
    for one in said:
        if isinstance(one, NoVerdict):
            return one
    verdicts = [one for one in said if isinstance(one, Verdict)]
    raw = "/".join(one.raw for one in verdicts)
    if len({one.label for one in verdicts}) == 1:
        return Verdict(verdicts[0].label, verdicts[0].value, raw)
    return Verdict(TIE, _WORTH[TIE], raw)


def combined(said: Sequence[Said], rules: JudgeRules) -> Said:
    """One verdict from several: of a judge's repeats, or of several judges.

    Those that gave one decide only as long as they are more than half of all that were asked.
    A majority is what most of them say; where none leads, a comparison is a tie, and anything else has no verdict.
    """
    verdicts = [one for one in said if isinstance(one, Verdict)]
    if 2 * len(verdicts) <= len(said):
        return _most_common_reason([one for one in said if isinstance(one, NoVerdict)])
    if len(said) == 1:
        return verdicts[0]
    raw = ", ".join(one.raw for one in verdicts)
    if rules.aggregate == "mean":
        value = sum(one.value for one in verdicts) / len(verdicts)
        labels = {one.label for one in verdicts}
        return Verdict(labels.pop() if len(labels) == 1 else f"{value:g}", value, raw)
    votes = Counter(one.label for one in verdicts)
    most = max(votes.values())
    leading = [label for label, n in votes.items() if n == most]
    if len(leading) > 1:
        return Verdict(TIE, _WORTH[TIE], raw) if rules.kind == "pairwise" else NoVerdict(SPLIT, raw)
    return Verdict(leading[0], next(one.value for one in verdicts if one.label == leading[0]), raw)


def _most_common_reason(failed: Iterable[NoVerdict]) -> NoVerdict:
    found = list(failed)
    reasons = Counter(one.reason for one in found)
    reason = max(sorted(reasons), key=reasons.__getitem__)
    return NoVerdict(reason, next((one.why for one in found if one.reason == reason), ""))
