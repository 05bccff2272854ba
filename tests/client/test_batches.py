"""The repeats of a question in one HTTP request: never another question's, each its own answer, tokens counted once."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_pipelines.client import batches
from eval_pipelines.client.dialects import openai_chat, openai_completions
from eval_pipelines.client.failures import Backoff, NoAnswer
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import FailureKind, Request, Response

QUICK = Backoff(base_s=0.005, cap_s=0.01)


def repeat_of(question: int, repeat: int, **fields: Any) -> Request:
    params = {"temperature": 1.0, "seed": 1234 + repeat, **fields.pop("params", {})}
    told = {"operation": "completion", "prompt": f"Question {question}?", "params": params, **fields}
    return Request(sample_id=f"s/{question}", subtask="s", repeat=repeat, **told)


def questions(n: int, n_repeats: int) -> list[Request]:
    return [repeat_of(question, repeat) for question in range(n) for repeat in range(n_repeats)]


def sizes(requests: list[Request], n_at_most: int = 8) -> list[int]:
    return [len(batch) for batch in batches.of_repeats(requests, n_at_most)]


some = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=24).map(
    lambda pairs: [repeat_of(*pair) for pair in pairs]
)


@settings(max_examples=40)
@given(some, st.integers(1, 6))
def test_batches_hold_every_request_once_in_its_order(requests, n_at_most) -> None:
    found = list(batches.of_repeats(requests, n_at_most))
    assert list(itertools.chain.from_iterable(found)) == requests
    assert max(map(len, found), default=0) <= n_at_most


@settings(max_examples=40)
@given(some, st.integers(2, 6))
def test_a_batch_is_one_question_with_successive_seeds(requests, n_at_most) -> None:
    for batch in batches.of_repeats(requests, n_at_most):
        assert len({one.sample_id for one in batch}) == 1
        seeds = [one.params["seed"] for one in batch]
        assert seeds == list(range(seeds[0], seeds[0] + len(batch)))


def test_all_repeats_of_a_question_make_one_batch() -> None:
    assert sizes(questions(3, 5)) == [5, 5, 5]


def test_a_hole_in_the_repeats_begins_a_new_batch() -> None:
    # repeats 1 and 4 were answered before a kill -9
    assert sizes([repeat_of(0, repeat) for repeat in (0, 2, 3, 5)]) == [1, 2, 1]


@pytest.mark.parametrize(
    "other",
    [
        repeat_of(1, 1),
        repeat_of(0, 1, prompt="Another question?"),
        repeat_of(0, 1, part=1),
        repeat_of(0, 1, params={"seed": 1234}),
        repeat_of(0, 1, params={"temperature": 0.5}),
        repeat_of(0, 2),
    ],
    ids=["sample", "prompt", "part", "same seed", "temperature", "not the next repeat"],
)
def test_what_differs_in_more_than_its_repeat_is_asked_by_itself(other) -> None:
    assert sizes([repeat_of(0, 0), other]) == [1, 1]


def test_log_likelihoods_and_greedy_answers_are_asked_one_by_one() -> None:
    likelihoods = [repeat_of(0, repeat, operation="loglikelihood", continuation=" 4") for repeat in range(2)]
    greedy = [repeat_of(0, repeat, params={"temperature": 0}) for repeat in range(2)]
    assert sizes([*likelihoods, *greedy]) == [1, 1, 1, 1]


def test_at_most_one_request_is_read_ahead_and_none_without_batches() -> None:
    for n_at_most, n_read in ((4, 5), (1, 1)):
        source = iter(questions(2, 4))
        next(batches.of_repeats(source, n_at_most))
        assert len(list(source)) == 8 - n_read


@pytest.mark.parametrize("n_at_most", [1, 8])
def test_whatever_came_before_a_pause_is_asked_before_it(n_at_most) -> None:
    async def pause() -> None:
        pass

    found = list(batches.of_repeats([*questions(1, 2), pause, pause, repeat_of(0, 2)], n_at_most))
    before = [(one,) for one in questions(1, 2)] if n_at_most == 1 else [tuple(questions(1, 2))]
    assert found == [*before, pause, pause, (repeat_of(0, 2),)]


def reply(*texts: str, n_tokens: int = 40, **fields: Any) -> dict[str, Any]:
    choices = [{"index": index, "text": text, "finish_reason": "stop"} for index, text in enumerate(texts)]
    return {"choices": choices, "usage": {"prompt_tokens": 11, "completion_tokens": n_tokens}, **fields}


def read(n: int, told: dict[str, Any]) -> Any:
    return batches.read(openai_completions, tuple(questions(1, n)), told)


def test_each_repeat_gets_the_choice_of_its_index() -> None:
    told = reply("a", "b", "c")
    told["choices"].reverse()
    assert [one["text"] for one in read(3, told)] == ["a", "b", "c"]


def test_choices_without_an_index_are_taken_in_their_order() -> None:
    told = reply("a", "b")
    for choice in told["choices"]:
        del choice["index"]
    assert [one["text"] for one in read(2, told)] == ["a", "b"]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 40).map("é".__mul__), min_size=2, max_size=8), st.integers(0, 10_000))
def test_tokens_are_counted_once(texts, n_tokens) -> None:
    found = read(len(texts), reply(*texts, n_tokens=n_tokens))
    assert sum(one["prompt_tokens"] for one in found) == 11
    assert sum(one["completion_tokens"] for one in found) == n_tokens


def test_cached_tokens_of_the_prompt_are_counted_once_as_the_prompt_is() -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
    found = read(2, reply("a", "b", usage=usage))
    assert [one["cached_prompt_tokens"] for one in found] == [8, 0]


def test_the_longer_text_has_more_of_the_tokens() -> None:
    first, second = read(2, reply("x" * 9, "x" * 29, n_tokens=40))
    assert (first["completion_tokens"], second["completion_tokens"]) == (10, 30)


def test_tokens_that_the_server_did_not_count_stay_unknown() -> None:
    found = read(2, reply("a", "b", usage=None))
    assert [(one["prompt_tokens"], one["completion_tokens"]) for one in found] == [(None, None)] * 2


def test_a_missing_choice_is_a_failure_of_that_request_only() -> None:
    told = reply("a", "b", "c", n_tokens=6)
    del told["choices"][1]
    first, second, third = read(3, told)
    assert (first["text"], third["text"]) == ("a", "c")
    assert (second["failure"].kind, second["failure"].message) == (
        FailureKind.EMPTY,
        "the reply holds no choice 1: 3 were asked for, it has 2",
    )
    assert first["completion_tokens"] + third["completion_tokens"] == 6


def test_a_filtered_choice_is_a_failure_of_that_request_only() -> None:
    batch = tuple(
        repeat_of(0, i, operation="chat", prompt=None, messages=({"role": "user", "content": "?"},)) for i in (0, 1)
    )
    choices = [
        {"index": 0, "message": {"content": None}, "finish_reason": "content_filter"},
        {"index": 1, "message": {"content": "fine"}, "finish_reason": "stop"},
    ]
    filtered, fine = batches.read(openai_chat, batch, {"choices": choices})
    assert filtered == {"failure": filtered["failure"]}
    assert (filtered["failure"].kind, fine["text"]) == (FailureKind.CONTENT_FILTER, "fine")


@pytest.mark.parametrize(
    ("told", "kind"),
    [({"choices": []}, FailureKind.EMPTY), ({"id": "x"}, FailureKind.MALFORMED)],
    ids=["empty", "none"],
)
def test_a_reply_without_any_choice_is_one_failure_in_the_dialects_words(told, kind) -> None:
    with pytest.raises(NoAnswer) as no_answer:
        read(3, told)
    assert no_answer.value.failure.kind is kind


# over HTTP


async def ask_all(
    faulty: Any, folder: Path, requests: list[Request], n_per_request: int = 8, endpoint: Any = None, **fields: Any
) -> tuple[AskReport, dict[str, Response]]:
    found: dict[str, Response] = {}
    asked = {"max_in_flight": 16, "request_timeout_s": 10, "n_per_request": n_per_request, **(endpoint or {})}
    with Journal(folder / "journal.jsonl") as journal:
        report = await ask(
            requests, len(requests), Endpoint(faulty.url, "mock", "hosted", **asked), journal=journal,
            limits=Limits(backoff=QUICK, **fields),
            on_outcome=lambda request, response: found.update({request.digest: response}),
        )  # fmt: skip
    return report, found


async def test_together_they_are_answered_as_each_alone(faulty, tmp_path) -> None:
    requests = questions(6, 5)
    faulty.set(is_sampling=True)
    _, alone = await ask_all(faulty, tmp_path, requests, n_per_request=1)
    n_alone = faulty.stats()["requests"]
    faulty.set(is_sampling=True)
    _, together = await ask_all(faulty, tmp_path, requests)
    assert {key: one.text for key, one in together.items()} == {key: one.text for key, one in alone.items()}
    assert len({one.text for one in alone.values()}) > 6, "repeats differ"
    assert (n_alone, faulty.stats()["requests"]) == (30, 6)


async def test_what_a_reply_leaves_out_is_asked_alone(faulty, tmp_path) -> None:
    faulty.set(is_sampling=True, n_most=2)
    report, found = await ask_all(faulty, tmp_path, questions(3, 4))
    # one request for four, of which it answers two; one for each of the others
    assert (report.n_answered, report.n_failed, faulty.stats()["requests"]) == (12, 0, 9)
    assert len(Journal(tmp_path / "journal.jsonl").answers()) == 12
    assert sorted(one.n_attempts for one in found.values()) == [1] * 6 + [2] * 6


async def test_what_is_left_out_fails_where_no_attempt_is_left(faulty, tmp_path) -> None:
    faulty.set(n_most=2)
    report, found = await ask_all(faulty, tmp_path, questions(3, 4), max_attempts=1)
    assert (report.n_answered, report.n_failed, faulty.stats()["requests"]) == (6, 6, 3)
    assert {one.failure.kind for one in found.values() if one.failure} == {FailureKind.EMPTY}


async def test_a_batch_that_fails_is_asked_again_as_a_whole(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "503", "first": 2}])
    report, _ = await ask_all(faulty, tmp_path, questions(1, 5))
    assert (report.n_answered, faulty.stats()["requests"]) == (5, 3)


async def test_a_batch_that_fails_for_good_fails_each_of_its_requests(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "400"}])
    report, found = await ask_all(faulty, tmp_path, questions(1, 5))
    # once more, alone: it might have been refused for being several
    assert (report.n_failed, len(found), faulty.stats()["requests"]) == (5, 5, 2)


async def test_a_server_that_refuses_several_is_asked_one_by_one_and_told_once(faulty, tmp_path) -> None:
    requests = questions(20, 5)
    faulty.set(is_sampling=True)
    _, alone = await ask_all(faulty, tmp_path, requests, n_per_request=1)
    faulty.set(is_sampling=True, refuses_n=True)
    report, found = await ask_all(faulty, tmp_path / "2", requests, endpoint={"max_in_flight": 8, "min_in_flight": 8})
    assert {digest: one.text for digest, one in found.items()} == {digest: one.text for digest, one in alone.items()}
    assert (report.n_answered, report.n_failed) == (100, 0)
    assert faulty.stats()["requests"] <= 100 + 8  # whoever had begun before the first answer


async def test_tokens_of_a_batch_are_counted_once_in_the_report(faulty, tmp_path) -> None:
    report, _ = await ask_all(faulty, tmp_path, questions(2, 4))
    assert (report.prompt_tokens, report.completion_tokens) == (2 * 2, 2 * 4 * 5)


# in flight: a batch counts as many as it asks for


@pytest.mark.parametrize("floor", [1, 20], ids=["adapting", "fixed"])
@pytest.mark.parametrize(("n_repeats", "most"), [(8, 16), (5, 20), (1, 20)])
async def test_answers_in_flight_are_as_many_as_fit_and_no_more(faulty, tmp_path, floor, n_repeats, most) -> None:
    faulty.set(latency_s=0.02)
    bounds = {"max_in_flight": 20, "min_in_flight": floor}
    report, _ = await ask_all(faulty, tmp_path, questions(160 // n_repeats, n_repeats), endpoint=bounds)
    assert report.n_answered == 160
    assert faulty.stats()["most_choices_on_wire"] == most


@pytest.mark.parametrize("floor", [1, 3], ids=["adapting", "fixed"])
async def test_a_batch_larger_than_the_limit_is_cut(faulty, tmp_path, floor) -> None:
    faulty.set(latency_s=0.005)
    bounds = {"max_in_flight": 3, "min_in_flight": floor}
    report, _ = await ask_all(faulty, tmp_path, questions(4, 8), endpoint=bounds)
    assert report.n_answered == 32
    assert (faulty.stats()["most_choices_on_wire"], faulty.stats()["requests"]) == (3, 4 * 3)


async def test_two_clients_together_have_no_more_answers_in_flight_than_one(faulty, tmp_path) -> None:
    faulty.set(latency_s=0.03)
    shared = {"max_in_flight": 16, "shared_folder": tmp_path}
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    asked = [questions(12, 8), [repeat_of(100 + question, repeat) for question in range(12) for repeat in range(8)]]
    told = await asyncio.gather(*(ask_all(faulty, *one, endpoint=shared) for one in zip(folders, asked, strict=True)))
    assert [report.n_answered for report, _ in told] == [96, 96]
    assert faulty.stats()["most_choices_on_wire"] == 16


async def test_one_denied_reply_to_several_is_one_in_a_row(faulty, tmp_path) -> None:
    faulty.set(faults=[{"kind": "404", "match": "Question 3?"}])
    report, _ = await ask_all(faulty, tmp_path, questions(20, 8), endpoint={"max_in_flight": 8})
    assert (report.stopped, report.n_answered) == ("", 19 * 8)
