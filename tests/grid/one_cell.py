"""One cell, asked and landed as the asset does it, without Dagster: a process of its own that starts in no time.

`python one_cell.py` is a mother: she imports once, and gives birth to a cell for each JSON line that she reads, whose
number she prints. A life that comes to `pause_at` says so in its `said` file and waits there for its end.
"""

import asyncio
import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from eval_pipelines.client.journal import Journal
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import EvalPipelinesError
from eval_pipelines.evaluate import ask_benchmark
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import Evaluation, Request, Sample
from eval_pipelines.warehouse import files
from eval_pipelines.warehouse.landing import Landing

MODEL = Model(ModelKey("mock", "step-7"), "hosted", "f1")
MAX_IN_FLIGHT = 8


@dataclass
class Questions:
    """What `ask_benchmark` needs of a benchmark, without lm-eval."""

    n: int
    spec: BenchmarkSpec = field(default_factory=lambda: BenchmarkSpec(task="sums", max_failed_share=0.5))
    name: str = "sums"
    ask_version: str = "1-abc"
    needs: frozenset[str] = frozenset({"completions"})
    judged_model: None = None

    def requests(self) -> Iterator[Request]:
        for i in range(self.n):
            yield Request(sample_id=f"sums/{i}", subtask="sums", operation="completion", prompt=f"What is {i} + {i}?")

    def samples(self) -> Iterator[Sample]:
        return (
            Sample(sample_id=one.sample_id, subtask="sums", question="?", target="!", n_requests=1)
            for one in self.requests()
        )


def say(folder: Path, word: str) -> None:
    (folder / f"said-{os.getpid()}").write_text(word)


def live(
    url: str,
    folder: str,
    run_id: str,
    n: int,
    pause_at: str | None = None,
    n_bytes: int | None = None,
    full_at: str | None = None,
) -> None:
    """Ask and land the cell.

    Args:
        n_bytes: no file may become longer: a write stops in its middle.
        full_at: whoever syncs a file with this in its path hears that the disk is full, as a network's disk says it.
    """
    root = Path(folder)
    if full_at:
        fill(full_at)
    if n_bytes:
        limit_files(n_bytes)

    def at(moment: str) -> None:
        if moment == pause_at:
            say(root, moment)
            time.sleep(3600)

    at("at birth")
    landing, questions = Landing(root), Questions(n)
    link, remove = os.link, Journal.remove

    def named(*names: Any) -> None:
        at("half landed")
        link(*names)

    def removed(journal: Journal) -> None:
        at("told")
        remove(journal)
        at("removed")

    files.os.link, Journal.remove = named, removed  # type: ignore[attr-defined, method-assign]

    def land(evaluation: Evaluation, new: Any) -> None:
        landing.land_responses(evaluation, new)
        at("landed")
        landing.land_evaluation(evaluation)

    def known() -> dict[str, datetime]:
        return landing.answered(MODEL.key, MODEL.fingerprint)

    endpoint = Endpoint(
        url, "mock", "hosted", max_in_flight=MAX_IN_FLIGHT, request_timeout_s=10, offers=questions.needs
    )
    landing.land_samples(questions.name, questions.ask_version, questions.samples())
    journals = root / "journal"
    asking = ask_benchmark(
        questions, MODEL, lambda: nullcontext(endpoint), limit=None, run_id=run_id, asked_by="a test", journals=journals, known=known,
        land=land,
    )  # type: ignore[arg-type]  # fmt: skip
    try:
        asyncio.run(asking)
        say(root, "done")
    except EvalPipelinesError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        say(root, f"{type(error).__name__}: {error}")


def limit_files(n_bytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def fill(part: str) -> None:
    sync = os.fsync

    def full(fd: int) -> None:
        if part in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(fd)

    os.fsync = full


def mother() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                live(**json.loads(line))
            finally:
                os._exit(0)
        print(json.dumps(child), flush=True)


if __name__ == "__main__":
    mother()
