"""The log-likelihood of a document that is longer than the model's context: window by window.

Each token is predicted once, after at least one other: the first one after what begins texts, those of the last window
after as many as it has room for. The server divides the text into tokens (`/tokenize`), so that windows are exact, and
as the reference has them.

Source  lm-evaluation-harness 0.4.x, `lm_eval.utils.get_rolling_token_windows` with `context_len=1`,
        `lm_eval.models.api_models`; vLLM documentation, "OpenAI-Compatible Server", `/tokenize`
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import httpx

from eval_pipelines.client import exchange, failures
from eval_pipelines.client.failures import NoAnswer, failure
from eval_pipelines.client.transport import Client
from eval_pipelines.records import FailureKind, Request

# of the context: one for what begins the window, one that servers generate at least
_NOT_PREDICTED = 2


def windows(tokens: Sequence[int], start: int, max_tokens: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Contexts, and the tokens that are predicted after them.

    Args:
        start: The token that begins texts.
        max_tokens: Predicted at most in one window.
    """
    for at in range(0, len(tokens), max_tokens):
        end = min(at + max_tokens, len(tokens))
        yield tokens[end - max_tokens - 1 : at] if at else [start], tokens[at:end]


async def told(
    client: Client, base_url: str, served_name: str, path: str, spoken: ModuleType, sent: Request, too_long: NoAnswer
) -> dict[str, Any]:
    """Response fields of a document for which the server had no room, from several requests one after the other.

    Args:
        sent: As the endpoint is asked it: its prompt is what begins texts.
        too_long: What the server said of the whole.

    Raises:
        NoAnswer: `too_long`, and why, where the server does not divide texts; or what became of a window.
    """
    if not hasattr(spoken, "body_of_tokens"):
        raise too_long
    start, _ = await _tokens(client, base_url, served_name, sent.prompt or "", too_long, is_whole=True)
    tokens, max_model_len = await _tokens(client, base_url, served_name, sent.continuation or "", too_long)
    if len(start) != 1 or max_model_len <= _NOT_PREDICTED:
        raise _undivided(too_long, f"its texts begin with {len(start)} tokens, and not with one")
    logprobs: list[float] = []
    counts = {"prompt_tokens": 0, "completion_tokens": 0}
    for context, predicted in windows(tokens, start[0], max_model_len - _NOT_PREDICTED):
        window = [*context, *predicted]
        body = exchange.encoded(spoken.body_of_tokens(window, served_name, sent.params))
        one = spoken.read_of_tokens(
            len(context), len(window), await exchange.post(client, f"{base_url}{path}", body, spoken)
        )
        logprobs.append(one["logprob"])
        for name in counts:
            counts[name] += one.get(name) or 0
    return {"logprob": math.fsum(logprobs), "finish_reason": None, **counts}


async def _tokens(
    client: Client, base_url: str, served_name: str, text: str, too_long: NoAnswer, *, is_whole: bool = False
) -> tuple[list[int], int]:
    """The text's tokens, with what the server puts before a whole text; and what its context holds."""
    ask = {"model": served_name, "prompt": text, "add_special_tokens": is_whole}
    try:
        reply = await client.post(f"{base_url.removesuffix('/v1')}/tokenize", json=ask)
        said: Mapping[str, Any] = reply.json() if reply.is_success else {}
        tokens, length = said["tokens"], said["max_model_len"]
    except httpx.TransportError as error:
        raise NoAnswer(failures.from_exception(error)) from error
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        raise _undivided(too_long, "it has no route /tokenize that tells tokens and max_model_len") from None
    if not (isinstance(length, int) and isinstance(tokens, list) and all(isinstance(one, int) for one in tokens)):
        raise _undivided(too_long, "its route /tokenize tells no numbers")
    return tokens, length


def _undivided(too_long: NoAnswer, why: str) -> NoAnswer:
    message = f"the document is longer than the model's context, and the server cannot divide it into windows: {why}"
    failed = failure(FailureKind.CONTEXT_LENGTH, f"{message} ({too_long})", status=too_long.failure.http_status)
    return NoAnswer(failed)
