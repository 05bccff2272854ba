"""A stream is one answer: whole, timed, or a failure; never a short one."""

import asyncio
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from eval_pipelines.client import probe, streaming
from eval_pipelines.client.dialects import openai_chat
from eval_pipelines.client.failures import NoAnswer
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Request, Response

from .wire import Part, asked, event, question, reply, serving, stream

DONE = event("[DONE]")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
PLAIN = reply('{"choices": [{"message": {"content": "plain"}, "finish_reason": "stop"}]}')


def says(text: str | None, finish_reason: str | None = None, index: int = 0, **delta: Any) -> bytes:
    told = {"content": text, **delta} if text is not None else delta
    return event({"model": "m", "choices": [{"index": index, "delta": told, "finish_reason": finish_reason}]})


def writes(text: str, finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}]})


HELLO = [says("", role="assistant"), says("Hel"), says("lo"), says("", "stop")]


async def outcome(
    folder: Path, *replies: list[Part], request: Request | None = None, stays: bool = False, **options: Any
) -> Response:
    """What one request comes to that is asked once."""
    async with serving(*replies, stays=stays) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", **{"request_timeout_s": 5, "is_streamed": True, **options})
        _, [response] = await asked(endpoint, folder, [request or question()], max_attempts=1)
    return response


def told(response: Response) -> tuple[str, int | None]:
    """The kind of its failure, and the status."""
    assert response.failure is not None, response
    return response.failure.kind.value, response.failure.http_status


async def test_a_stream_is_one_answer_with_its_tokens_and_its_end(tmp_path) -> None:
    response = await outcome(tmp_path, stream(*HELLO, USAGE, DONE))
    assert (response.text, response.finish_reason) == ("Hello", "stop")
    assert (response.prompt_tokens, response.completion_tokens) == (7, 2)


async def test_it_is_asked_for_with_its_usage_and_the_digest_is_that_of_the_question(tmp_path) -> None:
    async with serving(stream(*HELLO, DONE)) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", is_streamed=True)
        _, [response] = await asked(endpoint, tmp_path, [question(max_tokens=9)])
    [body] = wire.bodies
    assert (body["stream"], body["stream_options"], body["max_tokens"]) == (True, {"include_usage": True}, 9)
    assert response.request_digest == question(max_tokens=9).digest


async def test_completions_are_streamed_too(tmp_path) -> None:
    parts = stream(writes(" 4"), writes("2"), writes("", "length"), DONE)
    response = await outcome(tmp_path, parts, request=question(operation="completion"))
    assert (response.text, response.finish_reason) == (" 42", "length")


async def test_a_log_likelihood_is_not_asked_for_as_a_stream(tmp_path) -> None:
    async with serving([PLAIN]) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", is_streamed=True)
        await asked(endpoint, tmp_path, [question(operation="loglikelihood")], max_attempts=1)
    assert "stream" not in wire.bodies[0]


async def test_nobody_who_did_not_ask_for_it_gets_a_stream(tmp_path) -> None:
    async with serving([PLAIN]) as wire:
        await asked(Endpoint(wire.url, "m", "hosted"), tmp_path, [question()])
    assert "stream" not in wire.bodies[0]


async def test_the_first_token_and_the_time_between_tokens_are_those_of_the_stream(tmp_path) -> None:
    parts = stream(
        says("", role="assistant"), 0.2, says("a"), 0.1, says("b"), 0.1, says("c"), says("", "stop"), 0.2, DONE
    )
    response = await outcome(tmp_path, parts)
    assert response.ttft_s is not None
    assert response.inter_token_s is not None
    # on a busy machine everything is later, but not in another order
    assert response.ttft_s > 0.19
    assert response.inter_token_s > 0.09
    assert response.latency_s > response.ttft_s + 2 * response.inter_token_s + 0.15


async def test_the_first_thought_is_the_first_token(tmp_path) -> None:
    parts = stream(says(None, reasoning_content="hm"), 0.2, says("4"), says("", "stop"), DONE)
    response = await outcome(tmp_path, parts)
    assert response.ttft_s is not None
    assert response.ttft_s < response.latency_s - 0.15
    assert response.text == "4"


async def test_an_answer_that_came_whole_has_no_times_of_tokens(tmp_path) -> None:
    response = await outcome(tmp_path, [PLAIN])
    assert (response.text, response.ttft_s, response.inter_token_s) == ("plain", None, None)


async def test_a_stream_that_nobody_asked_for_is_read(tmp_path) -> None:
    response = await outcome(tmp_path, stream(*HELLO, DONE), is_streamed=False)
    assert (response.text, response.ttft_s) == ("Hello", None)


async def test_a_stream_under_another_name_is_read(tmp_path) -> None:
    whole = reply(b"".join([*HELLO, DONE]), kind="text/plain")
    assert (await outcome(tmp_path, [whole])).text == "Hello"


FORMS = {
    "crlf": [one.replace(b"\n", b"\r\n") for one in (*HELLO, DONE)],
    "no_empty_lines": [one[:-1] for one in (*HELLO, DONE)],
    "no_space": [one.replace(b"data: ", b"data:") for one in (*HELLO, DONE)],
    "comments": [b": ping\n\n", *HELLO, b": ping\n\n", DONE],
    "names_and_ids": [b"id: 1\nretry: 5\nevent: message\n", *HELLO, DONE],
    "all_at_once": [b"".join([*HELLO, DONE])],
    "byte_by_byte": [bytes([one]) for one in b"".join([*HELLO, DONE])],
    "an_event_over_two_lines": [*HELLO[:2], HELLO[2].replace(b', "choices"', b',\ndata: "choices"'), HELLO[3], DONE],
    "no_end_mark": HELLO,
    "no_end_mark_and_no_last_newline": [*HELLO[:3], HELLO[3].strip()],
    "no_finish_reason": [*HELLO[:3], DONE],
    "usage_in_every_chunk": [one.replace(b'"model"', b'"usage": {"prompt_tokens": 7}, "model"') for one in (*HELLO, DONE)],
    "null_delta_at_the_end": [*HELLO[:3], event({"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]})],
    "no_index": [one.replace(b'"index": 0, ', b"") for one in (*HELLO, DONE)],
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
async def test_every_form_of_a_stream_is_read(tmp_path, name) -> None:
    assert (await outcome(tmp_path, stream(*FORMS[name]))).text == "Hello"


async def test_a_character_that_two_chunks_share_is_whole(tmp_path) -> None:
    parts = [rb'data: {"choices": [{"delta": {"content": "\ud83d"}}]}' + b"\n\n"]
    parts += [rb'data: {"choices": [{"delta": {"content": "\ude00"}, "finish_reason": "stop"}]}' + b"\n\n"]
    assert (await outcome(tmp_path, stream(*parts))).text == "\U0001f600"


async def test_a_stream_that_is_packed_is_unpacked(tmp_path) -> None:
    import gzip

    packed = gzip.compress(b"".join([*HELLO, DONE]))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\n"
    assert (await outcome(tmp_path, [head, packed[:40], 0.02, packed[40:]])).text == "Hello"


def test_several_answers_come_apart_by_their_index() -> None:
    parts = [says("b", index=1), says("a"), says("B", "stop", index=1), says("A", "length")]
    choices = streaming.put_together(b"".join([*parts, DONE]))["choices"]
    assert [(one["index"], one["message"]["content"], one["finish_reason"]) for one in choices] == [
        (0, "aA", "length"),
        (1, "bB", "stop"),
    ]


def test_one_of_several_answers_without_its_end_is_a_stream_that_ended_too_early() -> None:
    with pytest.raises(NoAnswer, match=r"ended too early.*after 2 tokens"):
        streaming.put_together(b"".join([says("a", "stop"), says("b", index=1)]))


def test_thoughts_and_calls_are_put_together() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a"'}}
    rest = {"index": 0, "function": {"arguments": ": 1}"}}
    parts = [says(None, reasoning="so "), says(None, reasoning="so"), says(None, tool_calls=[call])]
    parts += [says(None, tool_calls=[rest]), says("", "tool_calls"), DONE]
    [choice] = streaming.put_together(b"".join(parts))["choices"]
    assert choice["message"]["reasoning"] == "so so"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    ]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([says("", "stop")], ""),
        ([says(None, "stop", role="assistant")], ""),
        ([says(None, reasoning_content="hm"), says("", "length")], None),
        ([says("", role="assistant"), DONE], None),
    ],
)
def test_nothing_said_is_an_empty_answer_only_where_it_ended_by_itself(parts, text) -> None:
    [choice] = streaming.put_together(b"".join(parts))["choices"]
    assert choice["message"]["content"] == text


ERRORS = {
    "object": (event({"error": {"message": "the engine died", "code": 503}}), "overloaded"),
    "openai": (event({"error": {"message": "too much", "type": "server_error", "code": "rate_limit_exceeded"}}), "overloaded"),
    "vllm_of_old": (event({"object": "error", "message": "bad", "type": "BadRequestError", "code": 400}), "rejected"),
    "named": (b"event: error\n" + event({"message": "maximum context length is 2048"}), "context_length"),
    "llama_server_of_old": (b'error: {"code": 500, "message": "slot gone"}\n\n', "overloaded"),
    "text": (b"event: error\ndata: no capacity\n\n", "malformed"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_in_the_middle_is_a_failure_that_says_how_far_it_came(tmp_path, name) -> None:
    error, kind = ERRORS[name]
    response = await outcome(tmp_path, stream(*HELLO[:3], error, DONE))
    assert told(response)[0] == kind
    assert "after 2 tokens" in response.failure.message


@pytest.mark.parametrize("ends", [True, False], ids=["ended_politely", "hung_up"])
@pytest.mark.parametrize("n_parts", [0, 1, 3])
async def test_a_stream_that_ends_too_early_is_no_short_answer(tmp_path, ends, n_parts) -> None:
    response = await outcome(tmp_path, stream(*HELLO[:n_parts], ends=ends))
    assert told(response)[0] == "malformed"
    assert f"after {max(0, n_parts - 1)} tokens" in response.failure.message


async def test_a_chunk_cut_in_the_middle_is_no_short_answer(tmp_path) -> None:
    assert told(await outcome(tmp_path, stream(*HELLO[:3], HELLO[3][:30])))[0] == "malformed"


@pytest.mark.parametrize(
    "chunk", [b"data: {no json\n\n", b"data: [1]\n\n", b'data: {"choices": [3]}\n\n', says(None, content=[1])]
)
async def test_a_chunk_that_is_none_is_malformed(tmp_path, chunk) -> None:
    assert told(await outcome(tmp_path, stream(HELLO[1], chunk, *HELLO[2:], DONE)))[0] == "malformed"


ODD_CHOICES = [
    {"delta": {"tool_calls": 5}},
    {"delta": {"tool_calls": [{"index": {"a": 1}, "id": "a"}]}},
    {"delta": {"tool_calls": [{"index": 0, "function": [1]}]}},
    {"delta": {"tool_calls": [{"index": "x"}, {"index": 1}]}},
    {"delta": {"content": "x"}, "logprobs": {"content": 1.5}},
]


@pytest.mark.parametrize("choice", ODD_CHOICES, ids=str)
async def test_a_chunk_with_a_value_of_another_type_is_malformed_and_ends_nothing(tmp_path, choice) -> None:
    chunk = event({"choices": [{"index": 0, **choice}]})
    response = await outcome(tmp_path, stream(HELLO[1], chunk, *HELLO[2:], DONE))
    assert told(response)[0] == "malformed"
    assert "as the API says" in response.failure.message


async def test_an_answer_that_is_whole_stays_one_though_the_stream_broke_after_it(tmp_path) -> None:
    assert (await outcome(tmp_path, stream(*HELLO, ends=False))).text == "Hello"


@pytest.mark.parametrize(("parts", "n"), [(HELLO[:3], 2), ([], 0)])
async def test_a_stream_that_falls_silent_is_cut_and_says_after_how_many_tokens(tmp_path, parts, n) -> None:
    started = time.monotonic()
    response = await outcome(tmp_path, stream(*parts, 30.0), idle_timeout_s=0.2)
    assert 0.2 <= time.monotonic() - started < 2
    assert told(response) == ("timeout", None)
    assert f"said nothing for idle_timeout_s = 0.2, after {n} tokens" in response.failure.message


async def test_a_server_that_sends_no_headers_is_as_silent_as_a_stream_that_falls_silent(tmp_path) -> None:
    response = await outcome(tmp_path, [30.0], idle_timeout_s=0.2)
    assert response.latency_s < 2
    assert told(response) == ("timeout", None)
    assert "said nothing for idle_timeout_s = 0.2, after 0 tokens" in response.failure.message


async def test_a_reply_that_was_not_asked_for_as_a_stream_may_be_silent_for_longer(tmp_path) -> None:
    one = question(operation="loglikelihood")
    response = await outcome(tmp_path, [0.4, PLAIN], request=one, idle_timeout_s=0.1)
    assert response.latency_s > 0.4
    assert told(response)[0] != "timeout"


async def test_a_stream_that_shows_that_it_lives_is_waited_for(tmp_path) -> None:
    slow: list[Part] = [b": still thinking\n\n", 0.15] * 3
    assert (await outcome(tmp_path, stream(*slow, *HELLO, DONE), idle_timeout_s=0.3)).text == "Hello"


async def test_a_stream_that_drips_for_ever_is_cut_by_the_time_of_an_attempt(tmp_path) -> None:
    drops: list[Part] = [says("x"), 0.05] * 200
    response = await outcome(tmp_path, stream(*drops), idle_timeout_s=5, request_timeout_s=0.4)
    assert told(response) == ("timeout", None)
    assert response.latency_s < 1


async def test_a_stream_that_fell_silent_is_asked_again(tmp_path) -> None:
    async with serving(stream(*HELLO[:2], 30.0), stream(*HELLO, DONE)) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", is_streamed=True, idle_timeout_s=0.1)
        _, [response] = await asked(endpoint, tmp_path, [question()], max_attempts=2)
    assert (response.text, response.n_attempts) == ("Hello", 2)


async def test_cutting_a_stream_closes_its_connection_and_leaves_no_task(tmp_path) -> None:
    async with serving(stream(*HELLO[:2], 30.0)) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", is_streamed=True, idle_timeout_s=0.1)
        async with open_client(endpoint) as client:
            tasks, sockets = asyncio.all_tasks(), len(psutil.Process().net_connections())
            for _ in range(3):
                with pytest.raises(NoAnswer):
                    await streaming.answer(client, f"{wire.url}/x", b"{}", openai_chat, None, 0.05, lambda _: {})
            deadline = time.monotonic() + 2
            while wire.n_open and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert (wire.n_opened, wire.n_open) == (3, 0)
            assert len(psutil.Process().net_connections()) <= sockets
            assert {task for task in asyncio.all_tasks() if "answer" not in repr(task)} <= tasks


async def test_calling_a_stream_off_closes_its_connection(tmp_path) -> None:
    async with serving(stream(*HELLO[:2], 30.0)) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", is_streamed=True)
        asking = asyncio.create_task(asked(endpoint, tmp_path, [question()]))
        while not wire.bodies:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        deadline = time.monotonic() + 2
        while wire.n_open and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert wire.n_open == 0


@pytest.mark.parametrize("after", [[DONE], [DONE, 0.02]])
async def test_a_connection_that_was_read_to_its_end_is_used_again(tmp_path, after) -> None:
    async with serving(stream(*HELLO, *after), stays=True) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", is_streamed=True, max_in_flight=1)
        report, _ = await asked(endpoint, tmp_path, [question(str(n)) for n in range(5)])
    assert (report.n_answered, wire.n_opened) == (5, 1)


async def test_a_canary_is_asked_as_the_questions_will_be() -> None:
    refusal = reply('{"error": {"message": "stream is not supported"}}', "400 Bad Request")
    async with serving([refusal]) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", is_streamed=True)
        async with open_client(endpoint) as client:
            failed = await probe.try_capability(client, endpoint, "chat")
    assert failed is not None
    assert (failed.kind, wire.bodies[0]["stream"]) == ("unsupported", True)


async def test_the_report_tells_percentiles_of_both_times(tmp_path) -> None:
    async with serving(stream(says("a"), 0.02, says("b", "stop"), DONE), stays=True) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", is_streamed=True)
        report, responses = await asked(endpoint, tmp_path, [question(str(n)) for n in range(6)])
    firsts = sorted(one.ttft_s or 0 for one in responses)
    assert (report.streamed["ttft_p50_s"], report.streamed["ttft_p95_s"]) == (firsts[3], firsts[5])
    assert 0.015 < (report.streamed["inter_token_p50_s"] or 0) < 0.1


async def test_where_nothing_was_streamed_the_report_tells_none_of_it(tmp_path) -> None:
    async with serving([PLAIN]) as wire:
        report, _ = await asked(Endpoint(wire.url, "m", "hosted"), tmp_path, [question()])
    assert set(report.streamed.values()) == {None}
