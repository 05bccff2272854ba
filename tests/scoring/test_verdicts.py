"""What a judge wrote, as a verdict; several verdicts, as one."""

from typing import Any

import pytest

from eval_pipelines.config import JudgeSpec
from eval_pipelines.scoring.verdicts import NoVerdict, Said, Verdict, combined, of_both_orders, read_verdict

pytestmark = pytest.mark.unit


def rules(**fields: Any) -> Any:
    given = {"models": "j@a", **({} if "template" in fields else {"prompt": "{{ answer }}"}), **fields}
    return JudgeSpec.model_validate(given).rules


CORRECT = rules(template="correctness")
RATING = rules(template="rubric_1_10")
JSON = rules(scale={"low": 0, "high": 4}, extract={"json_field": "score"})
PAIR = rules(kind="pairwise", template="pairwise", baseline="m@a")


@pytest.mark.parametrize(
    ("how", "text", "label", "value"),
    [
        (CORRECT, "It says 4.\n**Correct**\n", "CORRECT", 1.0),
        (CORRECT, "INCORRECT.", "INCORRECT", 0.0),
        (RATING, "Good.\nRating: 10", "10", 1.0),
        (RATING, "**Rating: 5.5/10**", "5.5", 0.5),
        (JSON, 'First {"score": 1}, no: ```json\n{"score": 3, "why": {"score": 0}}\n```', "3", 0.75),
        (PAIR, "Both fine.\ntie", "tie", 0.5),
    ],
)
def test_a_verdict_is_read_where_it_stands(how: Any, text: str, label: str, value: float) -> None:
    verdict = read_verdict(text, how)
    assert isinstance(verdict, Verdict)
    assert (verdict.label, verdict.value) == (label, value)


@pytest.mark.parametrize(
    ("how", "text", "why"),
    [
        (CORRECT, "It is CORRECT, I think", "'It is CORRECT, I think' is none of CORRECT, INCORRECT"),
        (CORRECT, " \n", "the answer is empty"),
        (RATING, "Rating: 11", "11 is not between 1 and 10"),
        (RATING, "Rating: 3\nRating: 4", "says 3 and 4"),
        (RATING, "I rate it highly", "nothing fits the expression"),
        (JSON, '{"score": true}', "no JSON object whose 'score' is a text or a number"),
        (JSON, '{"score": "high"}', "'high' is no number"),
        (JSON, '{"score":' * 5000, "no JSON object whose 'score' is a text or a number"),
        (JSON, "{" * 5000, "no JSON object whose 'score' is a text or a number"),
        (PAIR, "Answer A", "'Answer A' is none of A, B, TIE"),
    ],
)
def test_anything_else_is_no_verdict_and_says_why(how: Any, text: str, why: str) -> None:
    assert read_verdict(text, how) == NoVerdict("judge_unparseable", why)


def test_in_the_other_order_the_judged_answer_is_b() -> None:
    said = [read_verdict(text, PAIR, is_swapped=swapped) for text, swapped in (("A", False), ("A", True), ("B", True))]
    assert [one.label for one in said if isinstance(one, Verdict)] == ["win", "loss", "win"]


WIN, LOSS, TIE = Verdict("win", 1, "A"), Verdict("loss", 0, "B"), Verdict("tie", 0.5, "TIE")
DOWN, MUTE = NoVerdict("judge_timeout", "slow"), NoVerdict("judge_unparseable", "what")


@pytest.mark.parametrize(
    ("orders", "said"), [((WIN, WIN), "win"), ((WIN, LOSS), "tie"), ((WIN, TIE), "tie"), ((WIN, DOWN), DOWN)]
)
def test_a_win_is_one_in_both_orders(orders: tuple[Said, ...], said: str | NoVerdict) -> None:
    found = of_both_orders(orders)
    assert (found.label if isinstance(found, Verdict) else found) == said


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ((WIN, WIN, LOSS), "win"),
        ((WIN, WIN, DOWN), "win"),
        ((WIN, LOSS, DOWN), "tie"),
        ((WIN, DOWN, DOWN), DOWN),
        ((WIN, DOWN), DOWN),
        ((MUTE, MUTE, DOWN), MUTE),
        ((WIN, LOSS, TIE), "tie"),
    ],
)
def test_those_who_speak_decide_as_long_as_they_are_most_of_all(said: tuple[Said, ...], label: str | NoVerdict) -> None:
    found = combined(said, PAIR)
    assert (found.label if isinstance(found, Verdict) else found) == label


def test_labels_without_a_majority_are_no_verdict_and_numbers_have_a_mean() -> None:
    right, wrong = Verdict("CORRECT", 1, "CORRECT"), Verdict("INCORRECT", 0, "INCORRECT")
    assert combined([right, wrong], CORRECT) == NoVerdict("judge_split", "CORRECT, INCORRECT")
    assert combined([right, wrong], rules(template="correctness", aggregate="mean")) == Verdict(
        "0.5", 0.5, "CORRECT, INCORRECT"
    )
    assert combined([Verdict("1", 0, "1"), Verdict("10", 1, "10"), DOWN], RATING) == Verdict("0.5", 0.5, "1, 10")
