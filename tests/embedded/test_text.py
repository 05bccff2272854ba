"""Stop strings, characters that span tokens, offsets."""

import pytest

from eval_pipelines.embedded.text import TextAssembler, text_offsets


def test_text_that_may_become_a_stop_string_is_held_back() -> None:
    text = TextAssembler(["END"])
    assert [text.feed(piece) for piece in (b"ab", b"cE", b"N", b"x")] == ["", "ab", "c", "E"]
    assert text.finish() == "Nx"
    assert text.text == "abcENx"


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [([b"one\nE", b"ND two"], "one\n"), ([b"END"], ""), ([b"one END and", b" more END"], "one ")],
)
def test_the_first_stop_string_ends_the_text(pieces: list[bytes], expected: str) -> None:
    text = TextAssembler(["ND", "END"])
    shown = "".join(text.feed(piece) for piece in pieces)
    assert (shown, text.text, text.is_stopped) == (expected, expected, True)
    assert text.feed(b"never") == ""


def test_a_character_appears_once_its_last_byte_is_there() -> None:
    text = TextAssembler()
    assert [text.feed(piece) for piece in (b" \xf0\x9f", b"\x8e", b"\x89!")] == [" ", "", "🎉!"]


def test_an_unfinished_character_is_replaced_at_the_end() -> None:
    text = TextAssembler()
    text.feed(b"a\xf0\x9f")
    assert text.finish() == "\ufffd"


def test_control_tokens_are_no_text_but_can_stop() -> None:
    text = TextAssembler(["<|end|>"])
    assert text.feed(b"<|other|>", is_control=True) == ""
    text.feed(b"hi")
    text.feed(b"<|end|>", is_control=True)
    assert (text.text, text.is_stopped) == ("hi", True)


def test_offsets_point_at_the_character_a_token_begins_in() -> None:
    assert text_offsets([b"h", "é".encode(), b" \xe6", b"\x97", b"\xa5", b"x"], start=10) == [10, 11, 12, 13, 13, 14]
