"""thinking: asks a model to think or not to, how much, and makes room for it in the answer's limit.

Each kind of server calls it differently: `speaks` says which. Only chats are changed: a log-likelihood thinks nothing,
and a plain prompt goes around the chat template.

Stage   request
Source  vLLM documentation, "Reasoning Outputs"; SGLang documentation, "Thinking Budget"; OpenAI API reference,
        "Create chat completion"; Alibaba Cloud Model Studio, "Deep thinking"; Anthropic, "OpenAI SDK compatibility";
        OpenRouter, "Reasoning Tokens"
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eval_pipelines.client.interceptors.payload import merged
from eval_pipelines.errors import UnsupportedError
from eval_pipelines.records import Request

ONCE = True
_MAX_TOKENS = ("max_tokens", "max_completion_tokens")


class Spec(BaseModel):
    """Options of thinking."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    speaks: Literal["vllm", "sglang", "openai", "qwen", "anthropic", "openrouter"] = Field(
        description="How the server is told: by whose names."
    )
    thinks: bool = Field(default=True, description="False: the answer comes at once.")
    budget_tokens: int | None = Field(default=None, ge=1, description="Tokens of thinking at most.")
    effort: str | None = Field(
        default=None, min_length=1, description="`low`, `high` and the like, as the server has it."
    )
    makes_room: bool = Field(default=True, description="An answer may be longer by `budget_tokens`.")
    completions: Literal["refuse", "leave"] = Field(
        default="refuse", description="Of plain prompts, which no chat template sees: refuse, or nothing."
    )

    @model_validator(mode="after")
    def _can_be_said(self) -> Self:
        given = {name for name in ("budget_tokens", "effort") if getattr(self, name) is not None}
        if not self.thinks and given:
            raise ValueError(f"`thinks: false` does not go with {' and '.join(sorted(given))}")
        if lacking := given - _TAKES[self.speaks]:
            raise ValueError(f"{self.speaks} has no {' and '.join(sorted(lacking))}; it takes {_words(self.speaks)}")
        if self.thinks and not given and self.speaks in ("openai", "anthropic"):
            raise ValueError(f"{self.speaks} needs to be told how much: {_words(self.speaks)}")
        if len(given) == 2 and self.speaks == "openrouter":
            raise ValueError("openrouter takes effort or budget_tokens, not both")
        return self


def request(spec: Spec, request: Request) -> Request:
    """The request with what its server reads. Raises UnsupportedError for a plain prompt, unless it shall be left."""
    if request.is_likelihood or (request.operation == "completion" and spec.completions == "leave"):
        return request
    if request.operation == "completion":
        raise UnsupportedError(
            f"{request.sample_id}: thinking cannot reach a plain prompt, which no chat template sees. Ask with "
            f"`protocol: chat`, or say `completions: leave`."
        )
    params = dict(request.params)
    for name in _MAX_TOKENS if spec.makes_room and spec.budget_tokens else ():
        if isinstance(params.get(name), int):
            params[name] += spec.budget_tokens
    return request.model_copy(update={"params": merged(params, _SAID[spec.speaks](spec))})


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _vllm(spec: Spec) -> dict[str, Any]:
    said = _given(thinking_token_budget=spec.budget_tokens, reasoning_effort=spec.effort)
    return {"chat_template_kwargs": {"enable_thinking": spec.thinks}, **said}


def _sglang(spec: Spec) -> dict[str, Any]:
    template = {"enable_thinking": spec.thinks, **_given(thinking_budget=spec.budget_tokens)}
    return {"chat_template_kwargs": template, **_given(reasoning_effort=spec.effort)}


def _openai(spec: Spec) -> dict[str, Any]:
    return {"reasoning_effort": spec.effort if spec.thinks else "none"}


def _qwen(spec: Spec) -> dict[str, Any]:
    return {"enable_thinking": spec.thinks, **_given(thinking_budget=spec.budget_tokens)}


def _anthropic(spec: Spec) -> dict[str, Any]:
    kind = "enabled" if spec.thinks else "disabled"
    return {"thinking": {"type": kind, **_given(budget_tokens=spec.budget_tokens)}}


def _openrouter(spec: Spec) -> dict[str, Any]:
    return {"reasoning": {"enabled": spec.thinks, **_given(effort=spec.effort, max_tokens=spec.budget_tokens)}}


_SAID: Mapping[str, Callable[[Spec], dict[str, Any]]] = {
    "vllm": _vllm, "sglang": _sglang, "openai": _openai, "qwen": _qwen, "anthropic": _anthropic,
    "openrouter": _openrouter,
}  # fmt: skip
_TAKES: Mapping[str, frozenset[str]] = {
    "vllm": frozenset({"budget_tokens", "effort"}),
    "sglang": frozenset({"budget_tokens", "effort"}),
    "openai": frozenset({"effort"}),
    "qwen": frozenset({"budget_tokens"}),
    "anthropic": frozenset({"budget_tokens"}),
    "openrouter": frozenset({"budget_tokens", "effort"}),
}


def _words(speaks: str) -> str:
    return " and ".join(f"`{name}`" for name in sorted(_TAKES[speaks]))
