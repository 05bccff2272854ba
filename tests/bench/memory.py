"""`make bench-memory`: the memory of one evaluation of many questions (a million unless told), asked, landed, streamed.

Prints the most memory the process had after each tenth: it should not grow with the answers.
"""

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eval_pipelines.client.report import AskReport
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.evaluate import ask_benchmark
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import Request, Sample
from eval_pipelines.warehouse.landing import Landing

N = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
PARAMS = {"max_tokens": 256, "temperature": 0, "stop": ["Question:"], "seed": 1234}


@dataclass
class Questions:
    """A benchmark whose questions are made as they are read."""

    n: int
    spec: BenchmarkSpec = field(default_factory=lambda: BenchmarkSpec(task="sums"))
    name: str = "sums"
    ask_version: str = "1-abc"
    needs: frozenset[str] = frozenset({"chat"})
    judged_model: None = None

    def requests(self) -> Iterator[Request]:
        for i in range(self.n):
            content = f"Question {i}: " + "how many eggs are left, " * 12
            messages = ({"role": "user", "content": content},)
            yield Request(sample_id=f"sums/{i}", subtask="sums", operation="chat", messages=messages, params=PARAMS)

    def samples(self) -> Iterator[Sample]:
        return iter(())


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def evaluate(url: str, folder: Path) -> None:
    landing, questions, told = Landing(folder), Questions(N), 0
    model = Model(ModelKey("mock", "step-7"), "hosted", "f1")

    @asynccontextmanager
    async def open_endpoint() -> AsyncIterator[Endpoint]:
        print(f"{0:>12,} asked {peak_mib():>8.0f} MiB", flush=True)
        yield Endpoint(f"{url}/v1", "m", "hosted", max_in_flight=64, min_in_flight=64)

    def progress(report: AskReport) -> None:
        nonlocal told
        if report.n_done * 10 // N > told:
            told = report.n_done * 10 // N
            print(f"{report.n_done:>12,} asked {peak_mib():>8.0f} MiB", flush=True)

    asked = await ask_benchmark(
        questions, model, open_endpoint, limit=None, run_id="r", asked_by="bench", journals=folder / "journal",
        known=lambda: landing.answered(model.key, model.fingerprint),
        land=lambda evaluation, new: (landing.land_responses(evaluation, new), landing.land_evaluation(evaluation)),
        on_progress=progress,
    )  # fmt: skip
    assert asked.evaluation.n_answered == N, asked.report.first_failure


def main() -> None:
    command = [sys.executable, str(Path(__file__).with_name("wire_server.py")), "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert server.stdout is not None
        began = time.perf_counter()
        asyncio.run(evaluate(server.stdout.readline().strip(), Path(folder)))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        print(
            f"{N:>12,} landed {peak_mib():>7.0f} MiB, {size / 2**20:.0f} MiB on disk, {time.perf_counter() - began:.0f} s"
        )
        server.terminate()


if __name__ == "__main__":
    main()
