"""One page: its frame, and the few pieces that all pages share. Whatever is put in is escaped, unless it is Markup."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from eval_pipelines.formats import printable
from eval_pipelines.reports import _theme
from eval_pipelines.reports._picture import MINUS, Picture

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
NONE: Final = "\N{EN DASH}"
_SHORT: Final = 40
# no script, no request, no form: what a model wrote can do nothing, even if it were not escaped
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_FRAME: Final = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
{css}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="about">{about}</p>
{body}
<footer>{footer}</footer>
</body>
</html>
""")


@dataclass(frozen=True)
class Options:
    """What to report on; empty: what the report itself finds worth showing.

    Attributes:
        families: Of training progress. models: two to compare, a and b, or those of the heat map and the failures.
        benchmarks: Only these.
        limit: Of questions or messages shown for each benchmark or cell.
    """

    families: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    limit: int = 40


@dataclass(frozen=True)
class Page:
    """One file.

    Attributes:
        path: Below the reports' folder, without an ending: `training_progress/atlas`.
        findings: What it says, in sentences of plain text: what the asset's metadata and the index show.
        body: HTML. preview: what it shows at a glance.
    """

    path: str
    title: str
    about: str
    body: Markup
    findings: tuple[str, ...] = ()
    preview: Picture | None = field(default=None, repr=False)

    def html(self, footer: str) -> str:
        """The whole file."""
        # the style holds nothing that was read from the record
        css = Markup(_theme.page_css())  # noqa: S704
        return str(
            _FRAME.format(
                policy=_POLICY, title=text(self.title), about=text(self.about), css=css, body=self.body, footer=footer
            )
        )


def text(value: object) -> str:
    """Text as it is, with what is invisible or turns the reading direction spelled out."""
    return printable(str(value))


def join(parts: Iterable[Markup]) -> Markup:
    """Pieces, one after the other."""
    return Markup("\n").join(parts)


def findings(sentences: Sequence[Markup | str], *, none: str) -> Markup:
    """What a page says first, or that there is nothing to say."""
    if not sentences:
        return Markup("<p>{}</p>").format(none)
    items = Markup("").join(Markup("<li>{}</li>").format(sentence) for sentence in sentences)
    return Markup('<ul class="findings">{}</ul>').format(items)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[int] = ()) -> Markup:
    """A table that scrolls by itself where it is too wide. `numbers`: columns that are set flush right."""
    right = set(numbers)

    def cell(tag: str, i: int, value: object) -> Markup:
        shown = value if isinstance(value, Markup) else text("" if value is None else value)
        # what is short stays on its line: a narrow screen scrolls sideways
        is_whole = not isinstance(value, Markup) and len(shown) <= _SHORT
        kind = "n" if i in right else "nowrap" if is_whole else ""
        return Markup('<{tag} class="{kind}">{shown}</{tag}>').format(tag=tag, kind=kind, shown=shown)

    def cells(tag: str, values: Sequence[object]) -> Markup:
        return Markup("").join(cell(tag, i, value) for i, value in enumerate(values))

    body = Markup("\n").join(Markup("<tr>{}</tr>").format(cells("td", row)) for row in rows)
    return Markup(
        '<div class="scroll"><table><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>'
    ).format(cells("th", heads), body)  # fmt: skip


def number(value: float | None, *, is_signed: bool = False) -> str:
    """Three digits after the point for shares, four that matter for the rest, an en dash for none."""
    if value is None:
        return NONE
    shown = f"{value:.3f}" if abs(value) < 10 else f"{value:,.4g}"
    return f"+{shown}" if is_signed and value > 0 else shown.replace("-", MINUS)


def between(low: float | None, high: float | None, *, is_signed: bool = False) -> str:
    """An interval in words; nothing for none."""
    if low is None or high is None:
        return ""
    return f"{number(low, is_signed=is_signed)} to {number(high, is_signed=is_signed)}"


def score(row: Row) -> str:
    """Value and interval, and the bounds where not everything was answered."""
    ends = between(row["ci_low"], row["ci_high"])
    told = number(row["value"]) + (f" ({ends})" if ends else "")
    if row["value"] is not None and row["coverage"] < 1 and row["bound_low"] is not None:
        told += f"; {between(row['bound_low'], row['bound_high'])} of all"
    return told


def metric(row: Row) -> str:
    """The metric and its filter."""
    return str(row["metric"]) if row["filter"] == "none" else f"{row['metric']}, {row['filter']}"


def published(connection: "duckdb.DuckDBPyConnection") -> tuple[int, datetime, str]:
    """Generation, moment and project version of what is published."""
    [row] = connection.execute("SELECT generation, published_at, project_version FROM meta").fetchall()
    return row[0], row[1], row[2]
