"""OpenAI completions: plain text in and out, and log-likelihoods through `echo`.

No tokenizer is needed on our side: the reply's text_offset says where the continuation starts.

Source  OpenAI API reference, "Create completion (legacy)"; vLLM documentation, "OpenAI-Compatible Server"
"""

import math
from typing import Any

from eval_pipelines.client.dialects.openai_chat import first_choice, tokens
from eval_pipelines.client.failures import NoAnswer, failure
from eval_pipelines.records import FailureKind, Request

PATH = "/completions"


def body(request: Request, served_name: str) -> dict[str, Any]:
    """The JSON body of one completion or log-likelihood request."""
    if request.operation == "loglikelihood":
        text = f"{request.prompt}{request.continuation}"
        # one token is generated and thrown away: several servers refuse max_tokens 0
        ask = {"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        return {"model": served_name, **ask, **request.params}
    return {"model": served_name, "prompt": request.prompt, **request.params}


def read(request: Request, reply: dict[str, Any]) -> dict[str, Any]:
    """Response fields of one reply. Raises NoAnswer for a reply that holds none."""
    choice = first_choice(reply)
    if request.operation == "loglikelihood":
        return {**_loglikelihood(request, choice), **tokens(reply), "finish_reason": None}
    text, reason = choice.get("text"), choice.get("finish_reason")
    if text is None and reason == "content_filter":
        raise NoAnswer(failure(FailureKind.CONTENT_FILTER, "the server filtered its answer", status=200))
    if text is None:
        raise NoAnswer(failure(FailureKind.EMPTY, f"text is null (finish_reason {reason!r})", status=200))
    if not isinstance(text, str):
        raise NoAnswer(failure(FailureKind.MALFORMED, f"text is {type(text).__name__}, not text", status=200))
    return {"text": text, "finish_reason": reason, **tokens(reply)}


def _loglikelihood(request: Request, choice: dict[str, Any]) -> dict[str, Any]:
    """Sum of the continuation's token log-probabilities.

    A token belongs to the continuation when its last character does, as the reference implementation has it.
    """
    told = choice.get("logprobs")
    if not isinstance(told, dict) or not told.get("token_logprobs"):
        raise NoAnswer(failure(FailureKind.UNSUPPORTED, "the server ignored `echo` with `logprobs`", status=200))
    start = len(request.prompt or "")
    end = start + len(request.continuation or "")
    try:
        tokens_, logprobs, offsets = told["tokens"], told["token_logprobs"], told["text_offset"]
        ends = [*offsets[1:], offsets[-1] + len(tokens_[-1])]
        chosen = [i for i, offset in enumerate(offsets) if offset < end and ends[i] > start]
        values = [float(logprobs[i]) for i in chosen]
    except (KeyError, TypeError, IndexError) as error:
        raise NoAnswer(
            failure(FailureKind.MALFORMED, f"logprobs object is incomplete: {error!r}", status=200)
        ) from error
    if not values or not all(math.isfinite(value) for value in values):
        raise NoAnswer(failure(FailureKind.MALFORMED, "no finite log-probability for the continuation", status=200))
    return {"logprob": math.fsum(values), "is_greedy": _is_greedy(told.get("top_logprobs"), logprobs, chosen)}


def _is_greedy(top: Any, logprobs: list[Any], chosen: list[int]) -> bool | None:
    if not isinstance(top, list) or len(top) < len(logprobs):
        return None
    best = [top[i] for i in chosen]
    if not all(isinstance(entry, dict) and entry for entry in best):
        return None
    return all(logprobs[i] >= max(entry.values()) for i, entry in zip(chosen, best, strict=True))
