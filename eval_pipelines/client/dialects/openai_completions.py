"""OpenAI completions: plain text in and out, and log-likelihoods through `echo`.

No tokenizer is needed on our side: the reply's text_offset says where the continuation starts.

Source  OpenAI API reference, "Create completion (legacy)"; vLLM documentation, "OpenAI-Compatible Server"
"""

import math
from typing import Any

from eval_pipelines.client.dialects import _openai_stream
from eval_pipelines.client.dialects.openai_chat import filtered, first_choice, reason_text, storable, tokens
from eval_pipelines.client.failures import NoAnswer, failure
from eval_pipelines.records import FailureKind, Request

streamed, Whole = _openai_stream.asking, _openai_stream.Whole
# one token is generated and thrown away: several servers refuse max_tokens 0
_ECHOED = {"max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}


def path(_served_name: str) -> str:
    """The route of completions."""
    return "/completions"


def body(request: Request, served_name: str) -> dict[str, Any]:
    """The JSON body of one completion or log-likelihood request."""
    if request.operation == "loglikelihood":
        return {"model": served_name, "prompt": f"{request.prompt}{request.continuation}", **_ECHOED, **request.params}
    return {"model": served_name, "prompt": request.prompt, **request.params}


def body_of_tokens(window: list[int], served_name: str, params: dict[str, Any]) -> dict[str, Any]:
    """The JSON body that asks for the log-probabilities of these tokens, by their ids."""
    return {"model": served_name, "prompt": window, **_ECHOED, **params}


def read_of_tokens(n_context: int, n_tokens: int, reply: dict[str, Any]) -> dict[str, Any]:
    """Response fields of a window's tokens but the first `n_context`. Raises NoAnswer for a reply that lacks one."""
    told = first_choice(reply).get("logprobs")
    values = told.get("token_logprobs") if isinstance(told, dict) else None
    if not isinstance(values, list) or len(values) < n_tokens:
        raise NoAnswer(failure(FailureKind.UNSUPPORTED, "the server ignored `echo` with token ids", status=200))
    predicted = values[n_context:n_tokens]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in predicted):
        raise NoAnswer(failure(FailureKind.MALFORMED, "not every token has a finite log-probability", status=200))
    return {"logprob": math.fsum(predicted), **tokens(reply)}


def read(request: Request, reply: dict[str, Any]) -> dict[str, Any]:
    """Response fields of one reply. Raises NoAnswer for a reply that holds none."""
    choice = first_choice(reply)
    if request.operation == "loglikelihood":
        return {**_loglikelihood(request, choice, tokens(reply)), **tokens(reply), "finish_reason": None}
    text, reason = choice.get("text"), choice.get("finish_reason")
    if reason == "content_filter":
        raise filtered(text)
    if text is None:
        raise NoAnswer(failure(FailureKind.EMPTY, f"text is null (finish_reason {reason!r})", status=200))
    if not isinstance(text, str):
        raise NoAnswer(failure(FailureKind.MALFORMED, f"text is {type(text).__name__}, not text", status=200))
    return {"text": storable(text), "finish_reason": reason_text(reason), **tokens(reply)}


def _loglikelihood(request: Request, choice: dict[str, Any], counts: dict[str, int | None]) -> dict[str, Any]:
    """Sum of the continuation's token log-probabilities.

    A token belongs to the continuation when its last character does, as the reference implementation has it.
    """
    told = choice.get("logprobs")
    if not isinstance(told, dict) or not told.get("token_logprobs"):
        raise NoAnswer(failure(FailureKind.UNSUPPORTED, "the server ignored `echo` with `logprobs`", status=200))
    context, continuation = request.prompt or "", request.continuation or ""
    start, end = len(context), len(context) + len(continuation)
    try:
        tokens_, logprobs = told["tokens"], told["token_logprobs"]
        shift, spans = _spans(tokens_, told["text_offset"], end, counts["completion_tokens"])
        # a token without width begins a character that a later token completes
        chosen = [i for i, (first, last) in enumerate(spans) if first < end and (first >= start or last > start)]
        if chosen[:1] == [0] and spans[0] == (0, 0) and logprobs[0] is None:
            chosen = chosen[1:]  # what the server puts before each text, and names with nothing
        values = [float(logprobs[i]) for i in chosen]
        is_greedy = _is_greedy(told.get("top_logprobs"), values, chosen)
        spelled = "".join(tokens_[i] for i in chosen)
        ahead = "".join(token for token, (first, _) in zip(tokens_, spans, strict=True) if first < 0)
        is_ahead = any(first == 0 for first, _ in spans) and not context.startswith(ahead)
        if shift and not is_ahead and not spelled.endswith(continuation):
            raise ValueError(f"text_offset ends {shift} characters after the text, and not because of its first token")
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise NoAnswer(failure(FailureKind.MALFORMED, f"logprobs object is unusable: {error!r}", status=200)) from error
    if not values or not all(math.isfinite(value) for value in values):
        raise NoAnswer(failure(FailureKind.MALFORMED, "no finite log-probability for the continuation", status=200))
    return {"logprob": math.fsum(values), "is_greedy": is_greedy}


def _spans(
    tokens_: list[str], offsets: list[int], end: int, n_generated: int | None
) -> tuple[int, list[tuple[int, int]]]:
    """By how much the offsets are too high, and where each token begins and ends in the `end` characters we sent.

    Servers that put a begin-of-text token first count its name too (vLLM: `text_offset` adds up the lengths of the
    tokens' names). Where our text ends is known, because the generated token begins there: that tells by how much.
    """
    ends = [*offsets[1:], offsets[-1] + len(tokens_[-1])]
    possible = [offsets[-1] - end, ends[-1] - end]  # if the last token is the generated one; if there is none
    if n_generated == 0:
        possible.reverse()
    is_plain = n_generated != 1 and end in (*offsets, ends[-1])
    shift = 0 if is_plain else next((by for by in possible if by >= 0), None)
    if shift is None:
        raise ValueError(f"text_offset ends at {ends[-1]}, and the text has {end} characters")
    return shift, [(first - shift, last - shift) for first, last in zip(offsets, ends, strict=True)]


def _is_greedy(top: Any, values: list[float], chosen: list[int]) -> bool | None:
    if not isinstance(top, list) or len(top) <= max(chosen, default=0):
        return None
    best = [top[i] for i in chosen]
    if not all(isinstance(entry, dict) and entry for entry in best):
        return None
    return all(value >= max(entry.values()) for value, entry in zip(values, best, strict=True))
