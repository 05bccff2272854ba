"""Colours and styles of pages and pictures: light and dark, for eyes that tell fewer colours apart, and for paper.

Marks differ in shape and words, too, never in colour alone. Text has a contrast of at least 4.5 to its ground, lines
and marks of at least 3 (WCAG 2.2 AA); a test computes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

# the heat map goes from worst (0) to best (6) in one hue; `on-…` is the text on it
LIGHT: Final[Mapping[str, str]] = {
    "ground": "#ffffff", "raised": "#f5f7fa", "ink": "#171c26", "muted": "#545d6b", "rule": "#d3d9e1",
    "mark": "#0b62c4", "band": "#cfe1f6", "worse": "#b93a0a", "better": "#0a6e54", "other": "#6d7684",
    "heat-0": "#eef3f9", "heat-1": "#d6e4f4", "heat-2": "#b4d0ee", "heat-3": "#8ab6e4", "heat-4": "#2a6cb8",
    "heat-5": "#17559b", "heat-6": "#0a3f7a",
    "on-heat-0": "#171c26", "on-heat-1": "#171c26", "on-heat-2": "#171c26", "on-heat-3": "#101620",
    "on-heat-4": "#ffffff", "on-heat-5": "#ffffff", "on-heat-6": "#ffffff",
}  # fmt: skip
DARK: Final[Mapping[str, str]] = {
    "ground": "#12161d", "raised": "#1b212b", "ink": "#e7eaf0", "muted": "#a3adbb", "rule": "#36404d",
    "mark": "#6db3ff", "band": "#21405f", "worse": "#ff9e64", "better": "#5fd3ae", "other": "#8d97a6",
    "heat-0": "#1d2531", "heat-1": "#20344b", "heat-2": "#214468", "heat-3": "#245687", "heat-4": "#5b9ee0",
    "heat-5": "#82b9ef", "heat-6": "#b3d6f9",
    "on-heat-0": "#e7eaf0", "on-heat-1": "#eef1f6", "on-heat-2": "#f3f5f9", "on-heat-3": "#ffffff",
    "on-heat-4": "#0b1018", "on-heat-5": "#0b1018", "on-heat-6": "#0b1018",
}  # fmt: skip
N_HEAT: Final = 7

# plain selectors and one property value each: whoever draws the PNG knows no more of CSS
PICTURE: Final = """
text { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--ink); }
.muted { fill: var(--muted); }
.small { font-size: 11px; }
.strong { font-weight: 600; }
.title { font-size: 14px; font-weight: 600; }
.rule { stroke: var(--rule); stroke-width: 1; fill: none; }
.band { fill: var(--band); stroke: none; }
.curve { fill: none; stroke: var(--mark); stroke-width: 2; }
.whisker { fill: none; stroke: var(--mark); stroke-width: 1.5; }
.bound { fill: none; stroke: var(--other); stroke-width: 1.5; stroke-dasharray: 2 2; }
.dot { fill: var(--mark); stroke: var(--ground); stroke-width: 1; }
.hollow { fill: var(--ground); stroke: var(--mark); stroke-width: 2; }
.worse { fill: var(--worse); }
.better { fill: var(--better); }
.worse-line { fill: none; stroke: var(--worse); stroke-width: 2.5; }
.better-line { fill: none; stroke: var(--better); stroke-width: 2.5; }
.other-line { fill: none; stroke: var(--other); stroke-width: 2.5; }
.other { fill: var(--other); }
"""


def page_css() -> str:
    """Everything a page needs, inline."""
    folder = Path(__file__).parent
    heat = "".join(f".heat-{i} {{ background: var(--heat-{i}); color: var(--on-heat-{i}); }}\n" for i in range(N_HEAT))
    return (
        f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n"
        # paper is white, whatever the screen is
        f"@media print {{ :root {{ color-scheme: light; {_variables(LIGHT)} }} }}\n"
        f"{PICTURE}{heat}{(folder / 'page.css').read_text(encoding='utf-8')}"
    )


def picture_css() -> str:
    """The style of a picture on its own, on white: no variables, no media queries."""
    css = PICTURE
    for i in range(N_HEAT):
        css += f".cell-{i} {{ fill: var(--heat-{i}); }}\n.on-{i} {{ fill: var(--on-heat-{i}); }}\n"
    for name, colour in LIGHT.items():
        css = css.replace(f"var(--{name})", colour)
    return css


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
