"""The course of asking: bounded however long it takes, in one line, and as a picture."""

import base64
import xml.etree.ElementTree as ET

import pytest

from assets import course_plot
from eval_pipelines.client.course import Course

pytestmark = pytest.mark.unit


def course(n: int, *, every_s: float = 0.25, n_lowered: int = 0) -> Course:
    one = Course()
    for i in range(n):
        one.add(100 + i * every_s, limit=16 + i % 112, n_in_flight=min(16 + i, 100), n_answers=5)
    for i in range(n_lowered):
        one.lowered(100 + i, "429")
    return one


@pytest.mark.parametrize("n", [1, 150, 201, 5_000])
def test_points_and_events_are_bounded_and_span_the_whole_time(n) -> None:
    one = course(n, n_lowered=n)
    assert min(n, 100) <= len(one.points) <= 200
    assert len(one.events) <= 50
    assert one.n_lowered["429"] == n
    assert one.points[0].at_s == 0
    assert one.points[-1].at_s >= 0.95 * (n - 1) * 0.25


def test_answers_per_second_stay_right_when_points_are_left_out() -> None:
    one = course(5_000)
    assert {round(point.answers_per_s) for point in one.points[2:]} <= {20}


def test_it_is_told_in_one_line() -> None:
    one = Course()
    assert one.words == ""
    for at, limit in enumerate((16, 32, 256, 128)):
        one.add(at, limit=limit, n_in_flight=3, n_answers=1)
    assert one.words == "16 -> 128 in flight, at most 256"
    one.lowered(3, "429")
    assert one.words == "16 -> 128 in flight, at most 256, backed off once (429)"
    one.lowered(4, "429")
    assert one.words == "16 -> 128 in flight, at most 256, backed off 2 times (429)"


@pytest.mark.parametrize("one", [Course(), course(1), course(90, n_lowered=3), course(5_000, n_lowered=99)])
def test_the_picture_is_an_svg_within_its_frame_and_not_large(one) -> None:
    head, _, data = course_plot.markdown(one).partition("](data:image/svg+xml;base64,")
    assert head.startswith(one.words)
    drawn = base64.b64decode(data.removesuffix(")"))
    assert len(drawn) < 20_000
    root = ET.fromstring(drawn)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    lines = [element for element in root if element.tag.endswith("polyline")]
    assert len(lines) == 3
    for element in lines:
        pairs = [tuple(map(float, pair.split(","))) for pair in element.get("points", "").split()]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in pairs)
    assert sum(element.tag.endswith("}line") for element in root) == len(one.events)
