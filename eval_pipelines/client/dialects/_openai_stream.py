"""OpenAI's streams: chunks with a piece of each choice, put together into the reply that is no stream.

Source  OpenAI API reference, "Chat completion chunk object"; vLLM documentation, "OpenAI-Compatible Server"
        (`reasoning_content`, `reasoning`; a last chunk without choices holds the usage)
"""

from typing import Any

from eval_pipelines.client.failures import NoAnswer, failure, from_error_object
from eval_pipelines.records import FailureKind

_SAID = frozenset({"content", "text", "reasoning_content", "reasoning", "refusal"})


def asking(body: dict[str, Any]) -> dict[str, Any]:
    """The same body, asking for a stream that ends with the usage."""
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


class _Choice:
    """One of several answers to a question: the pieces of each of its fields, in order."""

    def __init__(self, is_chat: bool) -> None:
        self.is_chat = is_chat
        self.finish_reason: Any = None
        self.n_tokens = 0
        self._pieces: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._logprobs: dict[str, list[Any]] = {}

    def add(self, told: dict[str, Any]) -> bool:
        """One chunk's piece; True if it says something."""
        self.finish_reason = told.get("finish_reason") or self.finish_reason
        delta = told.get("delta") if self.is_chat else told
        says_something = False
        for name, piece in (delta if isinstance(delta, dict) else {}).items():
            if isinstance(piece, str) and (self.is_chat or name == "text"):
                self._pieces.setdefault(name, []).append(piece)
                says_something = says_something or (piece != "" and name in _SAID)
            elif piece is not None and name in ("content", "text"):
                raise NoAnswer(failure(FailureKind.MALFORMED, f"{name} is {type(piece).__name__}, not text"))
            elif name == "tool_calls":
                for call in piece or ():
                    self._add_call(call)
        if isinstance(logprobs := told.get("logprobs"), dict):
            for name, values in logprobs.items():
                self._logprobs.setdefault(name, []).extend(values or ())
        self.n_tokens += says_something
        return says_something

    def whole(self, index: int) -> dict[str, Any]:
        """The choice as a reply that is no stream has it."""
        name = "content" if self.is_chat else "text"
        fields: dict[str, Any] = {field: "".join(pieces) for field, pieces in self._pieces.items() if any(pieces)}
        if self._calls:
            fields["tool_calls"] = [self._calls[at] for at in sorted(self._calls)]
        # nothing at all, and an end of its own, is an empty answer; thoughts without an answer are none
        has_ended_empty = self.finish_reason is not None and not fields.keys() - {"role", "function_call"}
        fields.setdefault(name, "" if has_ended_empty else None)
        told = {"index": index, "finish_reason": self.finish_reason, "logprobs": self._logprobs or None}
        return {**told, **({"message": {"role": "assistant", **fields}} if self.is_chat else fields)}

    def _add_call(self, call: Any) -> None:
        if not isinstance(call, dict):
            raise NoAnswer(failure(FailureKind.MALFORMED, f"a tool call is {type(call).__name__}, not an object"))
        whole = self._calls.setdefault(call.get("index") or 0, {"type": "function", "function": {}})
        whole.update({name: value for name, value in call.items() if name in ("id", "type") and value})
        for name, piece in (call.get("function") or {}).items():
            if isinstance(piece, str):
                whole["function"][name] = whole["function"].get(name, "") + piece


class Whole:
    """What the chunks of a stream amount to.

    Attributes:
        is_done: The stream has said that it is at its end.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._head: dict[str, Any] = {}
        self._usage: Any = None
        self._choices: dict[int, _Choice] = {}

    @property
    def is_complete(self) -> bool:
        """True if nothing of an answer can be missing, whether or not the stream has said that it is at its end."""
        choices = self._choices.values()
        return self.is_done or (bool(choices) and all(choice.finish_reason is not None for choice in choices))

    @property
    def n_tokens(self) -> int:
        """Pieces with text or reasoning; as a rule a token each."""
        return sum(choice.n_tokens for choice in self._choices.values())

    @property
    def n_gaps(self) -> int:
        """Times that one waited for a next token: of several answers that come side by side, of the longest."""
        return max((choice.n_tokens for choice in self._choices.values()), default=1) - 1

    def add(self, chunk: Any) -> bool:
        """One chunk; True if it says something. Raises NoAnswer for an error, and for what is no chunk."""
        if not isinstance(chunk, dict):
            raise NoAnswer(failure(FailureKind.MALFORMED, f"a chunk is {type(chunk).__name__}, not an object"))
        if chunk.get("error") or chunk.get("object") == "error":
            raise NoAnswer(from_error_object(chunk.get("error") or chunk))
        if not self._head:
            self._head = {name: chunk[name] for name in ("id", "created", "model") if name in chunk}
        self._usage = chunk.get("usage") or self._usage
        told = chunk.get("choices")
        says_something = False
        for one in told if isinstance(told, list) else ():
            index = one.get("index", 0) if isinstance(one, dict) else None
            if not isinstance(index, int):
                raise NoAnswer(failure(FailureKind.MALFORMED, f"a choice without a usable index: {one!r}"))
            choice = self._choices.get(index)
            if choice is None:
                choice = self._choices[index] = _Choice(is_chat="delta" in one)
            says_something = choice.add(one) or says_something
        return says_something

    def reply(self) -> dict[str, Any]:
        """The reply that is no stream."""
        choices = [self._choices[index].whole(index) for index in sorted(self._choices)]
        return {**self._head, "choices": choices, "usage": self._usage}
