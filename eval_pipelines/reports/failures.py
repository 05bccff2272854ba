"""Failures: what was asked and not answered, of which kind, and in whose words."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from eval_pipelines.analysis import names
from eval_pipelines.reports._page import Options, Page, Row, findings, join, table, text
from eval_pipelines.reports._picture import Picture, shortened
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb

TITLE: Final = "Failures"
_N_CELLS, _N_PREVIEWED = 40, 12
_NAME, _BAR, _LINE = 330, 260, 26


def make(connection: "duckdb.DuckDBPyConnection", options: Options) -> Iterator[Page]:
    """One page; none before anything was asked. Raises UnknownNameError."""
    for name in options.models:
        names.check("model in this record", name, names.models(connection))
    for name in options.benchmarks:
        names.check("benchmark in this record", name, names.benchmarks(connection))
    rows = [
        row
        for row in fetch(
            connection,
            "SELECT tries.*, evaluation.failures FROM coverage_and_failures AS tries "
            "INNER JOIN stg_evaluations AS evaluation USING (evaluation_id, run_id) "
            "QUALIFY row_number() OVER ("
            "PARTITION BY tries.model_key, tries.benchmark ORDER BY tries.recorded_at DESC, tries.run_id) = 1",
        )
        if (not options.models or row["model_key"] in options.models)
        and (not options.benchmarks or row["benchmark"] in options.benchmarks)
    ]
    if rows:
        yield _page(connection, rows, options)


def _page(connection: "duckdb.DuckDBPyConnection", rows: list[Row], options: Options) -> Page:
    failing = sorted(
        (row for row in rows if row["n_failed"]), key=lambda row: (-(row["failed_share"] or 0), row["model_key"])
    )
    over = [row for row in rows if not row["is_within_budget"]]
    kinds = _kinds(rows)
    n_failed, n_requests = sum(row["n_failed"] for row in rows), sum(row["n_requests"] for row in rows)
    told = [f"{kind}: {n:,} of {n_failed:,} failures." for kind, n in kinds]
    told += [
        f"{row['model_key']} on {row['benchmark']} is over its budget: {row['n_failed']:,} of {row['n_requests']:,} "
        "requests failed, its number does not count."
        for row in over[:10]
    ]
    return Page(
        path="failures",
        title=TITLE,
        about=f"The newest try of each of {len(rows)} cells: {n_failed:,} of {n_requests:,} requests failed, in "
        f"{len(failing)} cell{'s' * (len(failing) != 1)}. A failed request is never graded: it lowers coverage.",
        body=join([
            findings(told, none="Every request of every newest try was answered."),
            *([_cells(failing)] if failing else []),
            *(_messages(connection, row, options.limit) for row in failing[:_N_CELLS]),
            *([Markup("<p class='note'>{} more cells with failures.</p>").format(len(failing) - _N_CELLS)]
              if len(failing) > _N_CELLS else []),
        ]),
        findings=tuple(told),
        preview=_picture(failing, len(rows)),
    )  # fmt: skip


def _kinds(rows: Sequence[Row]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(json.loads(row["failures"]))
    return counts.most_common()


def _cells(failing: Sequence[Row]) -> Markup:
    body = [
        (
            row["model_key"], row["benchmark"], _bar(row["failed_share"] or 0.0), f"{row['failed_share']:.1%}",
            f"{row['n_failed']:,}/{row['n_requests']:,}", "–" if row["coverage"] is None else f"{row['coverage']:.1%}",  # noqa: RUF001
            ", ".join(f"{kind} {n:,}" for kind, n in _kinds([row])),
            "" if row["is_within_budget"] else Markup('<b class="worse">over budget</b>'),
            f"{row['backend']} {row['server_version'] or ''}".strip(), f"{row['recorded_at']:%Y-%m-%d %H:%M}",
        )
        for row in failing
    ]  # fmt: skip
    heads = ("model", "benchmark", "", "failed", "requests", "coverage", "kinds", "", "server", "asked (UTC)")
    return Markup("<h2>Cells with failures</h2>{}").format(table(heads, body, numbers=(3, 4, 5)))


def _bar(share: float) -> Markup:
    return Markup('<div class="bar"><span style="width: {}%"></span></div>').format(f"{100 * share:.1f}")


def _messages(connection: "duckdb.DuckDBPyConnection", row: Row, limit: int) -> Markup:
    """The servers' own words, the most frequent first, with questions to look at."""
    found = fetch(
        connection,
        "SELECT failure_kind, http_status, failure_message, count(*) AS n, max(n_attempts) AS n_attempts, "
        "list(DISTINCT sample_id ORDER BY sample_id)[:3] AS questions FROM responses "
        "WHERE model_key = ? AND benchmark = ? AND run_id = ? AND failure_kind IS NOT NULL "
        "GROUP BY ALL ORDER BY n DESC, failure_kind, failure_message LIMIT ?",
        [row["model_key"], row["benchmark"], row["run_id"], limit],
    )
    body = [
        (
            one["failure_kind"], one["http_status"] or "", f"{one['n']:,}", f"{one['n_attempts']}",
            Markup('<div class="said">{}</div>').format(text(one["failure_message"] or "")), ", ".join(one["questions"]),
        )
        for one in found
    ]  # fmt: skip
    heads = ("kind", "HTTP", "times", "attempts", "in the server's words", "such as")
    told = table(heads, body, numbers=(1, 2, 3)) if body else Markup("<p class='note'>No messages on record.</p>")
    return Markup("<h2>{} on {}</h2>{}").format(text(row["model_key"]), text(row["benchmark"]), told)


def _picture(failing: Sequence[Row], n_cells: int) -> Picture:
    shown = failing[:_N_PREVIEWED]
    picture = Picture(_NAME + _BAR + 190, 58 + _LINE * max(1, len(shown)) + 24, TITLE)
    picture.text(10, 24, "Failed requests, as a share of those asked", "title")
    if not shown:
        picture.text(10, 58, f"none, in {n_cells} cells", "muted")
    # a share of the whole where it is large, of the largest where all are small
    most = max([row["failed_share"] or 0 for row in shown] or [1.0]) or 1.0
    for i, row in enumerate(shown):
        y, share = 44 + _LINE * i, row["failed_share"] or 0
        name = f"{row['model_key']} · {row['benchmark']}"
        picture.text(10, y + 17, shortened(name, _NAME - 20), title=name)
        picture.box(_NAME, y + 5, _BAR * share / most, _LINE - 10, "worse")
        words = f"{share:.1%}, {', '.join(kind for kind, _ in _kinds([row])[:2])}"
        picture.text(_NAME + _BAR * share / most + 6, y + 17, shortened(words, 180))
    if len(failing) > len(shown):
        picture.text(10, picture.height - 8, f"and {len(failing) - len(shown)} more cells", "muted small")
    return picture
