"""Whatever goes wrong with a request becomes a failure of its own kind: no zero, no crash."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from eval_pipelines.client import failures
from eval_pipelines.client.dialects import openai_chat
from eval_pipelines.client.exchange import post
from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Operation, Request, Response, utc_now

QUICK = Backoff(base_s=0.005, cap_s=0.01)
KEY = "plain-old-key-0123456789"


def question(text: str = "2+2?", operation: Operation = "chat") -> Request:
    if operation == "chat":
        return Request(sample_id="s/0", subtask="s", operation="chat", messages=({"role": "user", "content": text},))
    return Request(sample_id="s/0", subtask="s", operation=operation, prompt=text, continuation=" 4")


@pytest.fixture
def ask_one(tmp_path: Any) -> Callable[..., Response]:
    """Ask one question of an address and return its final outcome."""

    def ask_it(url: str, request: Request | None = None, max_attempts: int = 3, **options: Any) -> Response:
        endpoint = Endpoint(url, "mock", "hosted", **{"request_timeout_s": 5.0, **options})
        outcomes: list[Response] = []

        async def run() -> None:
            with Journal(tmp_path / "journal.jsonl") as journal:
                await ask(
                    [request or question()],
                    1,
                    endpoint,
                    journal=journal,
                    limits=Limits(max_attempts=max_attempts, backoff=QUICK),
                    on_outcome=lambda _, response: outcomes.append(response),
                )

        asyncio.run(run())
        assert len(outcomes) == 1
        return outcomes[0]

    return ask_it


REPLIES = [
    # fault, kind, is asked again
    ({"kind": "429"}, "overloaded", True),
    ({"kind": "500"}, "overloaded", True),
    ({"kind": "502"}, "overloaded", True),
    ({"kind": "503"}, "overloaded", True),
    ({"kind": "501"}, "unsupported", False),
    ({"kind": "408"}, "timeout", True),
    ({"kind": "context"}, "context_length", False),
    ({"kind": "400", "code": "context_length_exceeded"}, "context_length", False),
    ({"kind": "400", "message": "the request exceeds the available context size"}, "context_length", False),
    ({"kind": "400", "code": "content_filter"}, "content_filter", False),
    ({"kind": "400", "message": "echo is not supported"}, "unsupported", False),
    ({"kind": "400", "message": "temperature must be a number"}, "rejected", False),
    ({"kind": "401"}, "denied", False),
    ({"kind": "404"}, "denied", False),
    ({"kind": "307", "location": "https://elsewhere.example/v1"}, "denied", False),
    ({"kind": "error200"}, "overloaded", True),
    ({"kind": "empty_choices"}, "empty", True),
    ({"kind": "no_choices"}, "malformed", True),
    ({"kind": "null"}, "empty", True),
    ({"kind": "filtered"}, "content_filter", False),
    ({"kind": "html"}, "malformed", True),
    ({"kind": "truncated"}, "malformed", True),
    ({"kind": "list"}, "malformed", True),
]


@pytest.mark.parametrize("operation", ["chat", "completion"])
@pytest.mark.parametrize(("fault", "kind", "is_asked_again"), REPLIES)
def test_each_bad_reply_ends_in_its_own_kind(ask_one, faulty, fault, kind, is_asked_again, operation) -> None:
    faulty.set(faults=[fault])
    response = ask_one(faulty.url, question(operation=operation))
    assert (response.failure.kind, response.text) == (kind, None)
    assert response.n_attempts == faulty.stats()["requests"] == (3 if is_asked_again else 1)


def test_a_server_that_stalls_is_a_timeout(ask_one, faulty) -> None:
    faulty.set(faults=[{"kind": "stall"}])
    response = ask_one(faulty.url, request_timeout_s=0.2, max_attempts=2)
    assert (response.failure.kind, response.n_attempts) == ("timeout", 2)


def test_a_port_nobody_listens_on_is_a_connection_failure(ask_one) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        response = ask_one(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert (response.failure.kind, response.n_attempts) == ("connection", 3)


def test_a_name_that_does_not_resolve_is_a_connection_failure(ask_one) -> None:
    response = ask_one("http://no-such-host.invalid/v1", max_attempts=1)
    assert response.failure.kind == "connection"


@contextlib.asynccontextmanager
async def raw_server(*chunks: bytes, is_reset: bool = False) -> AsyncIterator[str]:
    """Answers every connection with these bytes and hangs up, politely or with a TCP reset."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.writelines(chunks)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        if is_reset:
            # lingering for zero seconds turns the close into a reset
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
WIRE = {
    "reset_at_once": ([], True, "connection"),
    "closed_at_once": ([], False, "connection"),
    "not_http": ([b"SSH-2.0-OpenSSH_9.6\r\n"], False, "malformed"),
    "reset_in_the_body": ([OK + b'content-length: 900\r\n\r\n{"choices": [{"te'], True, "connection"),
    "closed_in_the_body": ([OK + b'content-length: 900\r\n\r\n{"choices": [{"te'], False, "malformed"),
    # beyond what the transport reads ahead
    "closed_in_a_long_body": ([OK + b"content-length: 900000\r\n\r\n", b" " * 200_000], False, "malformed"),
    "broken_chunks": ([OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n"], False, "malformed"),
    "gzip_that_is_none": ([OK + b"content-encoding: gzip\r\ncontent-length: 9\r\n\r\nnot gzip!"], False, "malformed"),
    "no_utf8": ([OK + b'content-length: 11\r\n\r\n{"a": "\xff\xfe"}'], False, "malformed"),
    "empty_body": ([OK + b"content-length: 0\r\n\r\n"], False, "malformed"),
    "no_content": ([b"HTTP/1.1 204 No Content\r\n\r\n"], False, "malformed"),
    "early_hints_and_nothing": ([b"HTTP/1.1 103 Early Hints\r\n\r\n"], False, "connection"),
    "a_coding_nobody_asked_for": (
        [OK + b"content-encoding: br\r\ncontent-length: 3\r\n\r\n\x0b\x02\x80"],
        False,
        "malformed",
    ),
    "cut_in_a_large_body": ([OK + b'content-length: 300000\r\n\r\n{"a": "' + b"x" * 200_000], False, "malformed"),
    "reset_in_a_large_body": ([OK + b'content-length: 300000\r\n\r\n{"a": "' + b"x" * 200_000], True, "connection"),
    "nested_too_deep": ([OK + b"content-length: 90000\r\n\r\n" + b"[" * 90000], False, "malformed"),
}


@pytest.mark.parametrize("name", WIRE)
async def test_what_breaks_on_the_wire_is_a_failure(tmp_path, name) -> None:
    chunks, is_reset, kind = WIRE[name]
    outcomes: list[Response] = []
    async with raw_server(*chunks, is_reset=is_reset) as url:
        with Journal(tmp_path / "j.jsonl") as journal:
            await ask(
                [question()],
                1,
                Endpoint(url, "mock", "hosted", request_timeout_s=5.0),
                journal=journal,
                limits=Limits(max_attempts=2, backoff=QUICK),
                on_outcome=lambda _, response: outcomes.append(response),
            )
    assert [(one.failure.kind, one.n_attempts) for one in outcomes if one.failure] == [(kind, 2)], outcomes


def json_reply(body: str) -> bytes:
    return OK + f"content-length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (r'{"choices": [{"message": {"content": "half \ud83d"}, "finish_reason": "length"}]}', "half \ufffd"),
        (r'{"choices": [{"message": {"content": "whole \ud83d\ude00"}}]}', "whole \U0001f600"),
        ('{"choices": [{"message": {"content": "yes"}, "finish_reason": {"type": "eos"}}]}', "yes"),
        ('{"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": "7"}}', "yes"),
        ('{"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}', ""),
        # of one token, `<think>`, a parser of thoughts leaves nothing
        ('{"choices": [{"message": {"content": null, "reasoning": ""}, "finish_reason": "length"}]}', ""),
        ('{"choices": [{"message": {"content": null, "reasoning_content": null}, "finish_reason": "length"}]}', ""),
    ],
)
async def test_odd_but_complete_answers_are_kept(tmp_path, body, expected) -> None:
    async with raw_server(json_reply(body)) as url:
        with Journal(tmp_path / "j.jsonl") as journal:
            limits = Limits(max_attempts=1)
            endpoint = Endpoint(url, "mock", "hosted")
            await ask([question()], 1, endpoint, journal=journal, limits=limits, on_outcome=lambda *_: None)
            assert [one.text for one in journal.answers().values()] == [expected]


async def test_a_filtered_answer_that_was_emptied_is_no_empty_answer(tmp_path) -> None:
    outcomes: list[Response] = []
    body = '{"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}'
    async with raw_server(json_reply(body)) as url:
        with Journal(tmp_path / "j.jsonl") as journal:
            await ask(
                [question()],
                1,
                Endpoint(url, "mock", "hosted"),
                journal=journal,
                limits=Limits(),
                on_outcome=lambda _, response: outcomes.append(response),
            )
    assert outcomes[0].failure.kind == "content_filter"


def test_a_redirect_is_not_followed_and_says_what_to_set(ask_one, faulty) -> None:
    faulty.set(faults=[{"kind": "307", "location": f"{faulty.root}/v1/chat/completions"}])
    response = ask_one(faulty.url)
    assert "set base_url" in response.failure.message
    assert f"{faulty.root}/v1/chat/completions" in response.failure.message


def test_a_retry_after_is_waited_for(ask_one, faulty) -> None:
    faulty.set(faults=[{"kind": "429", "retry_after": 0.6, "first": 1}])
    started = time.perf_counter()
    response = ask_one(faulty.url)
    assert response.is_answer
    assert time.perf_counter() - started >= 0.6, "the backoff alone would be 0.01 s"


def test_what_passes_is_answered_and_counts_its_attempts(ask_one, faulty) -> None:
    faulty.set(faults=[{"kind": "503", "first": 2}])
    response = ask_one(faulty.url)
    assert (response.is_answer, response.n_attempts) == (True, 3)


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
WISHES = [
    ({"retry-after": "2.5"}, 2.5),
    ({"retry-after": DATE, "date": "Wed, 21 Oct 2026 07:27:30 GMT"}, 30.0),
    ({"retry-after": "Wednesday, 21-Oct-26 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:27:30 GMT"}, 30.0),
    ({"retry-after": DATE, "date": "Wed, 21 Oct 2026 07:29:00 GMT"}, 0.0),
    ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
    ({"retry-after": "-3"}, 0.0),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "99 Foo 2026"}, None),
    ({"retry-after": ""}, None),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "wait_s"), WISHES)
def test_a_retry_after_is_read_in_all_its_forms(headers: dict[str, str], wait_s: float | None) -> None:
    assert failures.retry_after_s(httpx.Headers(headers)) == wait_s


def test_a_date_without_the_servers_clock_is_read_by_ours() -> None:
    later = format_datetime(utc_now() + timedelta(seconds=60), usegmt=True)
    assert 50 < failures.retry_after_s(httpx.Headers({"retry-after": later})) <= 60


async def test_an_attempt_takes_no_longer_than_its_time(faulty) -> None:
    faulty.set(faults=[{"kind": "stall"}])
    started = time.perf_counter()
    async with open_client(Endpoint(faulty.url, "mock", "hosted", request_timeout_s=0.5)) as client:
        with pytest.raises(failures.NoAnswer):
            await post(client, f"{faulty.url}/completions", b'{"prompt": "7+7?"}')
    assert 0.4 < time.perf_counter() - started < 1.2


def test_a_server_wish_beyond_the_cap_counts_as_the_cap() -> None:
    assert Backoff(retry_after_cap_s=10).wait_s(1, 86400.0, 0.0) == 10


def test_waits_double_up_to_their_cap_and_jitter_only_shortens_them() -> None:
    backoff = Backoff(base_s=1, cap_s=5)
    assert [backoff.wait_s(n, None, 1.0) for n in (1, 2, 3, 4, 500)] == [1, 2, 4, 5, 5]
    assert backoff.wait_s(3, None, 0.0) == 2


@pytest.mark.parametrize(
    "echoed",
    [f"bad token: Bearer {KEY}", f"Incorrect API key provided: {KEY}.", f'{{"authorization": "Bearer {KEY}"}}'],
)
def test_a_key_that_the_server_echoes_is_not_in_the_failure(ask_one, faulty, echoed) -> None:
    faulty.set(faults=[{"kind": "401", "message": echoed}])
    response = ask_one(faulty.url, headers={"authorization": f"Bearer {KEY}"})
    assert KEY not in response.model_dump_json()
    assert "***" in response.failure.message


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "ocp-apim-subscription-key"])
def test_a_key_in_any_header_is_redacted(ask_one, faulty, header) -> None:
    faulty.set(faults=[{"kind": "400", "message": f"unknown caller {KEY}"}])
    assert KEY not in ask_one(faulty.url, headers={header: KEY}).failure.message


async def test_a_key_in_a_page_that_is_no_json_is_redacted(tmp_path) -> None:
    outcomes: list[Response] = []
    page = f"<p>{KEY}</p>"
    async with raw_server(json_reply(page)) as url:
        with Journal(tmp_path / "j.jsonl") as journal:
            await ask(
                [question()],
                1,
                Endpoint(url, "mock", "hosted", headers={"authorization": f"Bearer {KEY}"}),
                journal=journal,
                limits=Limits(max_attempts=1),
                on_outcome=lambda _, response: outcomes.append(response),
            )
    assert KEY not in outcomes[0].failure.message


@pytest.mark.parametrize("n_left", [6, 15, len(KEY) - 1])
def test_what_is_left_of_a_key_where_a_message_was_cut_is_redacted(n_left) -> None:
    cut = failures.failure(failures.FailureKind.REJECTED, "x" * (499 - n_left) + " " + KEY)
    assert cut.message.endswith(KEY[:n_left])
    assert KEY[:6] not in failures.without(cut, [KEY]).message


TOO_LONG = [
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",
    "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000",
    "The sum of prompt length (4000.0) and query length (200) should not exceed max_num_tokens (4096)",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
    "input length and `max_tokens` exceed context limit: 199000 + 4096 > 200000",
    "This model's maximum context length is 2048 tokens",
]


@pytest.mark.parametrize("message", TOO_LONG)
def test_a_question_that_is_too_long_is_told_apart_by_what_servers_say(message) -> None:
    body = json.dumps({"error": {"message": message}}).encode()
    assert failures.from_status(400, body).kind == "context_length"


@pytest.mark.parametrize("key", ["sk-abcdef123456", "hf_abcdefghij", "nvapi-abcdef123456"])
def test_a_text_that_looks_like_a_key_is_redacted_even_if_it_is_not_ours(key) -> None:
    assert key not in failures.failure(failures.FailureKind.REJECTED, f"no such key {key}").message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "boom", "code": 503}, "overloaded"),
        ({"message": "boom", "code": "429"}, "overloaded"),
        ({"message": "Please try again with a shorter text: maximum context length is 2048"}, "context_length"),
        ({"message": "no", "code": "content_filter"}, "content_filter"),
        ({"message": "an internal error"}, "overloaded"),
        ("the model is at capacity", "overloaded"),
        ("no", "rejected"),
        (["odd"], "rejected"),
    ],
)
def test_an_error_object_is_read_by_its_code_then_by_its_words(error, kind) -> None:
    assert failures.from_error_object(error).kind == kind


@pytest.mark.parametrize("count", [-1, 10**30, "7", None, 1.5])
def test_a_count_of_tokens_that_cannot_be_one_is_not_told(count) -> None:
    assert openai_chat.tokens({"usage": {"prompt_tokens": count}})["prompt_tokens"] is None


def test_a_long_message_is_shortened() -> None:
    assert len(failures.from_status(500, b"x" * 10_000).message) == 500


def test_a_status_without_a_body_still_has_a_message() -> None:
    assert failures.from_status(502, b"").message == "HTTP 502 without a body"


@pytest.mark.parametrize(
    ("body", "said"),
    [(b'{"detail": "no such route"}', "no such route"), (b'{"error": "broken"}', "broken"), (b"plain", "plain")],
)
def test_the_servers_own_words_are_kept(body, said) -> None:
    assert failures.from_status(400, body).message == said


def test_the_response_of_a_failure_holds_no_answer_at_all(ask_one, faulty) -> None:
    faulty.set(faults=[{"kind": "503"}])
    response = ask_one(faulty.url, question(operation="loglikelihood"))
    assert (response.text, response.logprob, response.is_answer) == (None, None, False)
