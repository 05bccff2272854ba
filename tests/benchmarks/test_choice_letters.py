"""The letter of the choice that an answer settles on: what people and models write, and what it means."""

import time

import pytest

from eval_pipelines.benchmarks.choice_letters import letter_in

pytestmark = pytest.mark.unit

SETTLED = [
    ("The answer is B: it is the capital. Option A describes something else.", "B"),
    ("The correct option: B. Choice A is one of the north.", "B"),
    ("Option B: Rome is the capital.", "B"),
    ("I would choose option (b) here", "B"),
    ("The correct choice is option C, Nice", "C"),
    ("B", "B"),
    ("(C) because", "C"),
    ("The answer is B.", "B"),
    ("Answer: **D**", "D"),
    ("A is wrong, so the answer is (C)", "C"),
    ("I think B) fits", "B"),
    ("A, B and C are wrong, so D", "D"),
    ("\\boxed{C}", "C"),
    ("So $\\boxed{\\text{(c)}}$.", "C"),
    ("answer: b", "B"),
    ("I think (b)", "B"),
    ("b", "B"),
    ("b) Rome", "B"),
    ("**Answer:** B", "B"),
    ("The answer is:\n\n**B**", "B"),
    ("It's B, not A.", "B"),
    ("The answer is not A but C.", "C"),
    ("Option A is wrong; option C is right", "C"),
    ("B is the correct answer because A is too small.", "B"),
    ("I would go with D because it fits", "D"),
    ("The best choice is the second option, B.", "B"),
    ("The answer is A because of that", "A"),
    ("C) 42\n\nExplanation: A) is too small, B) is odd, D) is big", "C"),
    ("A) Paris\nB) Rome\nC) Nice\nD) Lyon\n\nI choose B.", "B"),
    ("Let's see. A: 3 m. B: 5 m. So the answer is B", "B"),
    ("The answer is B. Wait, that is wrong: the answer is C.", "C"),
    ("答案是B", "B"),
    ("The final answer is $D$.", "D"),
    ("Between (A) and (C), I'd say (C).", "C"),
    ("Eliminating A, D is correct.", "D"),
    ("The answer to the question is C since it fits", "C"),
    ("B. Paris", "B"),
    ("B - Paris", "B"),
    ("  (D)\n", "D"),
    ("C\n\nBecause A is small.", "C"),
    ("The answer is A, because B is odd.", "A"),
    ("Answer: B, A is too small", "B"),
    ("A", "A"),
    ("I chose option (D).", "D"),
    ("The correct option is therefore C", "C"),
    ("Therefore, the correct answer is option B: Rome.", "B"),
    ("A and B are both wrong; C.", "C"),
    ("I'd eliminate A and B. C is best.", "C"),
    ("D is tempting, but the correct choice is A", "A"),
    ("The answer is (a).", "A"),
    ("Final answer: C: 7", "C"),
    ("B because of X", "B"),
    ("The answer would be C) Nice", "C"),
    ("**C**", "C"),
    ("C. None of A and B", "C"),
    ("Choice D", "D"),
    ("answer=C", "C"),
    ("The answer is\nC", "C"),
    ("A dog. B", "B"),
    ('{"answer": "C"}', "C"),
    ("<answer>B</answer>", "B"),
    ("The right answer must be C, not D", "C"),
    ("The answer, I believe, is D.", "D"),
    ("My answer: D. Not A.", "D"),
    ("The answer is therefore not D, it's B", "B"),
    ("Not A. Not B. C.", "C"),
]
SETTLES_NOTHING = [
    "A cat sat there.",
    "E",
    "",
    "The correct answer is not B.",
    "Answer: A or B",
    "Answer: A, B",
    "Either A or C.",
    "None of A, B, C or D",
    "The answer cannot be A.",
    "B is not correct",
    "The answer is a matter of taste.",
    "The answer is A common one",
    "A) Paris\nB) Rome\nC) Nice\nD) Lyon",
    "(A) Paris (B) Rome (C) Nice (D) Lyon",
    "I am sure that f(a) is large",
    "It is C++.",
    "The answer isn't C.",
    "I don't think it is A.",
    "It is a dog.",
    "The answer is A/B",
    "Answer: (A) or (B)",
    "All except C",
]


@pytest.mark.parametrize(("answer", "letter"), SETTLED)
def test_the_letter_that_an_answer_settles_on_is_found(answer: str, letter: str) -> None:
    assert letter_in(answer, 4) == letter


@pytest.mark.parametrize("answer", SETTLES_NOTHING)
def test_an_answer_that_settles_on_nothing_has_no_letter(answer: str) -> None:
    assert letter_in(answer, 4) == "[invalid]"


def test_among_many_choices_a_pronoun_is_no_letter() -> None:
    assert [letter_in(answer, 10) for answer in ("I think B", "I", "I believe so", "J")] == ["B", "I", "[invalid]", "J"]


@pytest.mark.parametrize("piece", ["A ", "answer ", "(", "not ", " ", "A, B and ", "answer to x ", "**", "I think "])
def test_a_long_answer_is_read_in_a_moment(piece: str) -> None:
    start = time.process_time()
    letter_in(piece * (100_000 // len(piece)), 4)
    assert time.process_time() - start < 5
