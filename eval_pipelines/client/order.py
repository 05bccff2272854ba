"""The order in which requests are asked: what shares a prompt's beginning together, known-long answers first.

A benchmark yields requests that share a beginning next to each other, so each group is a run of neighbours, and order
within the bulk is free: only who starts near the end can hold it. So groups stay whole, the one with the longest
answer first, and whoever would still hold the end is asked first of all, on its own.

Source  Graham (1969), "Bounds on multiprocessing timing anomalies": longest processing time first
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from eval_pipelines.records import Request

# As many are held at once: a million requests must not fill the memory.
WINDOW = 20_000
# Shorter than this many mean answers is no outlier, wherever it starts.
_OUTLIER = 2.0


@dataclass(slots=True)
class _Question:
    """Requests that share a whole prompt: the choices or the repeats of one question. Never parted, never reordered."""

    requests: list[Request]
    tokens: float
    longest: float


def ordered(
    requests: Iterable[Request], expected_tokens: Mapping[str, int], n_in_flight: int = 32
) -> Iterator[Request]:
    """The same requests in the order in which to ask them. Pure, deterministic, stable; reads at most WINDOW ahead.

    Args:
        requests: as the benchmark yields them: those that share a beginning next to each other.
        expected_tokens: request digest → completion tokens of an earlier answer. Without any of a window's requests,
            that window stays as it is; a request that is not in it counts as the mean of those that are.
        n_in_flight: how many are answered at once.
    """
    if not expected_tokens:
        yield from requests
        return
    source = iter(requests)
    while window := list(itertools.islice(source, WINDOW)):
        yield from _in_order(window, expected_tokens, n_in_flight)


def shares_beginning(one: Request, other: Request) -> bool:
    """True where at least half of the shorter prompt is the beginning of both: worth keeping in a server's cache."""
    if (one.subtask, one.operation) != (other.subtask, other.operation):
        return False
    if one.messages is not None and other.messages is not None:
        a, b = _as_text(one.messages), _as_text(other.messages)
    else:
        a, b = one.prompt or "", other.prompt or ""
    n = (min(len(a), len(b)) + 1) // 2
    return a[:n] == b[:n]


def _in_order(window: list[Request], expected: Mapping[str, int], n_in_flight: int) -> list[Request]:
    lengths = [expected.get(request.digest) for request in window]
    known = [length for length in lengths if length is not None]
    if not known:
        return window
    mean = sum(known) / len(known)
    groups = list(_groups(window, [mean if length is None else length for length in lengths]))
    for group in groups:
        group.sort(key=_by_length)
    groups.sort(key=lambda group: _by_length(group[0]))
    rest = [question for group in groups for question in group]
    first = _would_hold_the_end(rest, mean, n_in_flight)
    late = {id(question) for question in first}
    questions = itertools.chain(first, (question for question in rest if id(question) not in late))
    return [request for question in questions for request in question.requests]


def _by_length(question: _Question) -> float:
    return -question.longest


def _groups(window: Sequence[Request], lengths: Sequence[float]) -> Iterator[list[_Question]]:
    """Neighbours that share a beginning, as questions."""
    group: list[_Question] = []
    last: Request | None = None
    for request, length in zip(window, lengths, strict=True):
        if last is not None and (request.sample_id, request.prompt, request.messages) == (
            last.sample_id,
            last.prompt,
            last.messages,
        ):
            question = group[-1]
            question.requests.append(request)
            question.tokens += length
            question.longest = max(question.longest, length)
            continue
        if last is not None and not shares_beginning(last, request):
            yield group
            group = []
        group.append(_Question([request], length, length))
        last = request
    if group:
        yield group


def _would_hold_the_end(questions: Sequence[_Question], mean: float, n_in_flight: int) -> list[_Question]:
    """Those whose longest answer takes longer than all that comes after it takes together; the longest first."""
    after, found = 0.0, []
    for question in reversed(questions):
        if question.longest > max(_OUTLIER * mean, after / n_in_flight):
            found.append(question)
        else:
            after += question.tokens
    found.reverse()
    return sorted(found, key=_by_length)


def _as_text(messages: Iterable[Mapping[str, str]]) -> str:
    return "".join(f"{message.get('role')}\0{message.get('content')}\0" for message in messages)
