"""From token bytes to text: stop strings, characters that span tokens, offsets. Pure functions of bytes."""

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Grows one answer token by token, and ends it at the first stop string.

    Text is released only when no stop string can begin in it any more, so what was streamed is never taken back.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = [stop.encode("utf-8") for stop in stops]
        self._held = max((len(stop) for stop in self._stops), default=1) - 1
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = b""
        self.text = ""
        self.is_stopped = False

    def feed(self, piece: bytes, *, is_control: bool = False) -> str:
        """Add one token; returns the text that became certain. Control tokens are no text, but can be a stop string."""
        if self.is_stopped:
            return ""
        if is_control:
            self.is_stopped = piece in self._stops
            return self.finish() if self.is_stopped else ""
        self._pending += piece
        starts = [start for stop in self._stops if (start := self._pending.find(stop)) >= 0]
        if starts:
            self.is_stopped = True
            self._pending = self._pending[: min(starts)]
            return self.finish()
        n_certain = max(0, len(self._pending) - self._held)
        certain, self._pending = self._pending[:n_certain], self._pending[n_certain:]
        return self._release(certain)

    def finish(self) -> str:
        """No token follows: returns the text that was held back."""
        pending, self._pending = self._pending, b""
        return self._release(pending, is_last=True)

    def _release(self, data: bytes, *, is_last: bool = False) -> str:
        new = self._decoder.decode(data, final=is_last)
        self.text += new
        return new


def text_offsets(pieces: Sequence[bytes], *, start: int = 0) -> list[int]:
    """For each token, the index of the character it begins in, counted from `start`.

    A token that begins inside a character has the offset of that character.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offsets, n_characters = [], start
    for piece in pieces:
        offsets.append(n_characters)
        n_characters += len(decoder.decode(piece))
    return offsets
