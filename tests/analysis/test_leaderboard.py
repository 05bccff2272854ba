"""The line that says which of two models is ahead."""

import pytest

from eval_pipelines.analysis.leaderboard import Contrast
from eval_pipelines.scoring.paired import Comparison

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("higher", "higher_is_better", "leader"),
    [("b", True, "b"), ("a", True, "a"), ("b", False, "a"), ("a", False, "b")],
)
def test_the_leader_is_named_in_the_metrics_direction_and_its_questions_come_first(
    higher: str, higher_is_better: bool, leader: str
) -> None:
    difference, n_a, n_b = (0.2, 2, 4) if higher == "b" else (-0.2, 4, 2)
    found = Comparison(n=10, difference=difference, n_a_only=n_a, n_b_only=n_b, p_value=0.7)
    told = Contrast("x", "a", "b", found, higher_is_better).in_words()
    assert told.startswith(f"x: {leader} is 0.200 ahead")
    assert "(4 to 2 of 10 questions" in told


def test_two_models_that_win_equally_often_are_level() -> None:
    found = Comparison(n=10, difference=0.0, n_a_only=5, n_b_only=5, p_value=1.0)
    assert Contrast("x", "a", "b", found).in_words() == "x: a and b are level on 10 questions: not significant"
