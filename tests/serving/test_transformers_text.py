"""Text and requests of the transformers server: spelling, offsets, stop strings, what is refused. No model."""

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

from eval_pipelines.serving.servers._transformers_protocol import ChatRequest, CompletionRequest, Refused, parse
from eval_pipelines.serving.servers._transformers_text import Answer, Speller, starts

pytestmark = pytest.mark.unit
SERVERS = Path(__file__).parents[2] / "eval_pipelines" / "serving" / "servers"


class Letters:
    """A tokenizer: id 1 is `a`, 2 is `b` … ; ids from 100 are bytes of UTF-8."""

    def decode(self, ids: Sequence[int], **_: bool) -> str:
        octets = b"".join(bytes([id_ - 100]) if id_ >= 100 else chr(96 + id_).encode() for id_ in ids)
        return octets.decode(errors="replace")


def spelled(*ids: int, stops: Sequence[str] = ()) -> Answer:
    answer = Answer(Speller(Letters()), stops)
    for id_ in ids:
        answer.feed(id_)
        if answer.is_stopped:
            return answer
    answer.finish()
    return answer


def octets(text: str) -> list[int]:
    return [byte + 100 for byte in text.encode()]


def test_a_character_comes_with_its_last_byte() -> None:
    answer = spelled(1, *octets("ü🙂"), 2)
    assert answer.text == "aü🙂b"
    assert answer.offsets == [0, 1, 1, 2, 2, 2, 2, 3]


def test_half_a_character_at_the_end_stays_a_replacement() -> None:
    assert spelled(1, *octets("ü")[:1]).text == "a\ufffd"


def test_bytes_that_are_no_text_do_not_hold_back_what_follows() -> None:
    assert spelled(1, 355, 2, 3).text == "a\ufffdbc"


def test_an_answer_ends_before_the_first_stop_string_also_across_tokens() -> None:
    answer = spelled(1, 2, 3, 4, 5, stops=["cd", "bcd", "e"])
    assert (answer.text, answer.is_stopped) == ("a", True)
    assert answer.offsets == [0, 1, 2, 3]


def test_a_stop_string_that_is_not_there_ends_nothing() -> None:
    assert spelled(1, 2, stops=["ba"]).is_stopped is False


@pytest.mark.parametrize(
    ("spans", "begins"),
    [
        ([(0, 3), (3, 6)], [0, 3]),
        ([(0, 3), (4, 6), (7, 9)], [0, 3, 6]),  # blanks left out of a span
        ([(0, 1), (1, 2), (1, 2), (2, 3)], [0, 1, 1, 2]),  # a character of two tokens
        ([(0, 0), (0, 3), (3, 5), (0, 0)], [0, 0, 3, 5]),  # tokens added in front and behind
        ([(0, 2), (1, 2), (2, 3)], [0, 1, 2]),
    ],
)
def test_tokens_cover_the_text_without_a_gap(spans, begins) -> None:
    assert starts(spans) == begins


def test_a_request_that_cannot_be_honoured_is_refused_by_name() -> None:
    for body, words in [
        (b"{", "no JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"model": "m", "prompt": "a", "stream": true}', "`stream` = true is not supported"),
        (b'{"model": "m", "prompt": "a", "colour": 1}', "`colour` is not supported"),
        (b'{"model": "m", "prompt": "a", "temperature": -1}', "temperature: "),
        (b'{"model": "m", "prompt": "a", "stop": ["x", ""]}', "cannot be empty"),
        (b'{"model": "m", "prompt": "a", "logprobs": 21}', "logprobs: "),
    ]:
        with pytest.raises(Refused, match=words) as refused:
            parse(CompletionRequest, body)
        assert refused.value.status == 400


def test_fields_that_ask_for_nothing_are_taken() -> None:
    body = b'{"model": "m", "prompt": [1, 2], "stream": false, "best_of": 1, "suffix": null, "frequency_penalty": 0.0}'
    assert parse(CompletionRequest, body).prompts == [[1, 2]]
    parts = b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}'
    assert parse(ChatRequest, parts).messages[0].plain == {"role": "user", "content": "a"}


@pytest.mark.parametrize("path", sorted(SERVERS.glob("*transformers*.py")), ids=lambda path: path.name)
def test_the_server_imports_nothing_of_the_project(path) -> None:
    nodes = [*ast.walk(ast.parse(path.read_text()))]
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    assert [name for name in named if name.split(".")[0] == "eval_pipelines"] == []
    assert {node.level for node in nodes if isinstance(node, ast.ImportFrom)} <= {0, 1}
