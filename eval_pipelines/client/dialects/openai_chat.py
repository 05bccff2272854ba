"""OpenAI chat completions.

Source  OpenAI API reference, "Create chat completion"; vLLM documentation, "OpenAI-Compatible Server"
"""

from typing import Any

import httpx

from eval_pipelines.client.dialects import _openai_stream
from eval_pipelines.client.failures import NoAnswer, failure
from eval_pipelines.records import FailureKind, Request

streamed, Whole = _openai_stream.asking, _openai_stream.Whole
_MANY = 2**40  # no reply has as many tokens, and a sum of such numbers could not be landed


def path(_served_name: str) -> str:
    """The route of chat completions."""
    return "/chat/completions"


def body(request: Request, served_name: str) -> dict[str, Any]:
    """The JSON body of one chat request."""
    return {"model": served_name, "messages": list(request.messages or ()), **request.params}


def read(_request: Request, reply: dict[str, Any]) -> dict[str, Any]:
    """Response fields of one reply. Raises NoAnswer for a reply that holds none."""
    choice = first_choice(reply)
    message = choice.get("message")
    reason = choice.get("finish_reason")
    content = message.get("content") if isinstance(message, dict) else None
    if content is None and isinstance(message, dict):
        content = message.get("refusal") or None  # the model's own words: an answer like any other
    if reason == "content_filter":
        raise filtered(content)
    thought = reasoning(message)
    if content is None and reason == "length" and (thought or _may_think(message)):
        content = ""  # it thought until its tokens were used up: it was asked, and has said nothing
    if content is None:
        raise NoAnswer(failure(FailureKind.EMPTY, f"content is null (finish_reason {reason!r})", status=200))
    if not isinstance(content, str):
        raise NoAnswer(failure(FailureKind.MALFORMED, f"content is {type(content).__name__}, not text", status=200))
    told = {"text": storable(content), "finish_reason": reason_text(reason), **tokens(reply)}
    return {**told, "reasoning": thought} if thought else told


def reasoning(message: Any) -> str | None:
    """What the model thought, where the server tells it apart from the answer (`reasoning_content` or `reasoning`)."""
    if isinstance(message, dict):
        for name in ("reasoning_content", "reasoning"):
            if isinstance(message.get(name), str) and message[name]:
                return storable(message[name])
    return None


def _may_think(message: Any) -> bool:
    """True if the server tells thoughts apart: of one token, `<think>` itself, nothing is left to tell."""
    return isinstance(message, dict) and not message.keys().isdisjoint(("reasoning_content", "reasoning"))


def filtered(text: Any) -> NoAnswer:
    """A text that a filter emptied or cut: what is left of it is not what the model answered."""
    left = f"; {len(text)} characters were left" if isinstance(text, str) and text else ""
    return NoAnswer(failure(FailureKind.CONTENT_FILTER, f"the server filtered its answer{left}", status=200))


def first_choice(reply: dict[str, Any]) -> dict[str, Any]:
    """The first choice of a reply. Raises NoAnswer where there is none."""
    choices = reply.get("choices")
    if not isinstance(choices, list):
        raise NoAnswer(failure(FailureKind.MALFORMED, "the reply has no list of choices", status=200))
    if not choices or not isinstance(choices[0], dict):
        raise NoAnswer(failure(FailureKind.EMPTY, "the list of choices is empty", status=200))
    choice: dict[str, Any] = choices[0]
    return choice


def storable(text: str) -> str:
    """The text with halves of a character, which JSON can carry and no file can, replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def reason_text(reason: Any) -> str | None:
    """Why the server stopped; some answer with an object."""
    return None if reason is None else storable(str(reason))


def tokens(reply: dict[str, Any]) -> dict[str, int | None]:
    """Token counts as the server gave them; None where it did not."""
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    details = usage.get("prompt_tokens_details")
    told = {name: _count(count) for name, count in counts.items()}
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return told if cached is None else {**told, "cached_prompt_tokens": cached}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < _MANY else None


async def served_names(client: httpx.AsyncClient, url: str, _served_name: str) -> list[str] | None:
    """The model names the server lists; None if it lists none (not every server has the route)."""
    try:
        reply = await client.get(f"{url}/models")
        entries = reply.json()["data"] if reply.is_success else None
        return None if entries is None else [str(entry["id"]) for entry in entries]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
