"""Response bodies, in OpenAI's shapes."""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval_pipelines.embedded.generation import Choice, Job
from eval_pipelines.embedded.text import text_offsets

Json = dict[str, Any]


@dataclass(frozen=True)
class Header:
    """What every body of one answer repeats."""

    id: str
    model: str
    fingerprint: str
    created: int

    @classmethod
    def new(cls, prefix: str, *, model: str, fingerprint: str) -> "Header":
        """A header with a fresh id."""
        return cls(f"{prefix}-{secrets.token_hex(12)}", model, fingerprint, int(time.time()))

    def body(self, kind: str, choices: Sequence[Json], usage: Json | None = None) -> Json:
        """A body of the given object kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": list(choices),
        } | ({"usage": usage} if usage is not None else {})


def chat(header: Header, job: Job, *, has_logprobs: bool) -> Json:
    """The body of a chat completion."""
    choices = [
        {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text},
            "logprobs": _chat_logprobs(choice) if has_logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        for choice in job.choices
    ]
    return header.body("chat.completion", choices, job.usage)


def completion(header: Header, job: Job, *, has_logprobs: bool) -> Json:
    """The body of a completion, the prompt's text first if it is echoed."""
    choices = [
        {
            "index": choice.index,
            "text": (choice.tokenizer.decode(choice.prompt) if choice.is_echo else "") + choice.text,
            "logprobs": completion_logprobs(choice) if has_logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        for choice in job.choices
    ]
    return header.body("text_completion", choices, job.usage)


def completion_logprobs(choice: Choice) -> Json:
    """The legacy logprobs object: one entry per token, offsets in characters of the choice's text.

    `top_logprobs` holds the chosen token alone: openvino reports no other. The first token of an echoed prompt has
    null for both, as nothing precedes it.
    """
    tokenizer = choice.tokenizer
    ids, logprobs, offsets = list[int](), list[float | None](), list[int]()
    start = 0
    if choice.is_echo:
        ids += choice.prompt
        logprobs += [None, *choice.prompt_logprobs[1:]]
        offsets += text_offsets([tokenizer.piece(id_) for id_ in choice.prompt])
        start = len(tokenizer.decode(choice.prompt))
    generated = _visible(choice)
    ids += choice.token_ids[: len(generated)]
    logprobs += choice.logprobs[: len(generated)]
    offsets += [start + offset for offset in generated]
    labels = [tokenizer.label(id_) for id_ in ids]
    return {
        "tokens": labels,
        "token_logprobs": logprobs,
        "top_logprobs": [
            None if value is None else {label: value} for label, value in zip(labels, logprobs, strict=True)
        ],
        "text_offset": offsets,
    }


def _visible(choice: Choice) -> list[int]:
    # Offsets of the generated tokens; those of a stop string that was cut off are left out with it.
    tokenizer = choice.tokenizer
    offsets = text_offsets([b"" if id_ in tokenizer.control_ids else tokenizer.piece(id_) for id_ in choice.token_ids])
    if choice.is_stopped:
        offsets = [offset for offset in offsets if offset < len(choice.text)]
    return offsets


def _chat_logprobs(choice: Choice) -> Json:
    tokenizer = choice.tokenizer
    n_visible = len(_visible(choice))
    pairs = zip(choice.token_ids[:n_visible], choice.logprobs[:n_visible], strict=True)
    return {
        "content": [
            {"token": tokenizer.label(id_), "logprob": value, "bytes": list(tokenizer.piece(id_)), "top_logprobs": []}
            for id_, value in pairs
        ]
    }


def chat_chunk(
    header: Header, choice: Choice, *, text: str = "", is_first: bool = False, is_last: bool = False
) -> Json:
    """One event of a chat stream."""
    delta: Json = {"role": "assistant", "content": text} if is_first else {"content": text} if text else {}
    finish = choice.finish_reason if is_last else None
    return header.body("chat.completion.chunk", [{"index": choice.index, "delta": delta, "finish_reason": finish}])


def completion_chunk(header: Header, choice: Choice, *, text: str, is_last: bool) -> Json:
    """One event of a completion stream."""
    finish = choice.finish_reason if is_last else None
    return header.body(
        "text_completion", [{"index": choice.index, "text": text, "logprobs": None, "finish_reason": finish}]
    )


def event(body: Json) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def error(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> Json:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
