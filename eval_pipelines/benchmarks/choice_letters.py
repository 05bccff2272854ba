"""The letter of the choice that an answer settles on."""

import re

from eval_pipelines.benchmarks.own_scoring import LETTERS, UNPARSEABLE


def letter_in(text: str, n_choices: int) -> str:
    """The letter of the choice that an answer settles on; a lone `A` or `I` in a sentence is none."""
    letter = f"([{LETTERS[:n_choices]}])"
    for pattern in (
        rf"(?i:answer|choice|option)(?i:\s+is)?\s*:?\s*\W{{0,3}}{letter}\b",
        rf"^\W*{letter}(?:\W|$)(?!\s*[a-z])",
        rf"\({letter}\)",
        rf"(?:^|\s){letter}(?:[.):]|\s*$)",
    ):
        if found := re.findall(pattern, text, re.MULTILINE):
            return str(found[-1])
    return UNPARSEABLE
