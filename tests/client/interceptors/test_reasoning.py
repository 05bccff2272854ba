"""What is thought is not what is said; what was landed stays as it came."""

import time
from typing import Any

import pytest
from pydantic import ValidationError

from eval_pipelines.client.chain import Chain
from eval_pipelines.client.dialects import openai_chat
from eval_pipelines.client.failures import NoAnswer
from eval_pipelines.records import Failure, FailureKind, Response, utc_now

CUT = "length"


def response(text: str | None, **fields: Any) -> Response:
    return Response(request_digest="d", text=text, n_attempts=1, latency_s=0.1, asked_at=utc_now(), **fields)


@pytest.fixture
def graded(chain, chat) -> Any:
    """The graded text and the remark of an answer."""

    def read(text: str, *, options: dict[str, Any] | None = None, **fields: Any) -> tuple[str | None, str | None]:
        seen: Chain = chain({"reasoning": options or {}})
        came = response(text, **fields)
        return seen.response(chat("?"), came).text, seen.remark(chat("?"), came)

    return read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("42", "42"),
        ("\n 42 \n", "\n 42 \n"),
        ("<think>7? no.</think>\n\n42", "42"),
        ("7? no.</think>\n42", "42"),
        ("Well. <think>7</think>42", "Well. 42"),
        ("<think>a</think>4<think>b</think>2", "42"),
        ("<think>is <think> a word?</think>42", "42"),
        ("<think></think>", ""),
        ("<think>a</think>b</think>42", "42"),
        ("<Think>a</Think>42", "<Think>a</Think>42"),
    ],
)
def test_what_lies_between_the_tokens_is_not_graded(graded, text, said) -> None:
    assert graded(text) == (said, None)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("<think>I wonder", {}, "<think>I wonder"),
        ("<think>I wonder", {"include_if_not_finished": False}, ""),
        ("It is 4. <think>Or", {"include_if_not_finished": False}, "It is 4. "),
        ("<think>a</think>4<think>Or", {"include_if_not_finished": False}, "4"),
        ("I wonder", {"starts_inside": True}, "I wonder"),
        ("I wonder", {"starts_inside": True, "include_if_not_finished": False}, ""),
    ],
)
def test_unfinished_reasoning_is_graded_whole_or_not_at_all_and_said_to_be_so(graded, text, options, said) -> None:
    assert graded(text, options=options, finish_reason=CUT) == (said, "unfinished reasoning")


def test_reasoning_that_the_template_began_and_the_model_ended_is_finished(graded) -> None:
    assert graded("hm</think>42", options={"starts_inside": True}) == ("42", None)


def test_reasoning_that_the_server_tells_apart_is_out_of_the_answer_or_put_back(graded) -> None:
    assert graded("42", reasoning="7? no.") == ("42", None)
    assert graded("42", reasoning="7? no.", options={"mode": "keep"}) == ("<think>7? no.</think>42", None)
    assert graded("<think>a</think>42", options={"mode": "keep"}) == ("<think>a</think>42", None)


def test_reasoning_that_the_server_cut_is_unfinished(graded) -> None:
    assert graded("", reasoning="7? no", finish_reason=CUT) == ("<think>7? no", "unfinished reasoning")
    options = {"include_if_not_finished": False}
    assert graded("", reasoning="7? no", finish_reason=CUT, options=options) == ("", "unfinished reasoning")
    assert graded("4", reasoning="7? no", finish_reason=CUT) == ("4", None)


def test_other_tokens_may_stand_around_it(graded) -> None:
    assert graded("[r]a[/r]42", options={"start_token": "[r]", "end_token": "[/r]"}) == ("42", None)


def test_tokens_that_are_the_same_are_refused(listed) -> None:
    with pytest.raises(ValidationError, match="must differ"):
        listed({"reasoning": {"start_token": "|", "end_token": "|"}})


def test_log_likelihoods_and_failures_stay_as_they_are(chain, chat) -> None:
    seen = chain("reasoning")
    for came in (response(None, logprob=-1.0), response(None, failure=Failure(kind=FailureKind.TIMEOUT, message="t"))):
        assert (seen.response(chat("?"), came), seen.remark(chat("?"), came)) == (came, None)


def test_an_answer_of_nothing_but_tokens_takes_no_longer_than_it_is_long(graded) -> None:
    started = time.perf_counter()
    assert graded("<think>" * 100_000)[1] == "unfinished reasoning"
    assert time.perf_counter() - started < 5


# where the server tells it apart


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_the_dialect_reads_what_was_thought(chat, name) -> None:
    told = openai_chat.read(chat("?"), {"choices": [{"message": {"content": "42", name: "7? no."}}]})
    assert (told["text"], told["reasoning"]) == ("42", "7? no.")


def test_an_answer_without_reasoning_says_nothing_of_it(chat) -> None:
    message = {"content": "42", "reasoning_content": None, "reasoning": {"a": 1}}
    assert "reasoning" not in openai_chat.read(chat("?"), {"choices": [{"message": message}]})


def test_thinking_until_the_tokens_are_used_up_is_an_answer_and_saying_nothing_at_all_is_none(chat) -> None:
    message = {"content": None, "reasoning_content": "7? no"}
    told = openai_chat.read(chat("?"), {"choices": [{"message": message, "finish_reason": "length"}]})
    assert (told["text"], told["reasoning"]) == ("", "7? no")
    with pytest.raises(NoAnswer) as caught:
        openai_chat.read(chat("?"), {"choices": [{"message": message, "finish_reason": "stop"}]})
    assert caught.value.failure.kind is FailureKind.EMPTY


# while asking


async def test_its_counts_are_told_at_the_end_and_the_answers_stay_as_they_came(asking, chat, faulty) -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 12}}
    faulty.set(
        answers={"one": "<think>a b c</think>1", "two": "<think>a b c d e", "three": "3 it is"},
        choices={"four": {"message": {"reasoning_content": "a b"}, "usage": details}},
    )
    report = await asking([chat(one) for one in ("one", "two", "three", "four")], {"reasoning": {"every": 2}})
    told = report.told["reasoning"]
    assert {name: told[name] for name in told if name.startswith("n_")} == {
        "n_responses": 4, "n_with_reasoning": 3, "n_finished": 2, "n_unfinished": 1,
    }  # fmt: skip
    assert told["reasoning_words"] == {"avg": 3.3, "max": 5, "total": 10}
    assert told["reasoning_tokens"] == {"avg": 12.0, "max": 12, "total": 12}
    assert len(asking.said) == 2
    assert "<think>a b c</think>1" in {one.text for one in asking.responses.values()}


async def test_untracked_reasoning_counts_nothing(asking, chat) -> None:
    assert (await asking([chat("?")], {"reasoning": {"track": False}})).told == {}
