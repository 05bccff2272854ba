"""Pictures: a few marks on a plane, as SVG for pages and as PNG for whoever shows no SVG."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from markupsafe import Markup

from eval_pipelines.formats import printable

MINUS: Final = "\N{MINUS SIGN}"
# the width of a letter in a 12 px sans serif, on average and a little more
_LETTER: Final = 7.4


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places. Low and high may be the same: then everything is in the middle."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


@dataclass(slots=True)
class Picture:
    """A drawing of so many units; it is shown as wide as there is room.

    Attributes:
        label: What is to be seen, for those who cannot.
    """

    width: float
    height: float
    label: str
    parts: list[Markup] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, kind: str = "", *, anchor: str = "start", title: str = "") -> None:
        """Words, with their baseline at y."""
        self._add(Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}{}</text>'),
            _at(x), _at(y), kind, anchor, _title(title), printable(words),
        )  # fmt: skip

    def line(self, points: Sequence[tuple[float, float]], kind: str, *, title: str = "") -> None:
        """A line through points."""
        self._add(Markup('<polyline points="{}" class="{}">{}</polyline>'), _points(points), kind, _title(title))

    def area(self, points: Sequence[tuple[float, float]], kind: str, *, title: str = "") -> None:
        """A filled outline."""
        self._add(Markup('<polygon points="{}" class="{}">{}</polygon>'), _points(points), kind, _title(title))

    def box(self, x: float, y: float, width: float, height: float, kind: str, *, title: str = "") -> None:
        """A filled rectangle."""
        self._add(Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}">{}</rect>'),
            _at(x), _at(y), _at(width), _at(height), kind, _title(title),
        )  # fmt: skip

    def dot(self, x: float, y: float, radius: float, kind: str, *, title: str = "") -> None:
        """A disc."""
        self._add(
            Markup('<circle cx="{}" cy="{}" r="{}" class="{}">{}</circle>'), _at(x), _at(y), radius, kind, _title(title)
        )

    def put(self, other: "Picture", x: float, y: float) -> None:
        """Another picture, with its corner at x, y."""
        self._add(Markup('<g transform="translate({} {})">{}</g>'), _at(x), _at(y), Markup("").join(other.parts))

    def svg(self) -> Markup:
        """For a page, whose style it takes on."""
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            _at(self.width), _at(self.height), printable(self.label), Markup("").join(self.parts)
        )

    def alone(self, css: str) -> str:
        """As a file of its own, on white."""
        return str(
            Markup(
                '<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img">'
                '<style>{css}</style><rect width="100%" height="100%" fill="#ffffff"/>{parts}</svg>'
            ).format(w=_at(self.width), h=_at(self.height), css=css, parts=Markup("").join(self.parts))
        )

    def _add(self, template: Markup, *values: object) -> None:
        self.parts.append(template.format(*values))


def side_by_side(pictures: Sequence[Picture], *, n_columns: int, title: str) -> Picture:
    """Pictures of one size as one, in rows."""
    width, height = max(one.width for one in pictures), max(one.height for one in pictures)
    n_columns = min(n_columns, len(pictures))
    n_rows = math.ceil(len(pictures) / n_columns)
    whole = Picture(width * n_columns + 16, height * n_rows + 40, title)
    whole.text(16, 26, shortened(title, whole.width - 32, letter=8.2), "title")
    for i, one in enumerate(pictures):
        whole.put(one, 8 + width * (i % n_columns), 36 + height * (i // n_columns))
    return whole


def shortened(words: str, width: float, *, letter: float = _LETTER) -> str:
    """Words that fit so many units, with their middle left out: a model key is told apart by both its ends."""
    n = max(3, int(width / letter))
    if len(words) <= n:
        return words
    tail = (n - 1) * 2 // 3
    return f"{words[: n - 1 - tail]}…{words[-tail:]}"


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About n round numbers that enclose low to high."""
    if not high > low:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    rough = (high - low) / max(1, n - 1)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def label(value: float, step: float) -> str:
    """A tick's number, with as many digits as its neighbours differ in."""
    digits = next((n for n in range(12) if abs(step * 10**n - round(step * 10**n)) < 1e-9 * 10**n), 12)
    return f"{value:,.{digits}f}".replace("-", MINUS)


def _at(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _title(words: str) -> Markup:
    return Markup("<title>{}</title>").format(printable(words)) if words else Markup("")
