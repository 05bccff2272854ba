"""What goes wrong before, between and beneath requests: doors, names, certificates, and connections that are reused."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.asking import WAYS, Told, answers, asked, endpoint, questions, told_of

pytestmark = pytest.mark.slow

LATE_S = 20.0


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return WAYS[request.param]


def all_answered_as(calm: Told, told: Told) -> bool:
    return told.answers == calm.answers and told.report.n_failed == 0


def failures_of(folder: Path, url: str, **fields: Any) -> Told:
    return asyncio.run(asked(endpoint(url, **fields), folder, questions(10)))


# the door


def test_a_server_that_is_gone_for_a_moment_costs_nothing(chaos, calm, tmp_path, way) -> None:
    # backoff of 5 to 20 ms: the moment must be shorter than all attempts together
    chaos.set(gone={"at": 10, "s": 0.1}, latency_s=0.01)
    told = told_of(chaos, tmp_path, endpoint(chaos.faces[0], max_in_flight=8, **way), max_attempts=40)
    assert all_answered_as(calm, told)


def test_a_server_that_is_gone_asks_nobody_who_answered_again(chaos, tmp_path, way) -> None:
    chaos.set(gone={"at": 10, "s": 0.1}, latency_s=0.01)
    told = told_of(chaos, tmp_path, endpoint(chaos.faces[0], max_in_flight=8, **way), max_attempts=40)
    assert [log for log in told.noted.values() if "answer" in log[:-1]] == []


def test_a_door_that_stays_shut_is_a_failure_of_each_and_ends_at_once(chaos, tmp_path) -> None:
    chaos.set()
    chaos.gone(1.0)
    told = failures_of(tmp_path, chaos.faces[0], request_timeout_s=LATE_S)
    assert told.report.failures == {"connection": 10}
    assert told.report.n_attempts == 30
    assert told.report.wall_s < 0.9
    time.sleep(max(0.0, 1.1 - told.report.wall_s))  # it is back for whoever comes next


def test_a_slow_door_is_waited_for(chaos, calm, tmp_path, way) -> None:
    chaos.set()
    chaos.deaf(0.3)
    told = told_of(chaos, tmp_path, endpoint(chaos.faces[0], request_timeout_s=LATE_S, **way))
    assert all_answered_as(calm, told)
    assert told.report.n_attempts == 40


def test_a_door_that_is_too_slow_is_a_timeout(chaos, tmp_path) -> None:
    chaos.set()
    chaos.deaf(1.5)
    told = failures_of(tmp_path, chaos.faces[0], request_timeout_s=0.3)
    assert told.report.failures == {"timeout": 10}
    assert 0.9 < told.report.wall_s < 1.9


# names and certificates


@pytest.fixture(scope="module")
def unresolved(tmp_path_factory: Any) -> Told:
    """Ten questions to a name that does not resolve: some resolvers take seconds to say so."""
    return failures_of(tmp_path_factory.mktemp("unresolved"), "http://no-such-host.invalid", request_timeout_s=60.0)


def test_a_name_that_does_not_resolve_says_so(unresolved) -> None:
    assert unresolved.report.failures == {"connection": 10}
    assert "lookup" in unresolved.report.first_failure or "resolve" in unresolved.report.first_failure


def test_after_a_name_that_does_not_resolve_nothing_is_left(unresolved) -> None:
    assert unresolved.after == unresolved.before


def test_to_an_untrusted_server_nothing_is_said_and_the_asking_ends_with_a_hint(chaos, tmp_path) -> None:
    if len(chaos.faces) == 3:
        pytest.skip("no certificate could be made: `openssl` is not installed")
    chaos.set(face=3)
    fields: dict[str, Any] = {"headers": {"authorization": "Bearer secret"}, "max_in_flight": 1}
    told = failures_of(tmp_path, chaos.faces[3], request_timeout_s=LATE_S, **fields)
    assert (told.report.failures, told.report.n_not_asked) == ({"denied": 5}, 5)
    assert "certificate does not hold" in told.report.stopped
    assert chaos.seen(3)["n_requests"] == 0


def test_a_handshake_that_breaks_is_a_failure(chaos, tmp_path) -> None:
    chaos.set()
    told = failures_of(tmp_path, chaos.faces[0].replace("http:", "https:"), request_timeout_s=LATE_S)
    assert told.report.failures == {"connection": 10}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_where_nobody_can_be_reached_nothing_is_left(chaos, tmp_path, scheme) -> None:
    chaos.set()
    if scheme == "http":
        chaos.gone(0.3)
    told = failures_of(tmp_path, chaos.faces[0].replace("http:", f"{scheme}:"), request_timeout_s=LATE_S)
    assert told.after == told.before
    time.sleep(0.3)


# connections that are used again


@pytest.mark.parametrize("closes_after_s", [0.0, 0.001])
def test_a_connection_that_closes_as_the_next_request_is_sent_costs_no_answer(
    chaos, calm, tmp_path, way, closes_after_s
) -> None:
    chaos.set(closes_after_s=closes_after_s)
    told = told_of(chaos, tmp_path, endpoint(chaos.faces[0], max_in_flight=4, **way), max_attempts=10)
    assert all_answered_as(calm, told)


@pytest.mark.parametrize("fault", ["closed before the reply", "reset before the reply"])
def test_a_stale_connection_is_an_attempt_and_no_more(chaos, calm, tmp_path, way, fault) -> None:
    chaos.set({"kind": fault, "reused": True, "first": 2})
    told = told_of(chaos, tmp_path, endpoint(chaos.faces[0], max_in_flight=4, request_timeout_s=LATE_S, **way))
    assert all_answered_as(calm, told)
    assert any(fault in log for log in told.noted.values()), "connections are used again"
    assert told.report.n_attempts == sum(len(log) for log in told.noted.values())


def test_a_reply_that_comes_twice_answers_nobody_else(chaos, calm, tmp_path, way) -> None:
    chaos.set({"kind": "twice"})
    told = told_of(chaos, tmp_path, endpoint(chaos.faces[0], max_in_flight=4, request_timeout_s=LATE_S, **way))
    assert told.answers == {digest: calm.answers[digest] for digest in told.answers}


def test_after_a_reply_that_comes_twice_all_are_answered(chaos, calm, tmp_path, way) -> None:
    chaos.set({"kind": "twice", "of": (0.0, 0.3)})
    told = told_of(chaos, tmp_path, endpoint(chaos.faces[0], max_in_flight=4, request_timeout_s=LATE_S, **way))
    assert all_answered_as(calm, told)


def test_a_body_longer_than_its_length_answers_nobody_else(chaos, calm, tmp_path, way) -> None:
    chaos.set({"kind": "too short a length", "first": 1})
    told = told_of(chaos, tmp_path, endpoint(chaos.faces[0], max_in_flight=4, request_timeout_s=LATE_S, **way))
    assert all_answered_as(calm, told)


# size


def test_a_huge_reply_that_is_no_answer_is_a_short_failure(chaos, tmp_path, way) -> None:
    chaos.set({"kind": "huge", "of": (0.0, 0.1)})
    told = told_of(chaos, tmp_path, endpoint(chaos.faces[0], request_timeout_s=LATE_S, **way), max_attempts=1)
    n_huge = sum(log == ["huge"] for log in told.noted.values())
    assert n_huge > 0
    assert told.report.failures == {"malformed": n_huge}
    assert max(len(one.failure.message) for _, one in told.outcomes if one.failure) <= 500


def test_while_a_huge_reply_arrives_others_are_answered(chaos, calm, tmp_path, way) -> None:
    chaos.set({"kind": "huge", "of": (0.0, 0.1), "first": 1})
    told = told_of(chaos, tmp_path, endpoint(chaos.faces[0], request_timeout_s=LATE_S, **way))
    assert answers(told.by_prompt.values()) == calm.answers
