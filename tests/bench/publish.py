"""`make bench-publish`: what a publication and a query cost when the landing is 1 %, 10 % and 100 % of so many evaluations.

    python -m tests.bench.publish [N_MODELS] [N_BENCHMARKS] [N_SAMPLES] [FOLDER]     default 2000 20 1000, a temporary folder

CPU seconds and milliseconds; each line is measured in a process of its own, whose peak memory is told.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_SINGLE, N_QUERIES = 10, 7
LEVELS = (0.01, 0.1, 1.0)


def main() -> None:
    sizes = [int(one) for one in sys.argv[1:4]] + [2_000, 20, 1_000][len(sys.argv[1:4]) :]
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(sys.argv[4]) if len(sys.argv) > 4 else Path(folder), *sizes)


def measure(root: Path, n_models: int, n_benchmarks: int, n_samples: int) -> None:
    """Grow one landing level by level, and print a row of the table in docs/warehouse.md for each."""
    print(
        "| scores | one evaluation: CPU s | wall s (slowest of 10) | MiB | marts ms | drill-down ms | published file MB | segments |"
    )
    print("|---|---|---|---|---|---|---|---|")
    done = 0
    for level in LEVELS:
        upto = max(1, round(n_models * level))
        for first in range(done, upto, 50):
            _child("land", root, first, min(upto, first + 50), n_benchmarks, n_samples)
        _child("publish", root)
        single = _child("single", root, 10_000 + upto, n_samples, n_benchmarks)
        asked = _child("query", root)
        done = upto
        print(
            f"| {upto * n_benchmarks * n_samples:,} | {single['cpu_s']:.2f} | {single['wall_s']:.2f} ({single['worst_s']:.2f}) | "
            f"{max(single['mib'], asked['mib']):.0f} | {asked['marts_ms']:.0f} | {asked['drill_ms']:.0f} | "
            f"{asked['file_mb']:.0f} | {asked['n_segments']} |",
            flush=True,
        )
    whole = _child("rebuild", root)
    disk = _child("disk", root)
    print(f"\nall built anew: {whole['cpu_s']:.0f} s CPU, {whole['wall_s']:.0f} s, {whole['mib']:.0f} MiB")
    print("disk: " + ", ".join(f"{what} {size / 1e9:.2f} GB" for what, size in disk.items()))


def _child(what: str, root: Path, *args: int) -> dict[str, Any]:
    command = [sys.executable, "-c", "from tests.bench.publish import child; child()", what, str(root), *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def child() -> None:
    """One measurement, as JSON on the last line."""
    what, root, *args = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    steps: dict[str, Callable[..., dict[str, Any]]] = {
        "land": _land, "publish": _publish, "single": _single, "query": _query, "rebuild": _rebuild, "disk": _disk,
    }  # fmt: skip
    told = steps[what](root, *args)
    if what != "disk":
        told["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(told))


def _land(root: Path, first: int, last: int, n_benchmarks: int, n_samples: int) -> dict[str, Any]:
    from tests.bench.landed_world import land_models

    # as long as a few files are there, all are looked for; more must be announced, as writers do
    land_models(root, range(first, last), n_benchmarks, n_samples, announced=True)
    return {}


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def _publish(root: Path) -> dict[str, Any]:
    from eval_pipelines.warehouse.publish import publish

    cpu_s, wall_s = _timed(lambda: publish(root))
    return {"cpu_s": cpu_s, "wall_s": wall_s}


def _rebuild(root: Path) -> dict[str, Any]:
    from eval_pipelines.warehouse.publish import publish

    cpu_s, wall_s = _timed(lambda: publish(root, is_full=True))
    return {"cpu_s": cpu_s, "wall_s": wall_s}


def _single(root: Path, model: int, n_samples: int, n_benchmarks: int) -> dict[str, Any]:
    """One new evaluation at a time: the median; that of the slowest, with a merge, is within the wall time told."""
    import numpy as np
    import pyarrow as pa

    from eval_pipelines.warehouse.publish import publish
    from tests.bench.landed_world import WORDS, land_evaluation

    rng = np.random.default_rng(model)
    texts = pa.array([" ".join(rng.choice(WORDS, 30)) for _ in range(1_000)])
    cpu, wall = [], []
    for n in range(N_SINGLE):
        land_evaluation(root, model, f"bench-{n % n_benchmarks:02}", n_samples, rng, texts, announced=True)
        report = None

        def one() -> None:
            nonlocal report
            report = publish(root)

        cpu.append(_timed(one)[0])
        assert report is not None
        assert not report.is_full_rebuild
        wall.append(report.wall_s)
    return {"cpu_s": statistics.median(cpu), "wall_s": statistics.median(wall), "worst_s": max(wall)}


def _query(root: Path) -> dict[str, Any]:
    """The slowest of some questions to marts, and of some to samples; each at its median."""
    from eval_pipelines.warehouse.read import open_published

    connection = open_published(root)
    model = "family-0@step-00001000"
    marts = [
        "FROM leaderboard WHERE benchmark = 'bench-03' ORDER BY rank LIMIT 50",
        f"FROM latest_metrics WHERE model_key = '{model}'",
        "FROM checkpoint_progress WHERE family = 'family-3' AND benchmark = 'bench-03' ORDER BY step",
        "FROM metric_history WHERE benchmark = 'bench-03' AND family = 'family-3'",
        "FROM item_analysis WHERE benchmark = 'bench-03' AND suspicion IS NOT NULL",
        "SELECT status, count(*) FROM grid GROUP BY status",
        "FROM leaderboard_overall ORDER BY rank LIMIT 20",
        "FROM comparisons WHERE family = 'family-3' AND against = 'previous'",
        "FROM regressions",
        f"FROM serving_performance WHERE model_key = '{model}'",
        f"FROM coverage_and_failures WHERE model_key = '{model}'",
    ]
    drills = [
        f"FROM answers('{model}', 'bench-03', 'main/17')",
        f"FROM sample_scores WHERE model_key = '{model}' AND benchmark = 'bench-03'",
        "FROM sample_flips('family-0@step-00002000', 'bench-03')",
    ]

    def median_ms(sql: str) -> float:
        found = []
        for _ in range(N_QUERIES):
            began = time.perf_counter()
            assert connection.execute(sql).fetchall() is not None
            found.append(time.perf_counter() - began)
        return statistics.median(found) * 1000

    told = {
        "marts_ms": max(map(median_ms, marts)),
        "drill_ms": max(map(median_ms, drills)),
        "each": {sql: median_ms(sql) for sql in (*marts, *drills)},
        "file_mb": (root / "scores.duckdb").stat().st_size / 1e6,
        "n_segments": connection.execute("SELECT count(*) FROM segments").fetchall()[0][0],
    }
    connection.close()
    return told


def _disk(root: Path) -> dict[str, Any]:
    from tests.bench.landed_world import jsonl_bytes

    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*.parquet"))

    from eval_pipelines.warehouse.read import query

    [counted] = query(root, "SELECT sum(size_bytes)::BIGINT AS n FROM segments")
    [meta] = query(root, "SELECT n_evaluations FROM meta")
    return {
        "raw JSONL (answers and scores)": jsonl_bytes(root) * meta["n_evaluations"],
        "landing": size(root / "landing"),
        "segments": counted["n"],
        "published file": (root / "scores.duckdb").stat().st_size,
    }


if __name__ == "__main__":
    main()
