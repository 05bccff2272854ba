"""Comparison: two models on the same questions, and the questions on which the verdict changed, side by side."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from eval_pipelines.analysis import comparison
from eval_pipelines.analysis.comparison import Pair
from eval_pipelines.errors import ConfigError
from eval_pipelines.reports._page import Options, Page, Row, between, findings, join, metric, number, table, text
from eval_pipelines.reports._picture import Picture, Scale, label, shortened, ticks
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb

TITLE: Final = "Comparison"
# pages nobody asked for: the newest checkpoint of this many families against the one before it
_N_FAMILIES: Final = 12
_NAME, _PLOT, _TOLD, _LINE = 150, 330, 150, 30
_WORDS: Final = {
    "better": "▲ better",
    "worse": "▼ worse",
    "equivalent": "equivalent",
    "inconclusive": "inconclusive",
    "not comparable": "not comparable",
}


def make(connection: "duckdb.DuckDBPyConnection", options: Options) -> Iterator[Page]:
    """Of the two models named; else each family's newest checkpoint with the one before it, and the best two models.

    Raises:
        UnknownNameError: a model or benchmark that the record does not know.
        ConfigError: one model, the same one twice, or more than two.
    """
    if options.models and len(options.models) != 2:
        raise ConfigError(f"a comparison is of two models, not {len(options.models)}: --model A --model B.")
    if options.models and options.models[0] == options.models[1]:
        raise ConfigError(f"A and B are both {options.models[0]}: name two models.")
    chosen = [(options.models[0], options.models[1])] if options.models else _worth_comparing(connection, options)
    for a, b in chosen:
        pairs = comparison.pairs(connection, a, b, options.benchmarks)
        if pairs or options.models:
            flips = {
                pair.benchmark: comparison.flips(connection, a, b, pair.benchmark, limit=options.limit)
                for pair in pairs
                if not pair.why_not
            }
            yield _page(a, b, pairs, flips)


def _worth_comparing(connection: "duckdb.DuckDBPyConnection", options: Options) -> list[tuple[str, str]]:
    """(a, b): b the newer or the second best. Best two only where they are not of one family's newest anyway."""
    steps = fetch(
        connection,
        "SELECT family, list(DISTINCT {'step': step, 'model_key': model_key}) AS found, max(evaluated_at) AS newest "
        "FROM leaderboard WHERE step IS NOT NULL GROUP BY family ORDER BY newest DESC",
    )
    chosen = []
    for row in steps:
        newest = sorted(row["found"], key=lambda one: (one["step"], one["model_key"]))[-2:]
        if len(newest) == 2 and (not options.families or row["family"] in options.families):
            chosen.append((newest[0]["model_key"], newest[1]["model_key"]))
    chosen = chosen[:_N_FAMILIES]
    if not options.families:
        best = fetch(
            connection,
            "SELECT model_key FROM leaderboard_overall WHERE rank IS NOT NULL ORDER BY rank, model_key LIMIT 2",
        )
        pair = tuple(row["model_key"] for row in reversed(best))
        if len(pair) == 2 and pair not in chosen and pair[::-1] not in chosen:
            chosen.append((pair[0], pair[1]))
    return chosen


def _page(a: str, b: str, pairs: Sequence[Pair], flips: dict[str, list[Row]]) -> Page:
    told = [_sentence(pair) for pair in pairs if pair.verdict in ("better", "worse")]
    told += [f"{pair.benchmark}: A and B do not compare: {pair.why_not}." for pair in pairs if pair.why_not]
    undecided = [pair.benchmark for pair in pairs if pair.verdict == "inconclusive"]
    if undecided:
        told.append(f"No difference is seen on {', '.join(undecided)}.")
    picture = _forest(pairs, a, b) if pairs else None
    return Page(
        path=f"comparison/{a}--{b}",
        title=f"{TITLE} of {b} with {a}",
        about=f"A is {a}, B is {b}. Paired: only questions that both were graded on count.",
        body=join([
            findings(told, none="They have no benchmark in common: nothing can be compared."),
            *([Markup("<figure class='scroll'>{}</figure>").format(picture.svg())] if picture else []),
            _numbers(pairs) if pairs else Markup(""),
            *(_flips(pair, flips.get(pair.benchmark, [])) for pair in pairs),
        ]),
        findings=tuple(told),
        preview=picture,
    )  # fmt: skip


def _sentence(pair: Pair) -> str:
    found = pair.found
    ends = between(found.ci_low, found.ci_high, is_signed=True)
    return (
        f"{pair.benchmark}: B is {found.verdict}: {number(found.difference, is_signed=True)}"
        f"{f' (95 %: {ends})' if ends else ''}, n = {found.n:,}, p = {found.p_value:.2g}."
    )


def _numbers(pairs: Sequence[Pair]) -> Markup:
    rows = [
        (
            pair.benchmark, f"{metric(pair.row())}{'' if pair.higher_is_better else ' (lower is better)'}",
            number(pair.value_a), number(pair.value_b), number(pair.row()["difference"], is_signed=True),
            between(pair.found.ci_low, pair.found.ci_high, is_signed=True), f"{pair.found.n:,}",
            f"{pair.found.n_a_only:,}", f"{pair.found.n_b_only:,}",
            "" if pair.found.p_value is None else f"{pair.found.p_value:.2g}",
            number(pair.found.min_detectable), _WORDS[pair.verdict],
        )
        for pair in pairs
    ]  # fmt: skip
    heads = ("benchmark", "metric", "A", "B", "B − A", "95 %", "n", "A ahead", "B ahead", "p", "detectable", "B is")  # noqa: RUF001
    note = (
        "A and B: each over all its graded questions; the rest over the questions both share. Detectable: the smallest "
        "true difference that this many questions would show with 80 % probability. Each p is of one test by itself."
    )
    return Markup("<h2>Numbers</h2>{}<p class='note'>{}</p>").format(
        table(heads, rows, numbers=(2, 3, 4, 6, 7, 8, 9, 10)), note
    )


def _flips(pair: Pair, rows: Sequence[Row]) -> Markup:
    n_all = pair.found.n_a_only + pair.found.n_b_only
    if not rows:
        return Markup("")
    lost, won = (
        (pair.found.n_a_only, pair.found.n_b_only)
        if pair.higher_is_better
        else (pair.found.n_b_only, pair.found.n_a_only)
    )
    shown = "" if len(rows) == n_all else f" Shown: {len(rows)}."
    head = Markup("<h2>{}: {} questions changed</h2><p class='note'>B lost {} and won {}.{}</p>").format(
        text(pair.benchmark), n_all, lost, won, shown
    )
    return join([head, *(_flip(row, pair.higher_is_better) for row in rows)])


def _flip(row: Row, higher_is_better: bool) -> Markup:
    won, lost = Markup('<b class="better">▲ won by B</b>'), Markup('<b class="worse">▼ lost by B</b>')
    a_is_better = (row["value_a"] > row["value_b"]) == higher_is_better
    sides = [
        Markup('<div>{} <small>{}</small><div class="said {}">{}</div></div>').format(
            side, f"{row[value]:g}", "right" if is_better else "wrong", text(row[answer] or "no answer on record")
        )
        for side, value, answer, is_better in (
            ("A", "value_a", "answer_a", a_is_better), ("B", "value_b", "answer_b", not a_is_better)
        )
    ]  # fmt: skip
    return Markup(
        '<section class="flip"><header>{}<strong>{}</strong><small>target: {}</small></header>'
        '<div class="said">{}</div><div class="sides">{}</div></section>'
    ).format(
        won if row["change"] == "won" else lost,
        text(row["sample_id"]),
        text(row["target"] or ""),
        text(row["question"] or ""),
        Markup("").join(sides),
    )


def _forest(pairs: Sequence[Pair], a: str, b: str) -> Picture:
    """B minus A with its interval, a line for each benchmark; the axis holds zero. Only what is a share has a place."""
    shares = [pair for pair in pairs if pair.found.n and abs(pair.found.difference) <= 1 and _is_share(pair)]
    picture = Picture(_NAME + _PLOT + _TOLD, 62 + _LINE * max(1, len(shares)) + 26, f"{b} minus {a}")
    picture.text(10, 22, "B minus A, with its 95 % interval", "title")
    picture.text(10, 42, shortened(f"A {a}   B {b}", picture.width - 20, letter=6.2), "muted small")
    ends = [
        end
        for pair in shares
        for end in (pair.found.ci_low, pair.found.ci_high, pair.found.difference)
        if end is not None
    ]
    # both directions get the same room: which side a line lies on is what one looks for
    reach = max([abs(end) for end in ends] or [0.1]) or 0.1
    marks = ticks(-reach, reach)
    x = Scale(marks[0], marks[-1], _NAME + 8, _NAME + _PLOT - 8)
    bottom = 62 + _LINE * max(1, len(shares))
    for mark in marks:
        picture.line([(x(mark), 56), (x(mark), bottom)], "rule")
        picture.text(x(mark), bottom + 16, label(mark, marks[1] - marks[0]), "muted small", anchor="middle")
    picture.line([(x(0), 52), (x(0), bottom)], "other-line")
    for i, pair in enumerate(shares):
        y, found = 62 + _LINE * i + _LINE / 2, pair.found
        kind = found.verdict if found.verdict in ("better", "worse") else "other"
        picture.text(10, y + 4, shortened(pair.benchmark, _NAME - 16), title=pair.benchmark)
        if found.ci_low is not None and found.ci_high is not None:
            picture.line([(x(found.ci_low), y), (x(found.ci_high), y)], f"{kind}-line")
        picture.dot(x(found.difference), y, 5, kind)
        words = f"{number(found.difference, is_signed=True)}  {_WORDS[found.verdict]}"
        picture.text(_NAME + _PLOT + 4, y + 4, words, "strong" if kind != "other" else "muted")
    if not shares:
        picture.text(_NAME + _PLOT / 2, 82, "no benchmark whose metric is a share", "muted", anchor="middle")
    return picture


def _is_share(pair: Pair) -> bool:
    return all(value is not None and 0 <= value <= 1 for value in (pair.value_a, pair.value_b))
