"""The published numbers on the terminal: leaderboard, compare, history."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from eval_pipelines.cli.output import Output, note, output_options
from eval_pipelines.config import load_config
from eval_pipelines.errors import ConfigError
from eval_pipelines.formats import Column, Row, one_line

if TYPE_CHECKING:
    import duckdb

_N_CONTRASTED: Final = 4
_BARS: Final = "▁▂▃▄▅▆▇█"


def _score(row: Row) -> str:
    from eval_pipelines.analysis.leaderboard import score_in_words

    return score_in_words(row)


def metric_in_words(row: Row) -> str:
    """The metric, and the filter if there is one: `exact_match,flexible-extract`."""
    return str(row["metric"]) if row["filter"] == "none" else f"{row['metric']},{row['filter']}"


_N: Final = Column("n", lambda row: f"{row['n']:,}/{row['n_asked']:,}", is_number=True, rank=1)
_COVERAGE: Final = Column("coverage", lambda row: f"{row['coverage']:.1%}", is_number=True, rank=2)
_SCORE: Final = Column("score (95 %)", _score)
_METRIC: Final = Column("metric", metric_in_words, rank=3)


def open_record(path: Path) -> "duckdb.DuckDBPyConnection":
    """The published record of an operator's file; close it. Raises ConfigError, WarehouseError."""
    from eval_pipelines.warehouse.read import open_published

    return open_published(load_config(path).data_root)


@click.command("leaderboard")
@click.option("--benchmark", "benchmarks", multiple=True, metavar="NAME", help="Only this one; repeatable.")
@click.option("--model", "models", multiple=True, metavar="KEY", help="Only this one; repeatable.")
@output_options
@click.pass_obj
def leaderboard(path: Path, benchmarks: tuple[str, ...], models: tuple[str, ...], output: Output) -> None:
    """The published leaderboard, and which of its differences are significant."""
    print_leaderboard(load_config(path).data_root, output, benchmarks, models)


def print_leaderboard(
    data_root: Path, output: Output | None = None, benchmarks: tuple[str, ...] = (), models: tuple[str, ...] = ()
) -> None:
    """The leaderboard with n, coverage and intervals; below it, which differences are more than chance."""
    from eval_pipelines.analysis import leaderboard as board
    from eval_pipelines.analysis import names
    from eval_pipelines.warehouse.read import open_published

    output = output or Output(None, None)
    with closing(open_published(data_root)) as connection:
        for name in benchmarks:
            names.check("benchmark in this record", name, names.benchmarks(connection))
        for name in models:
            names.check("model in this record", name, names.models(connection))
    rows = board.rows(data_root, benchmarks=benchmarks, models=models)
    output.rows(rows, [
        Column("benchmark", lambda row: row["benchmark"]),
        Column("rank", lambda row: str(row["rank"] or "-"), is_number=True),
        Column("model", lambda row: row["model_key"]), _METRIC, _SCORE, _N, _COVERAGE,
    ])  # fmt: skip
    if not output.is_for_people:
        return
    best, n_models = first_few(rows)
    leaders = {row["benchmark"]: row["model_key"] for row in reversed(best)}
    contrasts = [
        one
        for one in board.contrasts(data_root, best)
        if n_models[one.benchmark] < _N_CONTRASTED or leaders[one.benchmark] in (one.model_a, one.model_b)
    ]
    if contrasts:
        which = "" if len(best) == len(rows) else "; the leader against the next three, `compare` has any two"
        note(
            "\nWhich differences are significant, on the same questions (McNemar's exact test; of graded verdicts, such as "
            f"the mean of several answers, a permutation test; one test each, not corrected for several{which}):"
        )
    for one in contrasts:
        note(f"  {one.in_words()}")


def print_metrics(rows: list[Row]) -> None:
    """What an evaluation came to: every metric of its cells."""
    groups = [Column("subtask", lambda row: row["subtask"] or "all")] if any(row["subtask"] for row in rows) else []
    Output(None, None).rows(rows, [
        Column("benchmark", lambda row: row["benchmark"]), *groups,
        Column("metric", lambda row: metric_in_words(row) + " *" * row["is_headline"]), _SCORE, _N, _COVERAGE,
    ])  # fmt: skip
    note("* the number to quote")


def first_few(rows: list[Row]) -> tuple[list[Row], Counter[str]]:
    """The first few of each benchmark, and how many there are of it."""
    seen: Counter[str] = Counter()
    best = []
    for row in rows:
        if seen[row["benchmark"]] < _N_CONTRASTED:
            best.append(row)
        seen[row["benchmark"]] += 1
    return best, seen


@click.command("compare")
@click.argument("model_a")
@click.argument("model_b")
@click.option("--benchmark", "benchmarks", multiple=True, metavar="NAME", help="Only this one; repeatable.")
@click.option(
    "--flips",
    "n_flips",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Show so many changed questions of each benchmark, with both answers.",
)
@click.option(
    "--margin",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    metavar="DELTA",
    help="Differences up to this are of no consequence, in the metric's unit: 'equivalent' is shown, not assumed.",
)
@output_options
@click.pass_obj
def compare(
    path: Path,
    model_a: str,
    model_b: str,
    benchmarks: tuple[str, ...],
    n_flips: int | None,
    margin: float | None,
    output: Output,
) -> None:
    """Is MODEL_B better than MODEL_A, on the questions both were graded on?

    The verdict is that of one test by itself; of several benchmarks, p (Holm) is corrected for as many tests.

    With --flips, every format shows the questions whose verdict changed instead of the counts.
    """
    from eval_pipelines.analysis import comparison

    if model_a == model_b:
        raise ConfigError(f"A and B are both {model_a}: name two models.")
    with closing(open_record(path)) as connection:
        found = comparison.pairs(connection, model_a, model_b, benchmarks, margin=margin)
        flips = [
            flip
            for pair in found
            if not pair.why_not
            for flip in comparison.flips(connection, model_a, model_b, pair.benchmark, limit=n_flips or 0)
        ]
    if output.is_for_people:
        click.echo(f"A  {model_a}\nB  {model_b}\n")
        if not found:
            click.echo("They have no benchmark in common: nothing can be compared.")
    if found and (n_flips is None or output.is_for_people):
        several = [Column("p (Holm)", lambda row: _p(row["p_holm"]), is_number=True, rank=2)] if len(found) > 1 else []
        output.rows(comparison.rows(found), [*_COMPARED, *several, _VERDICT])
        others = [f"{pair.metric} on {pair.benchmark}" for pair in found if not pair.is_mean]
        if others and output.is_for_people:
            note(
                f"A and B of {', '.join(others)} are not the means of verdicts on questions: B - A, p and what B is are of "
                "these verdicts"
            )
    if output.is_for_people:
        for pair in found:
            if pair.why_not:
                note(f"{pair.benchmark}: not comparable: {pair.why_not}.")
    if n_flips is not None:
        if output.is_for_people:
            click.echo("")
        if not flips and n_flips and output.is_for_people:
            click.echo("No question changed its verdict.")
        else:
            output.rows(flips, _FLIPPED)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _difference(row: Row) -> str:
    ends = "" if row["ci_low"] is None else f" ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})"
    return _signed(row["difference"]) + ends


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


_COMPARED: Final = [
    Column("benchmark", lambda row: row["benchmark"]),
    Column("metric", metric_in_words, rank=4),
    Column("A", lambda row: _value(row["value_a"]), is_number=True),
    Column("B", lambda row: _value(row["value_b"]), is_number=True),
    Column("B - A (95 %)", lambda row: _difference(row)),
    Column("n", lambda row: f"{row['n']:,}", is_number=True),
    Column("only A, B", lambda row: f"{row['n_a_only']:,}, {row['n_b_only']:,}", is_number=True, rank=3),
    Column("p", lambda row: _p(row["p_value"]), is_number=True, rank=1),
]
_VERDICT: Final = Column("B is", lambda row: row["verdict"])
_FLIPPED: Final = [
    Column("benchmark", lambda row: row["benchmark"], rank=2),
    Column("question", lambda row: row["sample_id"], max_width=16),
    Column("B", lambda row: row["change"]),
    Column("asked", lambda row: one_line(row["question"] or "", 200), rank=1, max_width=40),
    Column("target", lambda row: one_line(row["target"] or "", 60), max_width=14),
    Column("A answered", lambda row: one_line(row["answer_a"] or "", 240)),
    Column("B answered", lambda row: one_line(row["answer_b"] or "", 240)),
]


@click.command("history")
@click.argument("family")
@click.argument("benchmark")
@click.option("--every", "is_every", is_flag=True, help="Also numbers of older versions, which no longer compare.")
@output_options
@click.pass_obj
def history(path: Path, family: str, benchmark: str, is_every: bool, output: Output) -> None:
    """A family over its training: the headline number, step by step, and where it got worse."""
    from eval_pipelines.analysis import history as courses

    with closing(open_record(path)) as connection:
        rows = (courses.every if is_every else courses.course)(connection, family, benchmark)
    if output.is_for_people:
        if not rows:
            click.echo(f"{family} has no number on {benchmark}.")
            return
        values = [row["value"] for row in rows]
        ends = [value for value in values if value is not None]
        span = f"  {ends[0]:.3f} to {ends[-1]:.3f}" if ends else ""
        click.echo(f"{family} on {benchmark}: {metric_in_words(rows[-1])}\n{sparkline(values)}{span}\n")
    change = [
        Column("change", lambda row: _signed(row["change"]), is_number=True),
        Column("", lambda row: {"worse": "▼ worse", "better": "▲ better"}.get(row["verdict"] or "", "")),
    ]
    versions = [
        Column("latest", lambda row: "yes" if row["is_latest"] else "no"),
        Column("asked as", lambda row: row["ask_version"], rank=3),
        Column("scored as", lambda row: row["score_version"], rank=3),
        Column("graded (UTC)", lambda row: f"{row['recorded_at']:%Y-%m-%d %H:%M}", rank=1),
    ]
    output.rows(rows, [
        Column("step", lambda row: "-" if row["step"] is None else f"{row['step']:,}", is_number=True),
        Column("revision", lambda row: row["revision"], rank=2), _SCORE, _N, _COVERAGE,
        *(versions if is_every else change),
    ])  # fmt: skip
    if output.is_for_people and not is_every:
        note("\nChange: against the checkpoint before, on the same questions; marked where p < 0.05.")
        for row in rows:
            if row["why_not"]:
                note(f"{row['revision']} does not compare with the one before: {row['why_not']}.")


def sparkline(values: list[float | None]) -> str:
    """The values as bars between the lowest and the highest; a space where there is none."""
    told = [value for value in values if value is not None]
    if not told:
        return ""
    low, span = min(told), (max(told) - min(told)) or 1.0
    return "".join(
        " " if value is None else _BARS[min(len(_BARS) - 1, int((value - low) / span * len(_BARS)))] for value in values
    )
