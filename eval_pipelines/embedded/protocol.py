"""What a request may hold. Whatever is not here is refused by name: nothing is silently ignored.

Shapes follow OpenAI's API and vLLM's extensions of it (top_k, ignore_eos, token-id prompts, /tokenize).
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from eval_pipelines.embedded.errors import ApiError

MAX_PROMPTS: Final = 4096

# Fields clients send whether they need them or not: these values ask for nothing, any other cannot be honoured.
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "suffix": ("",),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "top_logprobs": (0,),
}


class _Shape(BaseModel):
    # Strict: "16" is not 16. A client that sends the wrong type has a bug worth knowing.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Shape):
    """`include_usage`: a last chunk with token counts."""

    include_usage: bool | None = None


class GenerationRequest(_Shape):
    """The fields chat and completions share. A null means the default, as in OpenAI's API."""

    model: str
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=128)
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value == "" or (isinstance(value, list) and "" in value):
            raise ValueError("a stop string cannot be empty")
        return value

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage(self) -> bool:
        """Whether a stream should end with token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(_Shape):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(_Shape):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions. `max_completion_tokens` is the newer name of `max_tokens`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(default=None, ge=0)
    logprobs: bool | None = None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions. `prompts` is the prompt in its one normal form."""

    prompt: Any
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0)

    @field_validator("logprobs")
    @classmethod
    def _chosen_token_only(cls, value: int | None) -> int | None:
        if value is not None and value > 1:
            raise ValueError("only the chosen token's log-probability is known: ask for 0 or 1")
        return value

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One entry per prompt. Raises ApiError unless it is text, texts, token ids, or lists of token ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt, list) and prompt:
            if _are_ids(prompt):
                return [prompt]
            if len(prompt) > MAX_PROMPTS:
                raise ApiError(f"prompt: at most {MAX_PROMPTS} prompts a request, not {len(prompt)}.", param="prompt")
            if all(isinstance(item, str) for item in prompt) or all(_are_ids(item) for item in prompt):
                return prompt
        raise ApiError(
            "prompt: give a text, a list of texts, token ids, or a list of lists of token ids.", param="prompt"
        )


class TokenizeRequest(_Shape):
    """POST /tokenize, vLLM's shape: either `prompt` or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None


class DetokenizeRequest(_Shape):
    """POST /detokenize, vLLM's shape."""

    model: str | None = None
    tokens: list[int]


Shape = TypeVar("Shape", bound=_Shape)


def parse(shape: type[Shape], raw: bytes) -> Shape:
    """Read a request body as `shape`. Raises ApiError that names the field at fault."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object.", code="invalid_json")
    for name, neutral in _NEUTRAL.items():
        if name in body and (value := body.pop(name)) is not None and value not in neutral:
            raise ApiError(
                f"{name}: this server cannot do that. Leave it out.", param=name, code="unsupported_parameter"
            )
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        raise _named(error) from error


def _named(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    param = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        return ApiError(f"{where}: this server does not know this field.", param=param, code="unknown_parameter")
    return ApiError(f"{where}: {first['msg'].removeprefix('Value error, ')}.", param=param, code="invalid_value")


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)
