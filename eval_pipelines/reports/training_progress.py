"""Training progress: each benchmark over the steps of a family, with intervals, and where it got worse."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from eval_pipelines.analysis import history, names
from eval_pipelines.reports._page import (
    NONE,
    Options,
    Page,
    Row,
    between,
    findings,
    join,
    metric,
    number,
    score,
    table,
    text,
)
from eval_pipelines.reports._picture import side_by_side
from eval_pipelines.reports._progress import panel
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb

# (checkpoint, benchmark) → row
Corrected = dict[tuple[str, str], Row]

TITLE: Final = "Training progress"
_N_PREVIEWED: Final = 6
# of each benchmark: older checkpoints are in the picture, not in the table, and are not tested again
_N_TOLD: Final = 60


def make(connection: "duckdb.DuckDBPyConnection", options: Options) -> Iterator[Page]:
    """One page for each family of two or more checkpoints, and for each that was named. Raises UnknownNameError."""
    benchmarks = [
        names.check("benchmark in this record", name, names.benchmarks(connection)) for name in options.benchmarks
    ]
    for family in options.families or names.families(connection):
        courses = {
            benchmark: rows
            for benchmark in benchmarks or names.benchmarks(connection)
            if (
                rows := [
                    row
                    for row in history.course(connection, family, benchmark, n_compared=_N_TOLD)
                    if row["value"] is not None
                ]
            )
        }
        if options.families or max(map(len, courses.values()), default=0) > 1:
            yield _page(family, courses, _corrected(connection, courses))


def _page(family: str, courses: dict[str, list[Row]], corrected: Corrected) -> Page:
    told = [(benchmark, before, row) for benchmark, rows in courses.items() for before, row in _worse(rows)]
    sentences = [
        _sentence(benchmark, before, row) + _certainty(corrected, benchmark, row) for benchmark, before, row in told
    ]
    panels = {benchmark: panel(benchmark, rows) for benchmark, rows in courses.items()}
    n_models = len({row["model_key"] for rows in courses.values() for row in rows})
    figures = join(Markup("<figure>{}</figure>").format(one.svg()) for one in panels.values())
    # what got worse is what one wants to see at a glance
    order = sorted(panels, key=lambda benchmark: (benchmark not in {name for name, _, _ in told}, benchmark))
    title = f"{TITLE} of {family}"
    return Page(
        path=f"training_progress/{family}",
        title=title,
        about=f"{n_models} checkpoint{'s' * (n_models != 1)} on {len(courses)} "
        f"benchmark{'s' * (len(courses) != 1)}, the headline metric of each.",
        body=join([
            findings([_emphasised(sentence) for sentence in sentences],
                     none="No checkpoint is significantly worse than the one before it."),
            Markup(
                '<p class="note">Band or whisker: 95 % interval. Hollow: not every question was answered; the dashed '
                "line shows where the number would lie if all others were wrong or right. ▼ significantly worse than "
                "the checkpoint before, ▲ better: paired on the same questions, p &lt; 0.05, each test by itself.</p>"
            ),
            Markup('<div class="panels">{}</div>').format(figures),
            *(_table(benchmark, rows) for benchmark, rows in courses.items()),
        ]),
        findings=tuple(sentences),
        preview=side_by_side([panels[name] for name in order[:_N_PREVIEWED]], n_columns=3, title=title),
    )  # fmt: skip


def _corrected(connection: "duckdb.DuckDBPyConnection", courses: dict[str, list[Row]]) -> Corrected:
    """(checkpoint, benchmark) → its row of `regressions`, of the checkpoints that look worse than the one before."""
    models = sorted({row["model_key"] for rows in courses.values() for _, row in _worse(rows)})
    found = [
        row
        for model in models
        # one by one: the table compares all questions of what is asked for, and nothing else
        for row in fetch(
            connection,
            "SELECT model_b, benchmark, n_tests, is_certain FROM regressions WHERE model_b = ? AND against = 'previous'",
            [model],
        )
    ]
    return {(row["model_b"], row["benchmark"]): row for row in found}


def _certainty(corrected: Corrected, benchmark: str, row: Row) -> str:
    """What is left of one test when the checkpoint's other benchmarks are counted, too."""
    found = corrected.get((row["model_key"], benchmark))
    if found is None:
        return " Of several benchmarks, one may look so by chance."
    if found["n_tests"] == 1:
        return ""
    by = "Holm" if found["is_certain"] else "Benjamini and Hochberg"
    return f" It stays so when corrected ({by}) for {found['n_tests']} benchmarks."


def _worse(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    yield from ((before, row) for before, row in pairwise(rows) if row["verdict"] == "worse")


def _sentence(benchmark: str, before: Row, row: Row) -> str:
    ends = between(row["change_low"], row["change_high"], is_signed=True)
    interval = f" (95 %: {ends})" if ends else ""
    return (
        f"{benchmark}: {row['revision']} is worse than {before['revision']}: {number(row['change'], is_signed=True)}{interval}, "
        f"p = {row['p_value']:.2g}."
    )


def _emphasised(sentence: str) -> Markup:
    benchmark, _, rest = sentence.partition(": ")
    return Markup('<b class="worse">▼ {}</b>: {}').format(text(benchmark), text(rest))


def _table(benchmark: str, rows: list[Row]) -> Markup:
    marks = {"worse": Markup('<b class="worse">▼ worse</b>'), "better": Markup('<b class="better">▲ better</b>')}
    body = [
        (
            NONE if row["step"] is None else f"{row['step']:,}", row["revision"], score(row),
            f"{row['n']:,}/{row['n_asked']:,}", f"{row['coverage']:.1%}", number(row["change"], is_signed=True),
            between(row["change_low"], row["change_high"], is_signed=True), marks.get(row["verdict"] or "", ""),
        )
        for row in rows[-_N_TOLD:]
    ]  # fmt: skip
    heads = ("step", "revision", f"{metric(rows[0])} (95 %)", "n", "coverage", "change", "95 %", "")
    better = "" if rows[0]["higher_is_better"] else "; lower is better"
    left_out = len(rows) - len(body)
    note = f"The last {len(body)}; {left_out:,} earlier ones are in the picture only." if left_out > 0 else ""
    return Markup("<h2>{}{}</h2><p class='note'>{}</p>{}").format(
        text(benchmark), better, note, table(heads, body, numbers=(0, 3, 4, 5))
    )
