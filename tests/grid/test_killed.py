"""kill -9 in the middle of asking: nothing that was answered is asked again, and the numbers are the same."""

import signal
import time

import pytest

pytestmark = pytest.mark.slow


def test_after_kill_9_no_answered_request_is_asked_twice_and_the_numbers_are_those_of_a_calm_run(
    project, faulty
) -> None:
    calm = project.evaluate("gsm8k")["metrics"]
    for path in ("landing", "journal"):
        (project.data / path).rename(project.data / f"calm-{path}")
    faulty.set(model="mock", latency_s=0.3)
    with project.start("evaluate", "--model", "mock@a", "--benchmark", "gsm8k") as run:
        _wait_until(lambda: faulty.stats().get("answered", 0) >= 40)
        run.send_signal(signal.SIGKILL)
        run.communicate()
    n_requests_before, n_answered_before = faulty.stats()["requests"], faulty.stats()["answered"]
    assert 40 <= n_answered_before < 100, "the run was killed in the middle"
    faulty.change(latency_s=0.0)
    again = project.evaluate("gsm8k")["metrics"]
    stats = faulty.stats()
    # what was on the wire at the kill may have been answered to nobody: at most the in-flight limit
    assert stats.get("asked_again_though_answered", 0) <= 16
    assert stats["requests"] - n_requests_before <= 100 - n_answered_before + 16 + 1
    for key, metric in again.items():
        for name in ("value", "stderr", "ci_low", "ci_high", "n", "coverage"):
            assert metric[name] == calm[key][name]


def test_a_finished_cell_asks_nothing_when_it_is_materialized_again(project, faulty) -> None:
    project.evaluate("gsm8k")
    n_before = faulty.stats()["answered"]
    project.evaluate("gsm8k")
    assert faulty.stats()["answered"] == n_before == 100


def test_the_first_twenty_are_not_asked_again_when_all_are_wanted(project, faulty) -> None:
    project.evaluate("gsm8k", limit=20)
    assert faulty.stats()["answered"] == 20
    project.evaluate("gsm8k")
    assert faulty.stats()["answered"] == 100


def _wait_until(is_so, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)
