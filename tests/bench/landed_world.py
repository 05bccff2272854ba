"""A landing of any size, written directly: the files that so many evaluations would have landed, answers made up.

python -m tests.bench.landed_world ROOT FIRST LAST [N_BENCHMARKS] [N_SAMPLES]    models FIRST (included) to LAST (not)
"""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eval_pipelines.keys import digest
from eval_pipelines.warehouse.shapes import arrow_schema

START = datetime(2026, 1, 1, tzinfo=UTC)
N_BENCHMARKS, N_SAMPLES = 20, 1_000
N_FAMILIES = 10
WORDS = (
    "the of sum is then we add so total each per cost apples hours 12 7 35 half twice left pays gives day km".split()  # noqa: SIM905
)


def main() -> None:
    root, first, last, *sizes = sys.argv[1:]
    n_benchmarks, n_samples = (int(size) for size in (*sizes, N_BENCHMARKS, N_SAMPLES)[:2])
    land_models(Path(root), range(int(first), int(last)), n_benchmarks, n_samples)


def land_models(
    root: Path, models: range, n_benchmarks: int = N_BENCHMARKS, n_samples: int = N_SAMPLES, *, announced: bool = False
) -> None:
    """Land every benchmark of these models. `announced`: as a landing does, so that it need not be walked for."""
    rng = np.random.default_rng(models.start)
    texts = pa.array([" ".join(rng.choice(WORDS, 30)) for _ in range(5_000)])
    for benchmark in (f"bench-{n:02}" for n in range(n_benchmarks)):
        _write(root, "samples", f"benchmark={benchmark}", "v1", n_samples, _samples(benchmark, n_samples, texts), False)
    for model in models:
        for n in range(n_benchmarks):
            land_evaluation(root, model, f"bench-{n:02}", n_samples, rng, texts, announced=announced)


def land_evaluation(
    root: Path, n: int, benchmark: str, n_samples: int, rng: Any, texts: pa.Array, *, announced: bool = False
) -> None:
    """One evaluation of model number `n`, as four files."""
    step, family = (n // N_FAMILIES + 1) * 1_000, f"family-{n % N_FAMILIES}"
    model = f"{family}@step-{step:08}"
    asked_at = START + timedelta(minutes=n, seconds=int(benchmark[-2:]))
    identity = {
        "evaluation_id": digest([model, benchmark], n_bytes=6), "run_id": digest(["run", n], n_bytes=16), "model_key": model,
        "family": family, "revision": f"step-{step:08}", "step": step, "fingerprint": digest([model], n_bytes=8),
        "benchmark": benchmark, "ask_version": "v1", "score_version": "s1", "score_run_id": digest(["run", n], n_bytes=16),
        "recorded_at": asked_at,
    }  # fmt: skip
    skill, ids = 0.2 + 0.6 * n / (n + 300), [f"main/{i}" for i in range(n_samples)]
    values = (rng.random(n_samples) < skill * (0.5 + np.arange(n_samples) / n_samples)).astype(float)
    at = f"model={model}/benchmark={benchmark}", f"{identity['evaluation_id']}-{identity['run_id']}"
    digests = [f"{int(one):032x}" for one in rng.integers(0, 2**63, n_samples)]
    said = pc.binary_join_element_wise(
        texts.take(pa.array(rng.integers(0, len(texts), n_samples))),
        texts.take(pa.array(rng.integers(0, len(texts), n_samples))),
        ". ",
    )
    _write(root, "responses", *at, n_samples, identity | {
        "request_digest": digests, "sample_id": ids, "subtask": "main", "part": 0, "repeat": 0, "operation": "chat", "text": said,
        "n_attempts": 1, "latency_s": rng.random(n_samples), "prompt_tokens": rng.integers(80, 200, n_samples),
        "completion_tokens": rng.integers(20, 90, n_samples), "finish_reason": "stop", "asked_at": asked_at,
    }, announced)  # fmt: skip
    _write(root, "evaluations", *at, 1, identity | {
        "parameters": "{}", "endpoint": "http://127.0.0.1:8000/v1", "backend": "vllm", "server_version": "0.32.0",
        "n_samples": n_samples, "n_requests": n_samples, "n_answered": n_samples, "n_reused": 0, "n_failed": 0, "failures": "{}",
        "is_within_budget": True, "prompt_tokens": 140_000, "completion_tokens": 55_000, "wall_s": 60.0, "asked_by": "bench",
        "project_version": "0.1.0",
    }, announced)  # fmt: skip
    at = at[0], f"{identity['evaluation_id']}-s1-{identity['run_id']}"
    graded = {"subtask": "main", "metric": "exact_match", "filter": "strict"}
    extracted = pa.array([str(one) for one in rng.integers(0, 500, n_samples)])
    _write(root, "scores", *at, n_samples, identity | graded | {
        "sample_id": ids, "value": values, "extracted": extracted,
    }, announced)  # fmt: skip
    mean = float(values.mean())
    spread = (mean * (1 - mean) / n_samples) ** 0.5
    _write(root, "metrics", *at, 2, identity | graded | {
        "subtask": ["", "main"], "value": mean, "stderr": spread, "ci_low": max(0.0, mean - 1.96 * spread),
        "ci_high": min(1.0, mean + 1.96 * spread), "bound_low": mean, "bound_high": mean, "n": n_samples, "n_asked": n_samples,
        "coverage": 1.0, "higher_is_better": True, "is_headline": [True, False],
    }, announced)  # fmt: skip


def jsonl_bytes(root: Path, kinds: tuple[str, ...] = ("responses", "scores")) -> int:
    """What the rows of one evaluation take as JSON lines, nulls left out."""
    n = 0
    for kind in kinds:
        path = next((root / "landing" / kind).rglob("*.parquet"))
        for row in pq.ParquetFile(path).read().to_pylist():
            n += len(json.dumps({key: value for key, value in row.items() if value is not None}, default=str)) + 1
    return n


def _samples(benchmark: str, n: int, texts: pa.Array) -> Mapping[str, Any]:
    return {
        "benchmark": benchmark, "ask_version": "v1", "sample_id": [f"main/{i}" for i in range(n)], "subtask": "main",
        "question": texts.take(pa.array(np.arange(n) % len(texts))), "target": [str(i) for i in range(n)],
        "choices": [[]] * n, "n_requests": 1,
    }  # fmt: skip


def _write(root: Path, kind: str, cell: str, name: str, n: int, given: Mapping[str, Any], announced: bool) -> None:
    from eval_pipelines.warehouse.files import write_new

    schema = arrow_schema(kind)
    if kind == "samples" and (root / "landing" / kind / cell / f"{name}.parquet").exists():
        return
    columns = []
    for field in schema:
        value = given.get(field.name)
        if isinstance(value, list | np.ndarray):
            columns.append(pa.array(value, field.type))
        elif isinstance(value, pa.Array):
            columns.append(value)
        else:
            columns.append(pa.repeat(pa.scalar(value, field.type), n))
    table, path = pa.Table.from_arrays(columns, schema=schema), root / "landing" / kind / cell / f"{name}.parquet"
    if announced:
        from eval_pipelines.warehouse.noticed import announced_by

        write_new(path, lambda sink: pq.write_table(table, sink, compression="zstd"), announced_by(root / "landing"))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd")


if __name__ == "__main__":
    main()
