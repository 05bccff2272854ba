"""What one request asks of an engine behind Triton, and what it gets. Standard library only."""

import json
import sys
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


class StartError(Exception):
    """The server cannot start; printed as one `error: ` line, exit status 2."""


@dataclass(frozen=True)
class Question:
    """One request. `text` is the prompt, or the context of a continuation; `messages` are for chat alone."""

    operation: Literal["chat", "completion", "loglikelihood"]
    text: str = ""
    messages: tuple[dict[str, Any], ...] = ()
    continuation: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What one question came to: a text, a log-likelihood (natural log), or an error. Counts are in tokens."""

    text: str | None = None
    finish_reason: str | None = None
    log_likelihood: float | None = None
    is_greedy: bool | None = None
    n_input: int | None = None
    n_output: int | None = None
    error: str | None = None


class Engine(Protocol):
    """What answers. Called from one thread per instance."""

    name: str

    def answer(self, questions: list[Question]) -> list[Answer]:
        """One answer per question, in their order. Raises only what is a bug."""

    def trouble(self) -> str | None:
        """Why it cannot answer any more; None while it can."""

    def stop(self) -> None:
        """End what it started; questions it has get an error."""


def question(text: str, *, is_chat: bool, continuation: str | None, parameters: str) -> Question:
    """Read one request. Raises ValueError that says which tensor is at fault."""
    try:
        told = json.loads(parameters or "{}")
    except ValueError as error:
        raise ValueError(f"sampling_parameters is no JSON: {error}") from error
    if not isinstance(told, dict):
        raise ValueError("sampling_parameters must be a JSON object")
    if continuation is not None:
        return Question("loglikelihood", text, continuation=continuation, parameters=told)
    if not is_chat:
        return Question("completion", text, parameters=told)
    try:
        messages = json.loads(text)
    except ValueError as error:
        raise ValueError(f"text_input is no JSON, and apply_chat_template is set: {error}") from error
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise ValueError("text_input must be a JSON list of messages where apply_chat_template is set")
    return Question("chat", messages=tuple(messages), parameters=told)


def chosen(ends: list[int], n_bytes: int, n_context_bytes: int) -> list[int]:
    """Which tokens belong to the continuation: those whose last byte lies in it.

    Args:
        ends: Where each token ends, in bytes of everything the tokens spell, a begin-of-text token included.
        n_bytes: Length of context and continuation.

    Raises:
        ValueError: the tokens spell less than the text, or the continuation holds the first token, which has no
            log-probability.
    """
    shift = (ends[-1] if ends else 0) - n_bytes
    if shift < 0:
        raise ValueError("the model's tokens do not spell the text, so its log-likelihood is not known")
    found = [i for i, end in enumerate(ends) if end - shift > n_context_bytes]
    if not found or found[0] == 0:
        raise ValueError("the first token has no log-probability: give a context of at least one token")
    return found


def say(text: str) -> None:
    """One line in the server's log."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
