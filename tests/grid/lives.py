"""Lives that work on one cell, and what they leave: drives tests/grid/one_cell.py."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from eval_pipelines.client import journal
from eval_pipelines.warehouse.landing import Landing
from tests.chaos.asking import Chaos
from tests.grid.one_cell import MODEL, Questions


def wait_until(is_so: Callable[[], Any], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.002)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@dataclass
class Cell:
    """One cell in a folder, and the lives that work on it."""

    chaos: Chaos
    mother: "subprocess.Popen[str]"
    folder: Path
    n: int
    n_lives: int = 0
    lives: list[int] = field(default_factory=list)

    def live(self, **options: Any) -> int:
        self.n_lives += 1
        life = {"url": f"{self.chaos.faces[0]}/v1", "folder": str(self.folder), "run_id": f"r{self.n_lives}"}
        assert self.mother.stdin is not None
        assert self.mother.stdout is not None
        self.mother.stdin.write(json.dumps({**life, "n": self.n, **options}) + "\n")
        self.mother.stdin.flush()
        pid = int(self.mother.stdout.readline())
        self.lives.append(pid)
        return pid

    def said(self, pid: int) -> str:
        path = self.folder / f"said-{pid}"
        return path.read_text() if path.exists() else ""

    def to_its_end(self, **options: Any) -> str:
        pid = self.live(**options)
        wait_until(lambda: not is_alive(pid))
        return self.said(pid)

    def kill(self, pid: int) -> None:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))
        # what is still on its way to the server arrives
        wait_until(lambda: not self.chaos.seen()["n_open"])

    def asked(self) -> Counter[str]:
        """How often each prompt was asked."""
        return Counter({prompt: len(attempts) for prompt, attempts in self.chaos.noted().items()})

    def kept(self) -> set[str]:
        """Prompts whose answer a later life can know: journalled or landed."""
        prompts = {one.digest: one.prompt or "" for one in Questions(self.n).requests()}
        journalled = {one.request_digest for path in self.journals() for one in journal.read(path)}
        landed = Landing(self.folder).answered(MODEL.key, MODEL.fingerprint)
        return {prompts[digest] for digest in journalled | landed.keys()}

    def journals(self) -> list[Path]:
        return sorted((self.folder / "journal").glob("*.jsonl"))

    def rows(self) -> list[tuple[str, str]]:
        """Every landed row."""
        paths = (self.folder / "landing" / "responses").rglob("[!.]*.parquet")
        tables = [pq.read_table(path, columns=["sample_id", "text"]) for path in paths]
        return sorted((row["sample_id"], row["text"]) for table in tables for row in table.to_pylist())

    def evaluation(self) -> dict[str, Any]:
        """The last evaluation, but for what depends on when and how it was asked."""
        one = Landing(self.folder).latest_evaluation(MODEL.key, "sums")
        assert one is not None
        names = ("evaluation_id", "n_samples", "n_requests", "n_answered", "is_within_budget", "parameters", "failures")
        return {name: getattr(one, name) for name in names}
