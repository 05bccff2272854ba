"""What follows from a failure is decided by its kind alone, and each kind is shown by real replies."""

import asyncio
import re
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.client import failures, probe
from eval_pipelines.client.failures import N_TO_STOP, POLICIES, Backoff
from eval_pipelines.client.report import AskReport
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import Endpoint, Replica
from eval_pipelines.records import Failure, FailureKind, Response, utc_now

from .wire import Part, asked, question, reply, serving

ROOT = Path(__file__).parent.parent.parent
GOOD = reply('{"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}')
TOO_LONG = reply('{"error": {"message": "This model\'s maximum context length is 2048 tokens"}}', "400 Bad Request")
NO_KEY = reply('{"error": {"message": "Incorrect API key"}}', "401 Unauthorized")
NO_BACKOFF = Backoff(base_s=30.0)  # nobody may wait for it


def error(http: str, message: str = "no", /, **fields: str) -> list[Part]:
    inside = ", ".join(f'"{name}": "{value}"' for name, value in {"message": message, **fields}.items())
    return [reply(f'{{"error": {{{inside}}}}}', http)]


def page(status: str, html: str) -> list[Part]:
    return [reply(html, status, "text/html")]


async def outcome(folder: Path, *replies: list[Part], **limits: Any) -> tuple[AskReport, Response]:
    async with serving(*replies) as wire:
        report, [response] = await asked(Endpoint(wire.url, "m", "hosted"), folder, [question()], **limits)
    return report, response


# the table


def test_every_kind_has_its_policy() -> None:
    assert set(POLICIES) == set(FailureKind)


def test_the_table_in_the_documentation_is_the_one_in_the_code() -> None:
    text = (ROOT / "docs" / "asking.md").read_text().split("\n## Failures\n")[1].split("\n## ")[0]
    rows = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| `\w+` .*$", text, re.M)]
    said = {row[0]: [cell == "yes" for cell in row[2:]] for row in rows}
    assert said == {
        kind.value: [
            one.is_retried, one.goes_elsewhere, one.counts_against_server, one.stops_asking, one.breaks_budget
        ]
        for kind, one in POLICIES.items()
    }  # fmt: skip


STATUSES = [
    # nobody gets in
    (error("402 Payment Required"), "denied"),
    (error("403 Forbidden", "your plan does not include this model"), "denied"),
    (error("404 Not Found", "The model `x` does not exist"), "denied"),
    (error("405 Method Not Allowed"), "denied"),
    (error("410 Gone", "this model was retired"), "denied"),
    (error("429 Too Many Requests", "You exceeded your current quota", code="insufficient_quota"), "denied"),
    (error("429 Too Many Requests", "You exceeded your current quota", type="insufficient_quota"), "denied"),
    (error("400 Bad Request", "Your credit balance is too low to access the API"), "denied"),
    (error("400 Bad Request", "API key not valid. Please pass a valid API key.", status="INVALID_ARGUMENT"), "denied"),
    (error("200 OK", "no", code="insufficient_quota"), "denied"),
    # this very request
    (error("400 Bad Request", "top_p must be positive"), "rejected"),
    (error("422 Unprocessable Entity", "not a list of messages"), "rejected"),
    (error("413 Payload Too Large"), "rejected"),
    (error("413 Payload Too Large", "input is too long: context length"), "context_length"),
    (error("403 Forbidden", "blocked by our safety system"), "content_filter"),
    (error("505 HTTP Version Not Supported"), "unsupported"),
    # it may pass
    (error("429 Too Many Requests", "You exceeded your current quota, please check your plan"), "overloaded"),
    (error("409 Conflict", "the model is loading"), "overloaded"),
    (error("425 Too Early"), "overloaded"),
    (error("529 Overloaded", "Overloaded", type="overloaded_error"), "overloaded"),
    (error("520 Web Server Returns an Unknown Error"), "overloaded"),
    (error("525 SSL Handshake Failed"), "overloaded"),
    (error("521 Web Server Is Down"), "connection"),
    (error("522 Connection Timed Out"), "connection"),
    (error("504 Gateway Timeout"), "timeout"),
    (error("524 A Timeout Occurred"), "timeout"),
]


@pytest.mark.parametrize(
    ("bad", "kind"), STATUSES, ids=[f"{kind}-{bytes(bad[0])[9:12].decode()}" for bad, kind in STATUSES]
)
async def test_a_status_is_of_its_kind_and_asked_again_only_where_that_may_help(tmp_path, bad, kind) -> None:
    report, response = await outcome(tmp_path, bad)
    assert response.failure is not None
    assert response.failure.kind == kind
    assert report.n_attempts == (2 if POLICIES[response.failure.kind].is_retried else 1)


# pages, certificates, names


PAGES = [
    (page("502 Bad Gateway", "<html><head><title>502 Bad\n Gateway</title></head></html>"), "overloaded", "'502 Bad Gateway'"),
    (page("200 OK", "<!DOCTYPE html><title>Sign in</title><p>x"), "malformed", "an HTML page, 'Sign in': a proxy or a login"),
    (page("200 OK", "\n<HTML><body><H1 id=a>It <b>works</b>!</H1>"), "malformed", "'It works !'"),
    (page("503 Service Unavailable", "<html><body>no"), "overloaded", "an HTML page"),
    ([reply("", "200 OK")], "malformed", "HTTP 200 without a body"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "kind", "words"), PAGES)
async def test_a_page_is_told_by_its_title(tmp_path, bad, kind, words) -> None:
    _, response = await outcome(tmp_path, bad, max_attempts=1)
    assert response.failure is not None
    assert response.failure.kind == kind
    assert words in response.failure.message


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> ssl.SSLContext:
    """Of a server that nobody vouches for."""
    folder = tmp_path_factory.mktemp("tls")
    key, chain = folder / "key.pem", folder / "chain.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    try:
        subprocess.run([*make.split(), "-keyout", key, "-out", chain], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


async def test_a_certificate_that_does_not_hold_is_denied_and_says_what_to_do(tmp_path, certificate) -> None:
    async with serving([GOOD], context=certificate) as wire:
        _, [response] = await asked(Endpoint(wire.url, "m", "hosted"), tmp_path, [question()])
    assert response.failure is not None
    assert (response.failure.kind, response.n_attempts) == ("denied", 1)
    assert "have it renewed, or set base_url to the name" in response.failure.message


async def test_a_server_without_tls_is_told_as_one(tmp_path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(error("400 Bad Request")[0])
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        _, [response] = await asked(Endpoint(url, "m", "hosted"), tmp_path, [question()], max_attempts=1)
    assert response.failure is not None
    assert response.failure.kind == "connection"
    assert "base_url may have to begin with http://" in response.failure.message


async def test_a_refused_connection_says_so(tmp_path) -> None:
    async with serving([GOOD]) as wire:
        pass
    _, [response] = await asked(Endpoint(wire.url, "m", "hosted"), tmp_path, [question()], max_attempts=1)
    assert response.failure is not None
    assert "Connection refused" in response.failure.message


@pytest.mark.parametrize(
    ("why", "hint"),
    [("Name or service not known", "No such host"), ("Temporary failure in name resolution", "resolution")],
)
def test_a_name_that_does_not_exist_is_told_apart_from_one_that_cannot_be_looked_up(why, hint) -> None:
    import httpx

    told = httpx.ConnectError(f"connection error: {why}")
    failed = failures.from_exception(told)
    assert (failed.kind, hint in failed.message) == ("connection", True)
    assert ("No such host" in failed.message) == (hint == "No such host")


# answers that are none, and answers that are


ODD = [
    ('{"message": {"content": null, "refusal": "I cannot help."}, "finish_reason": "stop"}', "I cannot help."),
    ('{"message": {"content": "", "refusal": null}, "finish_reason": "stop"}', ""),
    ('{"message": {"content": "half"}, "finish_reason": "length"}', "half"),
    ('{"message": {"content": "half"}, "finish_reason": "content_filter"}', FailureKind.CONTENT_FILTER),
    ('{"message": {"content": null, "refusal": "no"}, "finish_reason": "content_filter"}', FailureKind.CONTENT_FILTER),
    ('{"message": {"content": null, "refusal": ""}, "finish_reason": "stop"}', FailureKind.EMPTY),
    ('{"message": {"content": null, "tool_calls": [{}]}, "finish_reason": "tool_calls"}', FailureKind.EMPTY),
]


@pytest.mark.parametrize(("choice", "expected"), ODD)
async def test_what_is_an_answer_and_what_is_none(tmp_path, choice, expected) -> None:
    _, response = await outcome(tmp_path, [reply(f'{{"choices": [{choice}]}}')], max_attempts=1)
    assert (response.failure.kind if response.failure else response.text) == expected


async def test_an_answer_cut_at_its_length_counts_as_one_and_as_cut(tmp_path) -> None:
    cut = reply('{"choices": [{"message": {"content": "ha"}, "finish_reason": "length"}]}')
    report, _ = await outcome(tmp_path, [cut])
    assert (report.n_answered, report.n_truncated) == (1, 1)


async def test_the_name_under_which_a_server_answers_is_its_own_affair(tmp_path) -> None:
    alias = reply('{"model": "gpt-9-2031-01-01", "choices": [{"message": {"content": "4"}}]}')
    assert (await outcome(tmp_path, [alias]))[1].text == "4"


async def test_what_comes_after_the_length_that_was_told_is_not_read(tmp_path) -> None:
    assert (await outcome(tmp_path, [GOOD + b'{"choices": []}']))[1].text == "4"


async def test_early_hints_before_an_answer_are_no_answer(tmp_path) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"
    assert (await outcome(tmp_path, [hints + GOOD]))[1].text == "4"


# elsewhere first; against the server


BAD: dict[str, list[Part]] = {
    "overloaded": error("503 Service Unavailable"),
    "malformed": [reply("{")],
    "empty": [reply('{"choices": []}')],
    "denied": [NO_KEY],
    "connection": error("521 Web Server Is Down"),
    "timeout": error("504 Gateway Timeout"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_what_one_replica_does_badly_another_is_asked_first_and_at_once(tmp_path, kind) -> None:
    assert POLICIES[FailureKind(kind)].goes_elsewhere
    async with serving(BAD[kind], stays=True) as bad, serving([GOOD], stays=True) as good:
        endpoint = Endpoint(bad.url, "m", "hosted", replicas=(Replica(bad.url), Replica(good.url)), max_in_flight=2)
        started = time.monotonic()
        report, responses = await asked(
            endpoint, tmp_path, [question(str(n)) for n in range(20)], backoff=NO_BACKOFF, max_attempts=2
        )
    assert report.n_answered == 20, report.first_failure
    assert time.monotonic() - started < 5
    # left out after three in a row, and tried again now and then
    assert 1 <= len(bad.bodies) <= 8
    assert max(one.n_attempts for one in responses) == 2


@pytest.mark.parametrize("verdict", [TOO_LONG, error("400 Bad Request", "top_p must be positive")[0]])
async def test_a_replica_that_refuses_bad_requests_is_not_left_out(tmp_path, verdict) -> None:
    async with serving([verdict], stays=True) as strict, serving([GOOD], stays=True) as other:
        replicas = (Replica(strict.url), Replica(other.url))
        endpoint = Endpoint(strict.url, "m", "hosted", replicas=replicas, max_in_flight=1)
        report, _ = await asked(endpoint, tmp_path, [question(str(n)) for n in range(30)])
    assert len(strict.bodies) > 8  # about half of them
    assert report.n_failed == len(strict.bodies), "a verdict on the request is not asked of another replica"


# stops the asking; breaks the budget


async def test_a_wrong_key_ends_the_asking_with_the_servers_words_and_what_to_check(tmp_path) -> None:
    async with serving([NO_KEY], stays=True) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", max_in_flight=4)
        report, _ = await asked(endpoint, tmp_path, [question(str(n)) for n in range(200)])
    assert N_TO_STOP <= len(wire.bodies) < N_TO_STOP + 4
    assert (report.n_failed, report.n_not_asked) == (len(wire.bodies), 200 - len(wire.bodies))
    for words in ("5 requests in a row were denied (HTTP 401)", "Incorrect API key", "`api_key_env`"):
        assert words in report.stopped


async def test_a_wrong_key_now_and_then_ends_nothing(tmp_path) -> None:
    async with serving(*[[NO_KEY], [NO_KEY], [NO_KEY], [GOOD]] * 10, stays=True) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", max_in_flight=1)
        report, _ = await asked(endpoint, tmp_path, [question(str(n)) for n in range(40)])
    assert (report.n_failed, report.n_answered, report.stopped) == (30, 10, "")


@pytest.mark.parametrize(
    ("failed", "check"),
    [
        (Failure(kind=FailureKind.DENIED, message="no", http_status=402), "credit"),
        (Failure(kind=FailureKind.DENIED, message="insufficient_quota", http_status=429), "credit"),
        (Failure(kind=FailureKind.DENIED, message="no", http_status=403), "api_key_env"),
        (Failure(kind=FailureKind.DENIED, message="no", http_status=404), "served_name"),
        (Failure(kind=FailureKind.DENIED, message="certificate expired"), "base_url"),
    ],
)
def test_who_is_denied_is_told_what_to_check(failed, check) -> None:
    assert check in failures.what_to_check(failed)


async def test_verdicts_on_samples_lower_the_coverage_and_do_not_end_the_asking(tmp_path) -> None:
    async with serving(*[[TOO_LONG], [GOOD]] * 30, stays=True) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", max_in_flight=1)
        report, _ = await asked(endpoint, tmp_path, [question(str(n)) for n in range(60)], max_failed_share=0.05)
    assert (report.n_failed, report.n_answered, report.n_not_asked) == (30, 30, 0)


async def test_bad_requests_end_the_asking_once_the_budget_is_broken(tmp_path) -> None:
    bad = error("400 Bad Request", "top_p must be positive")
    async with serving(*[bad, [GOOD]] * 30, stays=True) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted", max_in_flight=1)
        report, _ = await asked(endpoint, tmp_path, [question(str(n)) for n in range(60)], max_failed_share=0.05)
    assert report.n_not_asked > 0


@pytest.mark.parametrize("kind", FailureKind)
def test_only_what_the_table_says_ends_the_asking(kind) -> None:
    report = AskReport()
    failed = Failure(kind=kind, message="no")
    for _ in range(N_TO_STOP):
        report.count(Response(request_digest="d", failure=failed, n_attempts=1, latency_s=0, asked_at=utc_now()))
    assert bool(report.stopped) == POLICIES[kind].stops_asking
    assert bool(report.n_failed_of_server) == POLICIES[kind].breaks_budget


async def test_a_canary_that_is_denied_is_asked_once() -> None:
    async with serving(error("402 Payment Required")) as wire:
        endpoint = Endpoint(wire.url, "m", "hosted")
        async with open_client(endpoint) as client:
            failed = await asyncio.wait_for(probe.try_capability(client, endpoint, "chat"), 5)
    assert failed is not None
    assert (failed.kind, len(wire.bodies)) == ("denied", 1)
