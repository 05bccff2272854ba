"""The course of requests in flight as a small picture for the UI: an SVG, drawn here, legible on light and on dark."""

import base64
from collections.abc import Iterable, Sequence

from eval_pipelines.client.course import Course, Point

_WIDTH, _HEIGHT = 560, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 44, 20, 22
# of a brightness between those of a light and a dark page
_LIMIT, _IN_FLIGHT, _RATE, _EVENT, _TEXT = "#3b82f6", "#0d9f86", "#d97706", "#ef4444", "#8a8f98"


def markdown(course: Course) -> str:
    """The course in words, and below it as a picture."""
    data = base64.b64encode(svg(course).encode()).decode()
    return f"{course.words}\n\n![requests in flight and answers per second](data:image/svg+xml;base64,{data})"


def svg(course: Course) -> str:
    """Limit, requests in flight and answers per second over seconds; a mark where the limit was lowered."""
    points = course.points
    end_s = max([point.at_s for point in points], default=0.0) or 1.0
    most = max([max(point.limit, point.n_in_flight) for point in points], default=1) or 1
    rates = _smooth_rates(points, over_s=end_s / 12)
    fastest = max(rates, default=0.0) or 1.0
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(at_s: float) -> float:
        return _LEFT + across * min(1.0, at_s / end_s)

    def line(values: Iterable[float], top: float, colour: str, *, is_stepped: bool = False, width: float = 1.5) -> str:
        told: list[str] = []
        before = None
        for point, value in zip(points, values, strict=True):
            y = _TOP + down * (1 - value / top)
            told += [f"{x(point.at_s):.1f},{before:.1f}"] if is_stepped and before is not None else []
            told.append(f"{x(point.at_s):.1f},{y:.1f}")
            before = y
        return f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" points="{" ".join(told)}"/>'

    events = "".join(
        f'<line x1="{x(at_s):.1f}" x2="{x(at_s):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="{_EVENT}" '
        f'stroke-dasharray="2 2"><title>{_escaped(why)}</title></line>'
        for at_s, why in course.events
    )
    parts = [
        f'<rect x="{_LEFT}" y="{_TOP}" width="{across}" height="{down}" fill="none" stroke="{_TEXT}" opacity="0.4"/>',
        events,
        line(rates, fastest, _RATE, width=1),
        line([point.n_in_flight for point in points], most, _IN_FLIGHT),
        line([point.limit for point in points], most, _LIMIT, is_stepped=True, width=2),
        *_labels(course, end_s, most, fastest),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def _smooth_rates(points: Sequence[Point], over_s: float) -> list[float]:
    """Answers per second over the time before each point: between two points that are close it says nothing."""
    rates = []
    for i, last in enumerate(points):
        n, since_s = 0.0, last.at_s
        for before, point in zip(reversed(points[:i]), reversed(points[1 : i + 1]), strict=True):
            n += point.answers_per_s * (point.at_s - before.at_s)
            since_s = before.at_s
            if last.at_s - since_s >= over_s:
                break
        rates.append(n / (last.at_s - since_s) if last.at_s > since_s else 0.0)
    return rates


def _labels(course: Course, end_s: float, most: int, fastest: float) -> Sequence[str]:
    low, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    legend = [("limit", _LIMIT, 0), ("in flight", _IN_FLIGHT, 50), ("answers/s", _RATE, 115)]
    if course.n_lowered:
        legend.append((f"lowered: {', '.join(sorted(course.n_lowered))}", _EVENT, 190))
    return [
        *(_text(_LEFT + at, _TOP - 7, name, colour) for name, colour, at in legend),
        _text(_LEFT - 4, _TOP + 9, f"{most}", _LIMIT, anchor="end"),
        _text(_LEFT - 4, low, "0", _TEXT, anchor="end"),
        _text(right + 4, _TOP + 9, f"{fastest:.3g}", _RATE),
        _text(_LEFT, low + 15, "0 s", _TEXT),
        _text(right, low + 15, f"{end_s:.3g} s", _TEXT, anchor="end"),
    ]


def _text(x: float, y: float, text: str, colour: str, *, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
