"""A picture as PNG, drawn without a browser."""

import functools

from eval_pipelines.reports._picture import Picture
from eval_pipelines.reports._theme import picture_css

_ZOOM = 1.5


def png(picture: Picture, *, zoom: float = _ZOOM) -> bytes | None:
    """The picture on white, `zoom` pixels to a unit; None on a machine that has no fonts to write its numbers with."""
    return _drawn(svg(picture).decode(), zoom) if has_fonts() else None


def svg(picture: Picture) -> bytes:
    """The picture on white, as a file of its own."""
    return picture.alone(picture_css()).encode()


@functools.cache
def has_fonts() -> bool:
    """Whether a letter leaves a trace."""
    frame = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20">{}</svg>'
    return _drawn(frame.format('<text x="2" y="16" font-family="sans-serif">n</text>'), 1) != _drawn(
        frame.format(""), 1
    )


def _drawn(svg: str, zoom: float) -> bytes:
    # a library of compiled code that only whoever draws pays for
    import resvg_py

    drawn: bytes = resvg_py.svg_to_bytes(svg_string=svg, zoom=zoom, sans_serif_family="DejaVu Sans")
    return bytes(drawn)
