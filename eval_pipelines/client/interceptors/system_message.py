"""system_message: puts a text into the system message, or makes one.

Stage   request
Source  NeMo Evaluator, "System Message Interceptor" (there `system_message` and `strategy`)
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eval_pipelines.errors import UnsupportedError
from eval_pipelines.records import Request


class Spec(BaseModel):
    """Options of system_message."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    text: str = Field(min_length=1, description="What the system message says.")
    mode: Literal["prepend", "append", "replace"] = Field(
        default="prepend", description="Before or after what the system message says, or in its place."
    )
    separator: str = Field(default="\n", description="Between the text and what is there already.")
    completions: Literal["refuse", "prepend", "leave"] = Field(
        default="refuse",
        description="Of plain prompts, which have no system message: refuse, put it first, or nothing.",
    )

    @model_validator(mode="after")
    def _a_prompt_has_only_a_start(self) -> Self:
        if self.completions == "prepend" and self.mode != "prepend":
            raise ValueError(f"`completions: prepend` does not go with `mode: {self.mode}`: a prompt has only a start")
        return self


def request(spec: Spec, request: Request) -> Request:
    """The request with the text. Raises UnsupportedError for a plain prompt, unless the options say what to do."""
    if request.operation != "chat":
        return _of_prompt(spec, request)
    messages = list(request.messages or ())
    if spec.mode == "replace":
        messages = [message for message in messages if message["role"] != "system"]
    at = next((i for i, message in enumerate(messages) if message["role"] == "system"), None)
    if at is None:
        messages.insert(0, {"role": "system", "content": spec.text})
    else:
        parts = [spec.text, messages[at]["content"]]
        content = spec.separator.join(parts if spec.mode == "prepend" else parts[::-1])
        messages[at] = {**messages[at], "content": content}
    return request.model_copy(update={"messages": tuple(messages)})


def _of_prompt(spec: Spec, request: Request) -> Request:
    if spec.completions == "leave":
        return request
    if spec.completions == "prepend" and request.operation != "loglikelihood_rolling":
        return request.model_copy(update={"prompt": f"{spec.text}{spec.separator}{request.prompt or ''}"})
    raise UnsupportedError(
        f"{request.sample_id}: system_message cannot reach a plain prompt, which has no system message. Ask with "
        f"`protocol: chat`, or say `completions: prepend` (the text goes first) or `completions: leave`."
    )


def undoes(spec: Spec, name: str, earlier: Any) -> str | None:
    """A replaced message is one that somebody wrote for nothing."""
    if name == "system_message" and spec.mode == "replace":
        return f"`mode: replace` throws away what an earlier system_message says ({earlier.text[:40]!r}): put it first"
    return None
