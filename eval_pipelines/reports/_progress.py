"""One panel of training progress: a benchmark over the steps of a family."""

from collections.abc import Sequence
from typing import Final

from eval_pipelines.reports._page import Row, metric, number, score
from eval_pipelines.reports._picture import Picture, Scale, label, shortened, ticks

_WIDTH, _HEIGHT = 420, 262
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 58, 46, 40
# more points than this are drawn smaller, and only what stands out is a disc
_MANY: Final = 16
_LEAST_SPAN: Final = 0.1
_EACH_LABELLED: Final = 8
_HALF_LETTER: Final = 3.3


def panel(benchmark: str, rows: Sequence[Row]) -> Picture:
    """Value over step with its interval; over the order of asking where a revision names no step.

    rows: of `history.course`, at least one, each with a value.
    """
    last = rows[-1]
    picture = Picture(_WIDTH, _HEIGHT, f"{benchmark}: {metric(last)} over {len(rows)} checkpoints, last {score(last)}")
    has_steps = all(row["step"] is not None for row in rows)
    steps = [float(row["step"]) if has_steps else float(i) for i, row in enumerate(rows)]
    marks = _value_ticks(rows)
    x = Scale(steps[0], steps[-1], _LEFT + 12, _WIDTH - _RIGHT)
    y = Scale(marks[0], marks[-1], _HEIGHT - _BOTTOM, _TOP)
    _frame(picture, benchmark, rows, y, marks)
    _step_axis(picture, rows, steps, x, has_steps=has_steps)
    _intervals(picture, rows, steps, x, y)
    picture.line([(x(step), y(row["value"])) for step, row in zip(steps, rows, strict=True)], "curve")
    for step, row in zip(steps, rows, strict=True):
        _point(picture, row, x(step), y, is_small=len(rows) > _MANY)
    picture.text(x(steps[-1]) + 8, y(last["value"]) + 4, number(last["value"]), "strong")
    return picture


def _value_ticks(rows: Sequence[Row]) -> list[float]:
    """The axis holds every interval; shares stay within 0 and 1, and begin at 0 where that costs little."""
    seen = [row[name] for row in rows for name in ("value", "ci_low", "ci_high") if row[name] is not None]
    partly = [row for row in rows if row["coverage"] < 1]
    seen += [row[name] for row in partly for name in ("bound_low", "bound_high") if row[name] is not None]
    low, high = min(seen), max(seen)
    is_share = low >= 0 and high <= 1
    if is_share and high - low < _LEAST_SPAN:  # a difference of a hundredth should not fill the page
        low, high = max(0.0, high - _LEAST_SPAN), max(high, min(1.0, low + _LEAST_SPAN))
    if 0 <= low < (high - low) * 0.6:
        low = 0.0
    return [mark for mark in ticks(low, high) if not is_share or -1e-9 <= mark <= 1 + 1e-9]


def _frame(picture: Picture, benchmark: str, rows: Sequence[Row], y: Scale, marks: Sequence[float]) -> None:
    last = rows[-1]
    picture.text(8, 16, shortened(benchmark, 400, letter=8), "title")
    ns = {row["n_asked"] for row in rows}
    n = f"n = {ns.pop():,}" if len(ns) == 1 else f"n = {min(ns):,} to {max(ns):,}"
    better = "" if last["higher_is_better"] else ", lower is better"
    picture.text(8, 32, shortened(f"{metric(last)}, {n}{better}", 404, letter=6.2), "muted small")
    for mark in marks:
        picture.line([(_LEFT, y(mark)), (_WIDTH - _RIGHT + 4, y(mark))], "rule")
        picture.text(_LEFT - 6, y(mark) + 4, label(mark, marks[1] - marks[0]), "muted small", anchor="end")


def _step_axis(picture: Picture, rows: Sequence[Row], steps: Sequence[float], x: Scale, *, has_steps: bool) -> None:
    low = _HEIGHT - _BOTTOM
    picture.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "step" if has_steps else "in the order of asking",
                 "muted small", anchor="middle")  # fmt: skip
    if has_steps and len(rows) > _EACH_LABELLED:
        marks = [mark for mark in ticks(steps[0], steps[-1]) if steps[0] <= mark <= steps[-1]]
        told = [(mark, f"{mark:,.0f}", "") for mark in marks]
    else:
        words = [f"{row['step']:,}" if has_steps else shortened(row["revision"], 90, letter=6.2) for row in rows]
        told = [(step, word, row["model_key"]) for step, word, row in zip(steps, words, rows, strict=True)]
    for at, word, title in _with_room(told, x):
        picture.line([(x(at), low), (x(at), low + 4)], "rule")
        picture.text(x(at), low + 17, word, "muted small", anchor="middle", title=title)


def _with_room(told: Sequence[tuple[float, str, str]], x: Scale) -> list[tuple[float, str, str]]:
    """Labels that do not run into each other: both ends, and between them what fits."""
    kept, right = [], -1e9
    last_from = x(told[-1][0]) - len(told[-1][1]) * _HALF_LETTER
    for i, one in enumerate(told):
        half = len(one[1]) * _HALF_LETTER
        if i == len(told) - 1 or (x(one[0]) - half > right + 8 and x(one[0]) + half < last_from - 8):
            kept.append(one)
            right = x(one[0]) + half
    return kept


def _intervals(picture: Picture, rows: Sequence[Row], steps: Sequence[float], x: Scale, y: Scale) -> None:
    """A band over neighbours that have an interval; a whisker for one that stands alone."""
    run: list[tuple[float, Row]] = []
    for step, row in [*zip(steps, rows, strict=True), (0.0, None)]:
        if row is not None and row["ci_low"] is not None:
            run.append((step, row))
            continue
        if len(run) > 1:
            upper = [(x(at), y(one["ci_high"])) for at, one in run]
            lower = [(x(at), y(one["ci_low"])) for at, one in reversed(run)]
            picture.area([*upper, *lower], "band")
        elif run:
            [(at, one)] = run
            picture.line([(x(at), y(one["ci_low"])), (x(at), y(one["ci_high"]))], "whisker")
        run = []


def _point(picture: Picture, row: Row, x: float, y: Scale, *, is_small: bool) -> None:
    change = "" if row["change"] is None else f", {number(row['change'], is_signed=True)} to the one before"
    title = f"{row['model_key']}: {score(row)}, n = {row['n']:,}/{row['n_asked']:,}{change}"
    at = y(row["value"])
    if row["coverage"] < 1 and row["bound_low"] is not None:
        picture.line([(x, y(row["bound_low"])), (x, y(row["bound_high"]))], "bound")
    picture.dot(x, at, 2 if is_small else 3.5, "hollow" if row["coverage"] < 1 else "dot", title=title)
    if row["verdict"] == "worse":
        picture.area([(x - 6, at + 8), (x + 6, at + 8), (x, at + 18)], "worse", title=title)
        picture.text(x, at + 31, number(row["change"], is_signed=True), "worse small strong", anchor="middle")
    elif row["verdict"] == "better" and not is_small:
        picture.area([(x - 4, at - 8), (x + 4, at - 8), (x, at - 15)], "better", title=title)
