"""The shape of every landed kind, written once: Parquet schema and DuckDB table both follow from it.

A column reads `name: type`; a `?` marks one that may be null. A file that lacks a nullable column (it was
written before the column existed) reads as null; what else changed since it was written is a numbered migration, and
each file carries the number of the newest one at its time. Any other difference is a WarehouseError.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from eval_pipelines.errors import WarehouseError
from eval_pipelines.warehouse import migrations

VERSION_KEY: Final = b"eval_pipelines.shape"

_IDENTITY: Final = {
    "evaluation_id": "text",
    "run_id": "text",
    "score_run_id": "text",
    "model_key": "text",
    "family": "text",
    "revision": "text",
    "step": "int?",
    "fingerprint": "text",
    "benchmark": "text",
    "ask_version": "text",
    "score_version": "text",
}

SHAPES: Final[Mapping[str, Mapping[str, str]]] = {
    # Last things first: whoever lists the kinds in this order sees at least what each file rests on.
    "gate_verdicts": {
        "gate": "text",
        "run_id": "text",
        "model_key": "text",
        "family": "text",
        "revision": "text",
        "step": "int?",
        "benchmark": "text",
        "verdict": "text",
        "reason": "text",
        "tier": "text?",
        "is_required": "bool?",
        "baseline": "text?",
        "metric": "text?",
        "filter": "text?",
        "n": "int?",
        "value": "real?",
        "baseline_value": "real?",
        "difference": "real?",
        "ci_low": "real?",
        "ci_high": "real?",
        "min_detectable": "real?",
        "p_breach": "real?",
        "p_within": "real?",
        "significance": "real",
        "policy": "text",
        "evidence": "text",
        "recorded_at": "time",
    },
    "metrics": {
        **_IDENTITY,
        "subtask": "text",
        "metric": "text",
        "filter": "text",
        "value": "real?",
        "stderr": "real?",
        "ci_low": "real?",
        "ci_high": "real?",
        "ci_method": "text?",
        "n_clusters": "int?",
        "bound_low": "real?",
        "bound_high": "real?",
        "n": "int",
        "n_asked": "int",
        "coverage": "real",
        "higher_is_better": "bool",
        "is_headline": "bool",
        "graded_as": "text?",
        "judged_by": "text?",
        "recorded_at": "time",
    },
    "scores": {
        **_IDENTITY,
        "sample_id": "text",
        "subtask": "text",
        "metric": "text",
        "filter": "text",
        "value": "real?",
        "extracted": "text?",
        "ungraded_reason": "text?",
        "is_truncated": "bool?",
        "is_refused": "bool?",
        "is_unparseable": "bool?",
        "note": "text?",
        "recorded_at": "time",
    },
    "judgements": {
        **_IDENTITY,
        "sample_id": "text",
        "subtask": "text",
        "answer_repeat": "int",
        "judge": "text",
        "judge_fingerprint": "text",
        "judge_evaluation_id": "text",
        "is_swapped": "bool?",
        "repeat": "int",
        "request_digest": "text",
        "verdict": "text?",
        "value": "real?",
        "no_verdict_reason": "text?",
        "no_verdict_why": "text?",
        "text": "text?",
        "recorded_at": "time",
    },
    "evaluations": {
        "evaluation_id": "text",
        "run_id": "text",
        "model_key": "text",
        "family": "text",
        "revision": "text",
        "step": "int?",
        "fingerprint": "text",
        "benchmark": "text",
        "judged_model": "text?",
        "ask_version": "text",
        "parameters": "text",
        "endpoint": "text",
        "backend": "text",
        "server_version": "text?",
        "n_samples": "int",
        "n_requests": "int",
        "n_answered": "int",
        "n_reused": "int",
        "answers_since": "time?",
        "n_failed": "int",
        "failures": "text",
        "is_within_budget": "bool",
        "prompt_tokens": "int",
        "completion_tokens": "int",
        "cost": "real?",
        "currency": "text?",
        "wall_s": "real",
        "latency_p50_s": "real?",
        "latency_p95_s": "real?",
        "latency_p99_s": "real?",
        "ttft_p50_s": "real?",
        "ttft_p95_s": "real?",
        "inter_token_p50_s": "real?",
        "inter_token_p95_s": "real?",
        "n_truncated": "int?",
        "asked_by": "text",
        "project_version": "text",
        "recorded_at": "time",
    },
    "server_metrics": {
        "evaluation_id": "text",
        "run_id": "text",
        "model_key": "text",
        "benchmark": "text",
        "replica": "text",
        "started_at": "time",
        "scraped_at": "time",
        "failure": "text?",
        "n_running": "int?",
        "n_waiting": "int?",
        "kv_cache_share": "real?",
        "prefix_cache_hits": "int?",
        "prefix_cache_queries": "int?",
        "prompt_tokens": "int?",
        "generation_tokens": "int?",
        "n_finished": "int?",
        "n_preempted": "int?",
    },
    "responses": {
        "evaluation_id": "text",
        "run_id": "text",
        "model_key": "text",
        "fingerprint": "text",
        "benchmark": "text",
        "ask_version": "text",
        "request_digest": "text",
        "sample_id": "text",
        "subtask": "text",
        "part": "int",
        "repeat": "int",
        "operation": "text",
        "text": "text?",
        "reasoning": "text?",
        "logprob": "real?",
        "is_greedy": "bool?",
        "failure_kind": "text?",
        "failure_message": "text?",
        "http_status": "int?",
        "finish_reason": "text?",
        "n_attempts": "int",
        "latency_s": "real",
        "ttft_s": "real?",
        "inter_token_s": "real?",
        "prompt_tokens": "int?",
        "completion_tokens": "int?",
        "cached_prompt_tokens": "int?",
        "asked_at": "time",
    },
    "samples": {
        "benchmark": "text",
        "ask_version": "text",
        "sample_id": "text",
        "subtask": "text",
        "question": "text",
        "target": "text",
        "choices": "texts",
        "n_requests": "int",
        "cluster": "text?",
    },
}

_ARROW: Final = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "int": pa.int64(),
    "real": pa.float64(),
    "bool": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}
# TIMESTAMP, not TIMESTAMPTZ: the latter is shown in each reader's own time zone, and needs pytz in Python.
_DUCKDB: Final = {
    "text": "VARCHAR",
    "texts": "VARCHAR[]",
    "int": "BIGINT",
    "real": "DOUBLE",
    "bool": "BOOLEAN",
    "time": "TIMESTAMP",
}


def arrow_schema(kind: str) -> pa.Schema:
    """The Parquet schema of a kind, with the number of its shape; times are microseconds in UTC."""
    return pa.schema(
        [pa.field(name, _ARROW[typ.rstrip("?")], nullable=typ.endswith("?")) for name, typ in SHAPES[kind].items()],
        metadata={VERSION_KEY: str(migrations.newest())},
    )


def duckdb_columns(kind: str) -> dict[str, str]:
    """Column → DuckDB type; times are TIMESTAMP in UTC."""
    return {name: _DUCKDB[typ.rstrip("?")] for name, typ in SHAPES[kind].items()}


@dataclass(frozen=True)
class Shape:
    """What a landed file's footer says."""

    version: int
    n_rows: int
    n_columns: int


def check_shape(kind: str, path: Path) -> Shape:
    """Compare a landed file's footer with what its version looks like. Raises WarehouseError naming file and column."""
    try:
        # Opened here, so that no option of a dataset layer reads columns out of the folder names.
        with pq.ParquetFile(path) as file:
            found, n_rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise WarehouseError(
            f"{path} is no readable Parquet file ({error}). Landed files are written whole, so something else damaged "
            f"it: move it out of the landing folder and publish again."
        ) from error
    version = int((found.metadata or {}).get(VERSION_KEY, b"0"))
    if version > migrations.newest():
        raise WarehouseError(
            f"{path} is of shape {version}, and this version of the project knows shapes up to {migrations.newest()}: "
            f"update, or move the file away."
        )
    if not migrations.applies(kind, version):
        _check_columns(kind, path, found)
    return Shape(version, n_rows, len(found))


def _check_columns(kind: str, path: Path, found: pa.Schema) -> None:
    expected = arrow_schema(kind)
    for field in found:
        index = expected.get_field_index(field.name)
        if index < 0:
            raise WarehouseError(
                f"{path}: unexpected column {field.name!r} in a file of {kind}. "
                f"It was written by a newer version of this project: update, or move the file away."
            )
        if field.type != expected.field(index).type:
            raise WarehouseError(
                f"{path}: column {field.name!r} of {kind} is {field.type}, expected {expected.field(index).type}."
            )
    names = set(found.names)
    for field in expected:
        if field.name not in names and not field.nullable:
            raise WarehouseError(
                f"{path}: column {field.name!r} is missing, and a file of {kind} cannot go without it."
            )
