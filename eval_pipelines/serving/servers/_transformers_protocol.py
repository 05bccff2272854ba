"""What a request may hold, and the bodies that answer it, in OpenAI's shapes.

What cannot be honoured is refused by name: nothing is silently ignored.
"""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

Json = dict[str, Any]
MAX_TOP: Final = 20

# fields clients send whether they need them or not: these values ask for nothing
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "stream": (False,),
    "stream_options": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}


class Refused(Exception):
    """A request that gets no answer, with what its sender is told."""

    def __init__(
        self, message: str, *, status: int = 400, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s

    @property
    def body(self) -> Json:
        """OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


class _Shape(BaseModel):
    # strict: a client that sends "16" for 16 has a bug worth knowing
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Asked(_Shape):
    model: str
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=128)
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    user: str | None = None

    @field_validator("stop")
    @classmethod
    def _is_not_empty(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if stop == "" or (isinstance(stop, list) and "" in stop):
            raise ValueError("a stop string cannot be empty")
        return stop

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def limit(self) -> int | None:
        """Tokens the answer may have; None if the sender set no limit."""
        return self.max_tokens


class _Part(_Shape):
    type: str = Field(pattern="^text$")
    text: str


class _Message(_Shape):
    role: str
    content: str | list[_Part]
    name: str | None = None

    @property
    def plain(self) -> Json:
        """The message as templates expect it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text} | ({"name": self.name} if self.name else {})


class ChatRequest(_Asked):
    """POST /v1/chat/completions."""

    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(default=None, ge=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Json | None = None

    @property
    def limit(self) -> int | None:
        """Tokens the answer may have, by the newer name if both are given."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def n_top(self) -> int | None:
        """Alternatives to tell at each token; None if no log-probability is wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Asked):
    """POST /v1/completions. A prompt is a text, several, token ids, or several lists of them."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP)
    add_special_tokens: bool | None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One entry per prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]


Shape = TypeVar("Shape", bound=_Shape)


def parse(kind: type[Shape], body: bytes) -> Shape:
    """Read a request's body. Raises Refused with what is wrong with it."""
    try:
        told = json.loads(body)
    except ValueError as error:
        raise Refused(f"the body is no JSON: {error}") from None
    if not isinstance(told, dict):
        raise Refused("the body must be a JSON object")
    for name in [name for name in _NEUTRAL if name in told]:
        value = told.pop(name)
        if value is not None and value not in _NEUTRAL[name]:
            raise Refused(f"`{name}` = {json.dumps(value)[:80]} is not supported by this server: leave it out")
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise Refused(f"`{where}` is not supported by this server: leave it out") from None
        raise Refused(f"{where}: {first['msg']}") from None


def too_long(max_model_len: int, n_prompt: int, n_answer: int) -> Refused:
    """The refusal of a request that does not fit the context, in OpenAI's words."""
    return Refused(
        f"This model's maximum context length is {max_model_len} tokens. However, you requested {n_prompt + n_answer} "
        f"tokens ({n_prompt} in the prompt, {n_answer} in the completion). Please reduce the length of the prompt or "
        "completion.",
        code="context_length_exceeded",
    )


def envelope(kind: str, model: str, fingerprint: str, choices: Sequence[Json], usage: Json) -> Json:
    """The body of an answer: `chat.completion` or `text_completion`."""
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint,
        "choices": list(choices),
        "usage": usage,
    }


def usage(n_prompt: int, n_answer: int) -> Json:
    """Token counts of one request."""
    return {"prompt_tokens": n_prompt, "completion_tokens": n_answer, "total_tokens": n_prompt + n_answer}
