"""`generation`: the sampling parameters of a benchmark or a judge, by the names that OpenAI-compatible servers take.

They are checked and kept as they are written: 1 stays 1, so that no version changes with how it is read.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetPydanticSchema
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypedDict  # of pydantic, which takes no other before Python 3.12

from eval_pipelines.config.source import near_miss

# OpenAI's chat endpoint refuses more
MAX_STOPS_OF_CHAT = 4

# what lm-eval and others call it, or who says it here
_ELSEWHERE = {
    "max_gen_toks": "write `max_tokens`",
    "max_new_tokens": "write `max_tokens`",
    "max_length": "write `max_tokens`",
    "until": "write `stop`",
    "do_sample": "leave it out: a `temperature` above 0 samples",
    "n": "write `repeats` beside `generation`",
    "stream": "the deployment says it",
    "model": "the model says it",
    "messages": "the benchmark says it",
    "prompt": "the benchmark says it",
}


def _as_written(value: Any, check: Callable[[Any], Any]) -> Any:
    check(value)
    return value


def _is_stop(value: Any) -> Any:
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise ValueError("must be text, or a list of texts")
    return value


Stop = Annotated[str | list[str], BeforeValidator(_is_stop)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0)]
Tokens = Annotated[int, Field(ge=1)]


class _Parameters(TypedDict, total=False):
    """None: the server's own, where it takes null."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    max_tokens: Tokens | None
    max_completion_tokens: Tokens | None
    min_tokens: Annotated[int, Field(ge=0)] | None
    temperature: Positive | None
    top_p: Share | None
    top_k: int | None
    min_p: Share | None
    typical_p: Share | None
    seed: int | None
    stop: Stop | None
    stop_token_ids: list[int] | None
    bad_words: list[str] | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: Positive | None
    length_penalty: float | None
    logit_bias: dict[str, float] | None
    logprobs: bool | int | None
    top_logprobs: int | None
    ignore_eos: bool | None
    include_stop_str_in_output: bool | None
    skip_special_tokens: bool | None
    reasoning_effort: str | None
    thinking_token_budget: int | None
    chat_template_kwargs: dict[str, Any] | None
    response_format: dict[str, Any] | None
    structured_outputs: dict[str, Any] | None
    guided_json: Any
    guided_regex: str | None
    guided_choice: list[str] | None
    guided_grammar: str | None
    user: str | None


def _are_known(given: Any) -> Any:
    for name in given if isinstance(given, dict) else ():
        if name in _ELSEWHERE:
            raise ValueError(f"`{name}` is no parameter here: {_ELSEWHERE[name]}")
        if name not in _Parameters.__annotations__:
            raise ValueError(
                f"`{name}` is no known parameter. {near_miss(str(name), _Parameters.__annotations__, label='Known')} "
                f"What else a server takes goes by `interceptors: [{{payload: {{params_to_add: {{{name}: …}}}}}}]`"
            )
    return given


def _schema(_source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    """The checks of `_Parameters` around a dictionary that stays what it was, also where it is written out."""
    same = core_schema.plain_serializer_function_ser_schema(lambda value: value)
    checks = handler.generate_schema(_Parameters)
    return core_schema.no_info_wrap_validator_function(_as_written, checks, serialization=same)


Generation = Annotated[dict[str, Any], GetPydanticSchema(_schema), BeforeValidator(_are_known)]
