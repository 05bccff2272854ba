"""Requests that one HTTP request asks: the repeats of a question, where the server draws several answers at once.

Exact where the server gives answer i of a request with seed s the seed s + i, as each repeat has it when asked alone.

Source  OpenAI API reference, `n`; vLLM 0.32, `vllm/v1/engine/parallel_sampling.py`
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from types import ModuleType
from typing import Any

from eval_pipelines.client.failures import NoAnswer, failure
from eval_pipelines.records import Failure, FailureKind, Request

Batch = tuple[Request, ...]
Pause = Callable[[], Awaitable[None]]


def of_repeats(requests: Iterable[Request | Pause], n_at_most: int) -> Iterator[Batch | Pause]:
    """Requests that follow each other and differ in nothing but their repeat, put together.

    Read lazily: one request ahead, none if `n_at_most` is 1. A hole in the repeats begins a new batch, and so does a pause.
    """
    if n_at_most == 1:
        yield from ((one,) if isinstance(one, Request) else one for one in requests)
        return
    batch: list[Request] = []
    for request in requests:
        if not isinstance(request, Request):
            if batch:
                yield tuple(batch)
                batch = []
            yield request
            continue
        if batch and (len(batch) == n_at_most or not _is_next(batch[-1], request)):
            yield tuple(batch)
            batch = []
        batch.append(request)
    if batch:
        yield tuple(batch)


def for_all(body: dict[str, Any], batch: Batch) -> dict[str, Any]:
    """The body that asks the first of a batch, asking all of it."""
    return {**body, "n": len(batch)}


def read(spoken: ModuleType, batch: Batch, reply: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Response fields of each request of a batch; of one that the reply leaves out, its `failure`.

    Raises:
        NoAnswer: the reply answers none of them.
    """
    if len(batch) == 1:
        return [spoken.read(batch[0], reply)]
    choices = _by_index(reply.get("choices"))
    if choices is None:
        spoken.read(batch[0], reply)  # its own words for a reply that is none
        choices = {}
    told: list[dict[str, Any]] = []
    first_failure: NoAnswer | None = None
    for index, request in enumerate(batch):
        try:
            if index not in choices:
                raise NoAnswer(_left_out(index, batch, choices))
            told.append(spoken.read(request, {**reply, "choices": [choices[index]]}))
        except NoAnswer as no_answer:
            first_failure = first_failure or no_answer
            told.append({"failure": no_answer.failure})
    if first_failure is not None and all("failure" in one for one in told):
        raise first_failure
    _share_tokens(told)
    return told


def _is_next(one: Request, other: Request) -> bool:
    """Whether `other` is the repeat after `one`, and draws with the seed after its seed."""
    if other.repeat != one.repeat + 1 or other.sample_id != one.sample_id or other.part != one.part:
        return False
    is_same = (one.operation, one.prompt, one.messages) == (other.operation, other.prompt, other.messages)
    if not is_same or one.is_likelihood or one.params.get("temperature") == 0:
        return False
    seed = one.params.get("seed")
    return other.params == ({**one.params, "seed": seed + 1} if isinstance(seed, int) else one.params)


def _by_index(choices: Any) -> dict[int, Any] | None:
    """Index → choice, the first of each; by their place where they tell no index. None if this is no list of any."""
    if not isinstance(choices, list) or not choices:
        return None
    found: dict[int, Any] = {}
    for place, choice in enumerate(choices):
        index = choice.get("index") if isinstance(choice, dict) else None
        found.setdefault(index if isinstance(index, int) else place, choice)
    return found


def _left_out(index: int, batch: Batch, choices: dict[int, Any]) -> Failure:
    message = f"the reply holds no choice {index}: {len(batch)} were asked for, it has {len(choices)}"
    return failure(FailureKind.EMPTY, message, status=200)


def _share_tokens(told: Sequence[dict[str, Any]]) -> None:
    """Servers count a reply, not its choices: the prompt counts once, the rest by the texts' lengths; sums stay exact."""
    answers = [one for one in told if "failure" not in one]
    total = answers[0].get("completion_tokens")
    for answer in answers[1:]:
        for name in ("prompt_tokens", "cached_prompt_tokens"):
            if answer.get(name) is not None:
                answer[name] = 0
    if total is None:
        return
    ends = [0, *accumulate(len(answer.get("text") or "") + 1 for answer in answers)]
    for answer, (start, end) in zip(answers, pairwise(ends), strict=True):
        answer["completion_tokens"] = total * end // ends[-1] - total * start // ends[-1]
