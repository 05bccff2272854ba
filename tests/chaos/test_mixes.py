"""Faults mixed at random, in bursts, at one of several replicas, and through a whole evaluation."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from eval_pipelines.client.failures import Backoff
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.evaluate import Asked, ask_benchmark
from eval_pipelines.warehouse.landing import Landing
from tests.chaos.asking import QUICK, WAYS, Chaos, Told, asked, endpoint, questions, told_of
from tests.chaos.test_each_fault import FINAL, KINDS, RETRIED
from tests.grid.one_cell import MODEL, Questions

pytestmark = pytest.mark.slow

LATE_S = 20.0
N_MIXES, N_ATTEMPTS = 6, 4
# those that make everybody wait are for a file of their own
MIXED = [fault for fault in (*RETRIED, *FINAL) if not fault.startswith("429 ")]


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return WAYS[request.param]


def mix(seed: int, *, is_new_each_time: bool, share: float = 0.6) -> Iterator[dict[str, Any]]:
    """Several faults, each at a share of its own of the prompts, or of the attempts."""
    draw = random.Random(seed)
    chosen = draw.sample(MIXED, 6)
    shares = [draw.random() for _ in chosen]
    low = 0.0
    for fault, part in zip(chosen, shares, strict=True):
        high = low + share * part / sum(shares)
        yield {"kind": fault, "of": (low, high), "salt": f"mix {seed}", "is_new_each_time": is_new_each_time}
        low = high


@pytest.fixture(scope="module", params=range(N_MIXES))
def mixed(request: pytest.FixtureRequest, chaos: Chaos, calm: Told, way: dict[str, Any], tmp_path_factory: Any) -> Told:
    seed = request.param
    chaos.set(*mix(seed, is_new_each_time=seed % 2 == 0))
    server = endpoint(chaos.faces[0], request_timeout_s=LATE_S, max_in_flight=3 + 4 * (seed % 5), **way)
    return told_of(chaos, tmp_path_factory.mktemp("mix"), server, max_attempts=N_ATTEMPTS)


def test_in_a_mix_each_prompt_ends_as_its_last_attempt_did(mixed) -> None:
    told = {prompt: one.failure.kind if one.failure else "answer" for prompt, one in mixed.by_prompt.items()}
    assert told == {prompt: KINDS.get(log[-1], log[-1]) for prompt, log in mixed.noted.items()}


def test_in_a_mix_whoever_is_not_answered_was_asked_as_often_as_it_may_help(mixed) -> None:
    unanswered = [log for log in mixed.noted.values() if log[-1] != "answer"]
    assert [len(log) for log in unanswered if log[-1] not in FINAL] == [
        N_ATTEMPTS for log in unanswered if log[-1] not in FINAL
    ]


def test_in_a_mix_nobody_is_asked_more_often_than_allowed(mixed) -> None:
    assert max(len(log) for log in mixed.noted.values()) <= N_ATTEMPTS


def test_in_a_mix_what_is_final_is_not_asked_again(mixed) -> None:
    assert [log for log in mixed.noted.values() if {*log[:-1]} & {"answer", *FINAL}] == []


def test_in_a_mix_answers_are_those_of_a_calm_run(mixed, calm) -> None:
    assert mixed.answers == {digest: calm.answers[digest] for digest in mixed.answers}


def test_in_a_mix_the_journal_holds_the_answers_and_nothing_else(mixed) -> None:
    assert mixed.journalled == {one.request_digest: one for _, one in mixed.outcomes if one.is_answer}


def test_in_a_mix_the_report_adds_up(mixed) -> None:
    kinds = Counter(KINDS[log[-1]] for log in mixed.noted.values() if log[-1] != "answer")
    assert (mixed.report.failures, mixed.report.n_answered) == (kinds, len(mixed.noted) - kinds.total())
    assert mixed.report.n_not_asked == 40 - len(mixed.noted)
    assert mixed.report.n_attempts == sum(len(log) for log in mixed.noted.values())


def test_after_a_mix_nothing_is_left(mixed) -> None:
    assert (mixed.after, mixed.n_open_after) == (mixed.before, 0)


def test_mixes_are_about_both_answers_and_failures() -> None:
    faults = [fault for seed in range(N_MIXES) for fault in mix(seed, is_new_each_time=False)]
    assert {fault["kind"] for fault in faults} >= set(random.Random(1).sample(MIXED, 3))
    assert len({fault["kind"] for fault in faults}) > 2 * len(MIXED) / 3


# bursts


@pytest.mark.parametrize("fault", ["503", "reset before the reply", "html in 200", "closed in a long body"])
def test_a_burst_that_ends_costs_nothing(chaos, calm, tmp_path, way, fault) -> None:
    chaos.set({"kind": fault, "until_s": 0.2})
    server = endpoint(chaos.faces[0], request_timeout_s=LATE_S, max_in_flight=8, **way)
    told = told_of(chaos, tmp_path, server, max_attempts=60)
    assert any(log[0] == fault for log in told.noted.values())
    assert told.answers == calm.answers


# several replicas, one of them chaotic

CHAOTIC = ["503", "never", "reset before the reply", "closed in the body", "truncated JSON", "html in 200", "401"]


@pytest.fixture(scope="module", params=[(fault, 2 + at % 2) for at, fault in enumerate(CHAOTIC)], ids=str)
def beside(
    request: pytest.FixtureRequest, chaos: Chaos, calm: Told, way: dict[str, Any], tmp_path_factory: Any
) -> Told:
    fault, n = request.param
    chaos.set({"kind": fault})
    for face in range(1, n):
        chaos.set(face=face)
    timeout_s = 0.8 if fault == "never" else LATE_S
    server = endpoint(*chaos.faces[:n], max_in_flight=12, request_timeout_s=timeout_s, **way)
    told = asyncio.run(asked(server, tmp_path_factory.mktemp("replicas"), questions(), max_attempts=N_ATTEMPTS))
    told.noted = {prompt: log for face in range(1, n) for prompt, log in chaos.noted(face).items()}
    return told


def test_what_one_replica_spoils_the_others_answer(beside, calm) -> None:
    assert beside.answers == calm.answers


def test_beside_a_chaotic_replica_nobody_is_answered_twice(beside) -> None:
    assert beside.noted == {one.prompt: ["answer"] for one in questions()}


def test_beside_a_chaotic_replica_nothing_is_left(beside) -> None:
    assert beside.after == beside.before


def test_a_replica_that_is_gone_is_left_out_and_comes_back(chaos, calm, tmp_path, way) -> None:
    chaos.set(gone={"at": 5, "s": 0.3}, latency_s=0.01)
    chaos.set(face=1, latency_s=0.01)
    server = endpoint(*chaos.faces[:2], max_in_flight=6, request_timeout_s=LATE_S, **way)
    told = asyncio.run(asked(server, tmp_path, questions(), max_attempts=N_ATTEMPTS))
    assert told.answers == calm.answers
    time.sleep(0.4)  # it is back for whoever comes next


# a whole evaluation


@dataclass
class Landed:
    """A mix that went through asking and landing."""

    asked: Asked
    landing: Landing
    noted: dict[str, list[str]]
    digests: dict[str, str]


@pytest.fixture(scope="module", params=[101, 102])
def landed(
    request: pytest.FixtureRequest, chaos: Chaos, way: dict[str, Any], tmp_path_factory: Any
) -> Iterator[Landed]:
    root, cell = tmp_path_factory.mktemp("landed"), Questions(60, BenchmarkSpec(task="sums", max_failed_share=0.9))
    chaos.set(*mix(request.param, is_new_each_time=request.param == 102))
    landing = Landing(root)

    def land(evaluation: Any, new: Any) -> None:
        landing.land_responses(evaluation, new)
        landing.land_evaluation(evaluation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backoff, "wait_s", lambda _, n, wish, jitter: QUICK.base_s)
        server = endpoint(chaos.faces[0], max_in_flight=10, request_timeout_s=LATE_S, offers=cell.needs, **way)
        asking = ask_benchmark(
            cell, MODEL, lambda: nullcontext(server), limit=None, run_id="r1", asked_by="a test", journals=root / "journal",
            known=dict, land=land,
        )  # type: ignore[arg-type]  # fmt: skip
        done = asyncio.run(asking)
    digests = {one.prompt or "": one.digest for one in cell.requests()}
    return Landed(done, landing, chaos.noted(), digests)


def test_coverage_is_exactly_what_the_server_answered(landed) -> None:
    answered = {landed.digests[prompt] for prompt, log in landed.noted.items() if log[-1] == "answer"}
    assert landed.landing.answered(MODEL.key, MODEL.fingerprint).keys() == answered
    assert 0 < landed.asked.evaluation.n_answered == len(answered) < 60


def test_every_failure_is_landed_with_its_kind(landed) -> None:
    rows = landed.landing.responses_for(MODEL.key, MODEL.fingerprint, landed.digests.values())
    told = {digest: row.failure.kind.value for digest, row in rows.items() if row.failure}
    done = {landed.digests[p]: KINDS[log[-1]] for p, log in landed.noted.items() if log[-1] != "answer"}
    assert told == done


def test_the_evaluation_counts_failures_by_kind(landed) -> None:
    kinds = Counter(KINDS[log[-1]] for log in landed.noted.values() if log[-1] != "answer")
    assert json.loads(landed.asked.evaluation.failures) == kinds
