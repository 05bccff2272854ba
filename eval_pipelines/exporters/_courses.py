"""What travels to a tracker: the latest numbers of a family by step, or of a model without one.

A step has one number. Of several revisions of one step the first by name is in its family's course; the others are
courses of their own.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_pipelines.analysis import names
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb

_UNSAFE = re.compile(r"[^A-Za-z0-9_. -]+")


@dataclass(frozen=True, slots=True)
class Point:
    """One number.

    Attributes:
        step: Of the training; 0 for a model whose revision names none.
        key: `benchmark/metric[/filter]`, of characters that every tracker takes.
    """

    step: int
    key: str
    value: float
    stderr: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    coverage: float
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Course:
    """What is one run in a tracker: a family with its steps, or a model that has none to itself.

    Attributes:
        tags: Identity and versions: family, revision, fingerprint of the newest, and of each benchmark the versions.
    """

    name: str
    tags: dict[str, str]
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and what an exporter may need besides.

    Attributes:
        to: As `--to` gave it. token: a secret, read from the variable that `--token-env` named; None: none is needed.
        folder: Of this project, for what an exporter must remember or leave for later.
    """

    to: str
    token: str | None
    folder: Path


@dataclass(frozen=True, slots=True)
class Sent:
    """What an export did: runs and numbers that are new there, numbers that were there already, runs it replaced."""

    where: str
    n_new_runs: int
    n_new: int
    n_known: int
    n_replaced: int = 0


def courses(
    connection: "duckdb.DuckDBPyConnection", families: Collection[str] = (), benchmarks: Collection[str] = ()
) -> list[Course]:
    """The latest numbers over whole benchmarks, every metric. Raises UnknownNameError."""
    for family in families:
        names.check("family in this record", family, names.families(connection))
    for benchmark in benchmarks:
        names.check("benchmark in this record", benchmark, names.benchmarks(connection))
    rows = fetch(
        connection,
        "SELECT model_key, family, revision, step, fingerprint, benchmark, ask_version, score_version, metric, filter, "
        "value, stderr, ci_low, ci_high, n, coverage, recorded_at FROM latest_metrics "
        "WHERE subtask = '' AND value IS NOT NULL ORDER BY family, step NULLS FIRST, revision, benchmark, metric, filter",
    )
    first: dict[tuple[str, int], str] = {}
    for row in rows:
        if row["step"] is not None:
            first.setdefault((row["family"], row["step"]), row["model_key"])
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if (not families or row["family"] in families) and (not benchmarks or row["benchmark"] in benchmarks):
            is_of_family = first.get((row["family"], row["step"])) == row["model_key"]
            found.setdefault(row["family"] if is_of_family else row["model_key"], []).append(row)
    return [_course(name, rows) for name, rows in found.items()]


def metric_key(benchmark: str, metric: str, filter_name: str) -> str:
    """`gsm8k/exact_match/flexible-extract`; no filter, no third part."""
    parts = [benchmark, metric, *([] if filter_name == "none" else [filter_name])]
    return "/".join(_UNSAFE.sub("_", part) for part in parts)


def values_of(point: Point) -> dict[str, float]:
    """A number and what it is worth, as a tracker keeps them: `key`, `key/n`, `key/coverage`, `key/ci_low` …"""
    told = {"": point.value, "/n": float(point.n), "/coverage": point.coverage}
    told |= {
        f"/{name}": value for name in ("stderr", "ci_low", "ci_high") if (value := getattr(point, name)) is not None
    }
    return {f"{point.key}{suffix}": value for suffix, value in told.items()}


def _course(name: str, rows: list[dict[str, Any]]) -> Course:
    newest = rows[-1]
    tags = {
        "eval_pipelines.course": name,
        "eval_pipelines.family": newest["family"],
        "eval_pipelines.newest_model": newest["model_key"],
        "eval_pipelines.newest_fingerprint": newest["fingerprint"],
    }
    for row in rows:
        tags[f"{_UNSAFE.sub('_', row['benchmark'])}.ask_version"] = row["ask_version"]
        tags[f"{_UNSAFE.sub('_', row['benchmark'])}.score_version"] = row["score_version"]
    points = tuple(
        Point(
            row["step"] or 0, metric_key(row["benchmark"], row["metric"], row["filter"]), row["value"], row["stderr"],
            row["ci_low"], row["ci_high"], row["n"], row["coverage"], row["recorded_at"],
        )
        for row in rows
    )  # fmt: skip
    return Course(name, tags, points)
