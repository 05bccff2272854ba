"""Leaderboard: models by benchmarks as a heat map."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from eval_pipelines.analysis import names
from eval_pipelines.reports._page import NONE, Options, Page, Row, findings, join, metric, number, score, text
from eval_pipelines.reports._picture import Picture, shortened
from eval_pipelines.reports._theme import N_HEAT
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb

TITLE: Final = "Leaderboard"
_N_PREVIEWED_MODELS, _N_PREVIEWED_BENCHMARKS = 20, 8
_NAME, _CELL, _LINE = 260, 92, 26

Cells = dict[tuple[str, str], Row]


def make(connection: "duckdb.DuckDBPyConnection", options: Options) -> Iterator[Page]:
    """One page; none if nothing is ranked. Raises UnknownNameError."""
    for kind, wanted, known in (
        ("model", options.models, names.models), ("benchmark", options.benchmarks, names.benchmarks)
    ):  # fmt: skip
        for name in wanted:
            names.check(f"{kind} in this record", name, known(connection))
    rows = [
        row
        for row in fetch(connection, "SELECT * FROM leaderboard ORDER BY benchmark, rank NULLS LAST, model_key")
        if (not options.models or row["model_key"] in options.models)
        and (not options.benchmarks or row["benchmark"] in options.benchmarks)
        and (not options.families or row["family"] in options.families)
    ]
    overall = fetch(connection, "SELECT model_key, rank, macro_average, n_common FROM leaderboard_overall")
    if rows:
        yield _page(rows, {row["model_key"]: row for row in overall})


def _page(rows: list[Row], overall: dict[str, Row]) -> Page:
    cells: Cells = {(row["model_key"], row["benchmark"]): row for row in rows}
    benchmarks = sorted({row["benchmark"] for row in rows})
    models = _ordered(cells, benchmarks, overall)
    sentences = [_leader([row for row in rows if row["benchmark"] == benchmark]) for benchmark in benchmarks]
    n_missing = len(models) * len(benchmarks) - sum(row["value"] is not None for row in rows)
    return Page(
        path="leaderboard",
        title=TITLE,
        about=f"{len(models)} model{'s' * (len(models) != 1)}, {len(benchmarks)} "
        f"benchmark{'s' * (len(benchmarks) != 1)}, {n_missing:,} of {len(models) * len(benchmarks):,} cells without a number.",
        body=join([
            findings([sentence for sentence in sentences if sentence], none="Nothing could be graded yet."),
            Markup(
                '<p class="note">Darker (in dark mode: brighter) is better, each column on its own scale from its worst '
                "to its best. Framed: the best. Below each number: half the width of its 95 % interval; * not every "
                "question was answered, see its tooltip. Models are in the order of their mean over the benchmarks "
                "that all have, where there are any.</p>"
            ),
            _heat_map(cells, models, benchmarks, overall),
        ]),
        findings=tuple(sentence for sentence in sentences if sentence),
        preview=_picture(cells, models, benchmarks),
    )  # fmt: skip


def _ordered(cells: Cells, benchmarks: Sequence[str], overall: dict[str, Row]) -> list[str]:
    """Best first: by the mean over common benchmarks, else by the mean of ranks, as shares of those ranked."""

    def place(model: str) -> tuple[float, float, str]:
        macro = overall.get(model, {}).get("macro_average")
        ranks = [
            row["rank"] / row["n_ranked"]
            for benchmark in benchmarks
            if (row := cells.get((model, benchmark))) is not None and row["rank"] is not None
        ]
        return (-macro if macro is not None else 1.0, sum(ranks) / len(ranks) if ranks else 2.0, model)

    return sorted({model for model, _ in cells}, key=place)


def _leader(rows: Sequence[Row]) -> str:
    """Who leads a benchmark, and who is not told apart from it."""
    ranked = [row for row in rows if row["rank"] is not None]
    if not ranked:
        return ""
    best = ranked[0]
    near = [row for row in ranked[1:] if _overlap(best, row)]
    told = f"{best['benchmark']}: {best['model_key']} leads with {score(best)}, n = {best['n']:,}"
    if near:
        told += f"; the intervals of {len(near)} other{'s' * (len(near) != 1)} overlap with its own"
    return f"{told}."


def _overlap(a: Row, b: Row) -> bool:
    if a["ci_low"] is None or b["ci_low"] is None:
        return bool(a["value"] == b["value"])
    return bool(a["ci_low"] <= b["ci_high"] and b["ci_low"] <= a["ci_high"])


def _heat(cells: Cells, models: Sequence[str], benchmark: str) -> dict[str, int]:
    """Model → 0 (the worst of its column) to N_HEAT - 1 (the best)."""
    values = {
        model: row["value"] if row["higher_is_better"] else -row["value"]
        for model in models
        if (row := cells.get((model, benchmark))) is not None and row["value"] is not None
    }
    low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
    if high <= low:
        return dict.fromkeys(values, N_HEAT // 2)
    return {model: min(N_HEAT - 1, int((value - low) / (high - low) * N_HEAT)) for model, value in values.items()}


def _half_width(row: Row) -> str:
    return "" if row["ci_low"] is None else f"± {number((row['ci_high'] - row['ci_low']) / 2)}"


def _heat_map(cells: Cells, models: Sequence[str], benchmarks: Sequence[str], overall: dict[str, Row]) -> Markup:
    heat = {benchmark: _heat(cells, models, benchmark) for benchmark in benchmarks}
    has_mean = any(overall.get(model, {}).get("macro_average") is not None for model in models)
    n_common = max((overall[model]["n_common"] for model in models if model in overall), default=0)
    heads = [Markup("<th>model</th>")]
    heads += [Markup('<th class="nowrap">mean<small>over {}</small></th>').format(n_common)] if has_mean else []
    for benchmark in benchmarks:
        row = next(row for (_, name), row in cells.items() if name == benchmark)
        lower = "" if row["higher_is_better"] else ", lower is better"
        heads.append(Markup("<th>{}<small>{}{}</small></th>").format(text(benchmark), _metric(row), lower))
    lines = []
    for model in models:
        mean = overall.get(model, {}).get("macro_average")
        tds = [Markup("<td>{}</td>").format(number(mean))] if has_mean else []
        tds += [_cell(cells.get((model, benchmark)), heat[benchmark].get(model)) for benchmark in benchmarks]
        lines.append(Markup("<tr><th>{}</th>{}</tr>").format(_breakable(model), Markup("").join(tds)))
    return Markup(
        '<div class="scroll"><table class="heat"><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>'
    ).format(Markup("").join(heads), Markup("\n").join(lines))  # fmt: skip


def _metric(row: Row) -> Markup:
    """The metric, which may be broken at its parts."""
    return Markup("_<wbr>").join(text(metric(row)).split("_"))


def _cell(row: Row | None, heat: int | None) -> Markup:
    if row is None:
        return Markup('<td class="none" title="never evaluated, or on an older version only">{}</td>').format(NONE)
    if heat is None:
        return Markup('<td class="none" title="nothing could be graded">ungraded</td>')
    title = f"{row['model_key']} on {row['benchmark']}: {score(row)}, n = {row['n']:,}/{row['n_asked']:,}, rank {row['rank']}"
    star = "" if row["coverage"] == 1 else "*"
    kind = f"heat-{heat} best" if row["rank"] == 1 else f"heat-{heat}"
    return Markup('<td class="{}" title="{}">{}{}<small>{}</small></td>').format(
        kind, text(title), number(row["value"]), star, _half_width(row)
    )


def _breakable(model: str) -> Markup:
    """A model key that may be broken at its parts."""
    family, _, revision = text(model).partition("@")
    return Markup("{}<wbr>@{}").format(family, revision)


def _picture(cells: Cells, models: Sequence[str], benchmarks: Sequence[str]) -> Picture:
    shown, columns = models[:_N_PREVIEWED_MODELS], benchmarks[:_N_PREVIEWED_BENCHMARKS]
    left_out = [
        f"{len(models) - len(shown)} more models" * (len(models) > len(shown)),
        f"{len(benchmarks) - len(columns)} more benchmarks" * (len(benchmarks) > len(columns)),
    ]
    picture = Picture(_NAME + _CELL * len(columns) + 16, 64 + _LINE * len(shown) + 24, TITLE)
    picture.text(10, 24, TITLE, "title")
    for i, benchmark in enumerate(columns):
        x = _NAME + _CELL * i
        picture.text(x + _CELL / 2, 52, shortened(benchmark, _CELL - 4, letter=7.7), "strong", anchor="middle")
        heat = _heat(cells, models, benchmark)
        for j, model in enumerate(shown):
            y, row = 62 + _LINE * j, cells.get((model, benchmark))
            if row is None or model not in heat:
                picture.text(x + _CELL / 2, y + 17, NONE, "muted", anchor="middle")
                continue
            picture.box(x + 1, y + 1, _CELL - 2, _LINE - 2, f"cell-{heat[model]}")
            told = number(row["value"]) + ("" if row["coverage"] == 1 else "*")
            strong = " strong" if row["rank"] == 1 else ""
            picture.text(x + _CELL / 2, y + 17, told, f"on-{heat[model]}{strong}", anchor="middle")
    for j, model in enumerate(shown):
        picture.text(10, 79 + _LINE * j, shortened(model, _NAME - 18), title=model)
    if any(left_out):
        picture.text(10, picture.height - 8, "and " + ", ".join(one for one in left_out if one), "muted small")
    return picture
