"""The first requests that an endpoint is asked: one tiny question for each capability, and what its reply must hold."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eval_pipelines.client.streaming import Streamed
from eval_pipelines.records import Operation, Request

# an unlikely text: a server that tells the best token at each position names others than these
UNLIKELY = (" zebra purple", " ontology seventeen of")
_NOTE = {
    "type": "function",
    "function": {
        "name": "note",
        "description": "Writes a text down.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}


@dataclass(frozen=True, slots=True)
class Canary:
    """One question.

    Attributes:
        lacks: Of the Response fields and the reply: what is missing, in words; empty if nothing is.
    """

    request: Request
    lacks: Callable[[Mapping[str, Any], Mapping[str, Any]], str] = lambda _told, _reply: ""


def wanted_by(requests: Iterable[Request]) -> frozenset[str]:
    """Capabilities that say what answers to these are worth, and that they can be asked without."""
    is_drawn = any(request.params.get("temperature", 0) for request in requests if not request.is_likelihood)
    return frozenset({"seed"} if is_drawn else ())


def likelihood(context: str, continuation: str) -> Request:
    """The log-likelihood of a text after another."""
    return Request(
        sample_id="canary", subtask="canary", operation="loglikelihood", prompt=context, continuation=continuation
    )


def text(operation: Operation = "chat", **params: Any) -> Request:
    """Something that is answered with a text of one token, unless `params` say otherwise."""
    said: dict[str, Any] = (
        {"messages": ({"role": "user", "content": "Hi"},)} if operation == "chat" else {"prompt": "Hi"}
    )
    return Request(
        sample_id="canary", subtask="canary", operation=operation, params={"max_tokens": 1, "temperature": 0.0, **params},
        **said,
    )  # fmt: skip


def canary(capability: str, operation: Operation) -> Canary:
    """The question for one capability; `operation`: how texts are asked for there."""
    many = {"n": 2, "temperature": 1.0}
    calls = {"max_tokens": 64, "tools": [_NOTE], "tool_choice": {"type": "function", "function": {"name": "note"}}}
    probabilities = {"logprobs": True if operation == "chat" else 1}
    found: Mapping[str, Callable[[], Canary]] = {
        "chat": lambda: Canary(text("chat")),
        "completions": lambda: Canary(text("completion")),
        "echo_logprobs": lambda: Canary(likelihood(*UNLIKELY)),
        "top_logprobs": lambda: Canary(likelihood(*UNLIKELY), _tells_only_the_chosen),
        "logprobs": lambda: Canary(text(operation, **probabilities), _tells_no_logprobs),
        "n": lambda: Canary(text(operation, **many), _tells_one),
        "stream": lambda: Canary(
            text(operation), lambda _, reply: "" if isinstance(reply, Streamed) else "no stream came"
        ),
        "tools": lambda: Canary(text("chat", **calls), _calls_nothing),
    }
    return found[capability]()


def _tells_only_the_chosen(told: Mapping[str, Any], _: Mapping[str, Any]) -> str:
    return "" if told.get("is_greedy") is False else "only the chosen token's log-probability is told"


def _tells_no_logprobs(_: Mapping[str, Any], reply: Mapping[str, Any]) -> str:
    return "" if reply["choices"][0].get("logprobs") else "the reply has no logprobs"


def _tells_one(_: Mapping[str, Any], reply: Mapping[str, Any]) -> str:
    n = len(reply["choices"])
    return "" if n == 2 else f"2 choices were asked for, and the reply has {n}"


def _calls_nothing(_: Mapping[str, Any], reply: Mapping[str, Any]) -> str:
    message = reply["choices"][0].get("message") or {}
    return "" if message.get("tool_calls") else "the reply calls no tool"
