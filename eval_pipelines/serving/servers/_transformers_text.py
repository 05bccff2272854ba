"""Between text and token ids: prompts with the place of each token in them, names of tokens, answers that grow.

Takes any tokenizer of `transformers`; imports none.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

_N_CONTEXT = 6  # tokens before an answer that decide how its first one is spelled
_HALF = "\ufffd"  # what a decoder puts for bytes that are no whole character


@dataclass(frozen=True)
class Prompt:
    """A text as the model sees it.

    Attributes:
        ids: Token ids, at least one.
        text: The text they stand for, as it was sent; that of a prompt of token ids is decoded.
        offsets: Per token, the character of `text` it begins in. A token that is no text of it has no width.
    """

    ids: list[int]
    text: str
    offsets: list[int]


class Speller:
    """Text of token ids, one by one. A character that spans several tokens comes with its last one."""

    def __init__(self, tokenizer: Any, context: Sequence[int] = (), *, skips_special: bool = True) -> None:
        self._tokenizer, self._skips_special = tokenizer, skips_special
        self._ids = list(context[-_N_CONTEXT:])
        self._first, self._told = 0, len(self._ids)
        self._n_ahead = 0  # characters told of tokens that end in half a character

    def feed(self, id_: int) -> str:
        """The text that became whole with this token."""
        self._ids.append(id_)
        new = self._untold()
        certain = new.rstrip(_HALF)
        if not new or certain != new:
            ahead, self._n_ahead = certain[self._n_ahead :], max(self._n_ahead, len(certain))
            return ahead
        self._first, self._told = self._told, len(self._ids)
        return self._since(new)

    def finish(self) -> str:
        """No token follows: half a character stays U+FFFD."""
        new = self._untold()
        self._first = self._told = len(self._ids)
        return self._since(new)

    def _since(self, new: str) -> str:
        ahead, self._n_ahead = self._n_ahead, 0
        return new[ahead:]

    def _untold(self) -> str:
        # some decoders spell a first token in another way, so it is decoded with those before it
        ids = self._ids[self._first :]
        told, everything = (
            str(
                self._tokenizer.decode(one, skip_special_tokens=self._skips_special, clean_up_tokenization_spaces=False)
            )
            for one in (ids[: self._told - self._first], ids)
        )
        return everything[len(told) :]


class Answer:
    """A text that grows token by token and ends before the first stop string.

    Attributes:
        offsets: Per token fed, the character of `text` it begins in.
    """

    def __init__(self, speller: Speller, stops: Sequence[str] = ()) -> None:
        self._speller, self._stops = speller, tuple(stops)
        self.text, self.offsets, self.is_stopped = "", list[int](), False

    def feed(self, id_: int) -> None:
        """Add a token that is text."""
        self.skip()
        self._add(self._speller.feed(id_))

    def skip(self) -> None:
        """Add a token that is no text, such as the one that ends an answer."""
        self.offsets.append(len(self.text))

    def finish(self) -> None:
        """No token follows."""
        if not self.is_stopped:
            self._add(self._speller.finish())

    def _add(self, new: str) -> None:
        start = max(0, len(self.text) - max(map(len, self._stops), default=0))
        self.text += new
        found = [at for stop in self._stops if (at := self.text.find(stop, start)) >= 0] if new else []
        if found:
            self.text, self.is_stopped = self.text[: min(found)], True


class Tokens:
    """A tokenizer with what an OpenAI server asks of it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._special = {int(id_): str(token) for id_, token in tokenizer.added_tokens_decoder.items()}
        self._named: dict[int, tuple[str, bytes]] = {}

    def prompt(self, text: str, *, adds_special: bool = True) -> Prompt:
        """A text as token ids. Raises ValueError for text that is no valid Unicode, and for no text at all."""
        text.encode()  # half a surrogate pair is no text
        is_fast = bool(getattr(self.tokenizer, "is_fast", False))
        told = self.tokenizer(text, add_special_tokens=adds_special, return_offsets_mapping=is_fast)
        ids = [int(id_) for id_ in told["input_ids"]]
        if not ids:
            raise ValueError("the prompt is empty: there is no token that anything could follow")
        if not is_fast:
            return Prompt(ids, text, self._spelled(ids)[1])
        return Prompt(ids, text, starts(told["offset_mapping"]))

    def prompt_of_ids(self, ids: Sequence[int], n_vocabulary: int) -> Prompt:
        """A prompt given as token ids. Raises ValueError for none, and for ids the model does not have."""
        if not ids or not all(0 <= id_ < n_vocabulary for id_ in ids):
            raise ValueError(f"token ids must be at least one, each from 0 to {n_vocabulary - 1}")
        return Prompt(list(ids), *self._spelled(ids))

    def answer(self, prompt: Prompt, stops: Sequence[str]) -> Answer:
        """An empty answer to a prompt."""
        return Answer(Speller(self.tokenizer, prompt.ids), stops)

    def name(self, id_: int) -> str:
        """How a token is written: its text, or `bytes:\\xe6` where it is no text by itself. Differs between tokens."""
        return self._name(id_)[0]

    def octets(self, id_: int) -> list[int]:
        """The bytes of a token."""
        return list(self._name(id_)[1])

    def _name(self, id_: int) -> tuple[str, bytes]:
        if id_ not in self._named:
            self._named[id_] = self._find_name(id_)
        return self._named[id_]

    def _find_name(self, id_: int) -> tuple[str, bytes]:
        if id_ in self._special:
            return self._special[id_], self._special[id_].encode()
        token = self.tokenizer.convert_ids_to_tokens(id_)
        if not token:
            return f"<{id_}>", b""
        text = str(self.tokenizer.convert_tokens_to_string([token]))
        if _HALF in text or re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            octets = _octets(token)
            return "bytes:" + ("".join(f"\\x{octet:02x}" for octet in octets) or token), octets
        if token.startswith("\u2581") and not text.startswith(" "):
            text = " " + text  # decoders of SentencePiece drop the space before a first word
        return text, text.encode()

    def _spelled(self, ids: Sequence[int]) -> tuple[str, list[int]]:
        speller = Speller(self.tokenizer, skips_special=False)
        pieces = [speller.feed(id_) for id_ in ids] + [speller.finish()]
        return "".join(pieces), [0, *accumulate(map(len, pieces[:-2]))]


def starts(spans: Sequence[tuple[int, int]]) -> list[int]:
    """Where each token begins, from the characters its text spans, so that the tokens cover the text without a gap.

    Tokenizers may leave blanks out of a span; such a blank belongs to the token after it. Tokens that share a
    character begin in it. A span (0, 0) in the middle belongs to a token that was added.
    """
    found, end = list[int](), 0
    for first, last in spans:
        found.append(min(first, end) if last > first else end)
        end = max(end, last)
    return found


def _octets(token: str) -> bytes:
    """Bytes of a token as byte-level BPE and SentencePiece write them; none for a spelling of another kind."""
    if told := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
        return bytes([int(told[1], 16)])
    return bytes(_BYTES[one] for one in token) if all(one in _BYTES for one in token) else b""


def _byte_level() -> dict[str, int]:
    """Byte-level BPE's letters: a printable byte is itself, the others follow from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_level()
