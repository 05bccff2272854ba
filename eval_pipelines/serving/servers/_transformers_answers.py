"""Bodies of answers, from rows that are over."""

from collections.abc import Sequence

from ._transformers_engine import Row, Scored
from ._transformers_protocol import Json
from ._transformers_text import Prompt, Tokens


def chat_choices(tokens: Tokens, rows: Sequence[Row]) -> list[Json]:
    """One choice per row, in the shape of a chat."""
    return [
        {
            "index": i,
            "message": {"role": "assistant", "content": row.answer.text},
            "logprobs": None if row.n_top is None else {"content": [_told(tokens, one) for one in _visible(row)]},
            "finish_reason": row.finish_reason,
        }
        for i, row in enumerate(rows)
    ]


def completion_choices(tokens: Tokens, answered: Sequence[tuple[Prompt, Row]], *, is_echo: bool) -> list[Json]:
    """One choice per row, in the shape of a completion, with the prompt in front if it is echoed."""
    return [
        {
            "index": i,
            "text": (prompt.text if is_echo else "") + row.answer.text,
            "logprobs": None if row.n_top is None else _logprobs(tokens, prompt, row, is_echo=is_echo),
            "finish_reason": row.finish_reason,
        }
        for i, (prompt, row) in enumerate(answered)
    ]


def _logprobs(tokens: Tokens, prompt: Prompt, row: Row, *, is_echo: bool) -> Json:
    """OpenAI's object for completions: offsets count characters of the choice's text."""
    shown = [*(row.scores if is_echo else []), *_visible(row)]
    start = len(prompt.text) if is_echo else 0
    offsets = [*(prompt.offsets if is_echo else []), *(start + at for at in row.answer.offsets)]
    return {
        "tokens": [tokens.name(one.id) for one in shown],
        "token_logprobs": [one.logprob for one in shown],
        "top_logprobs": [None if one.logprob is None else _best(tokens, one, one.logprob) for one in shown],
        "text_offset": offsets[: len(shown)],
    }


def _best(tokens: Tokens, one: Scored, logprob: float) -> dict[str, float]:
    """The likeliest tokens by name, and the chosen one. Of two with one name the likelier counts."""
    found: dict[str, float] = {}
    for id_, value in (*one.top, (one.id, logprob)):
        found.setdefault(tokens.name(id_), value)
    return found


def _told(tokens: Tokens, one: Scored) -> Json:
    """OpenAI's object for a token of a chat."""
    told = [
        {"token": tokens.name(id_), "logprob": logprob, "bytes": tokens.octets(id_)}
        for id_, logprob in ((one.id, one.logprob), *one.top)
    ]
    return {**told[0], "top_logprobs": told[1:]}


def _visible(row: Row) -> list[Scored]:
    """The tokens of an answer; those of a stop string that was cut off are left out with it."""
    if not row.answer.is_stopped:
        return row.tokens
    return [one for one, at in zip(row.tokens, row.answer.offsets, strict=True) if at < len(row.answer.text)]
