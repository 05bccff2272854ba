"""payload: parameters and headers that are added, removed or renamed.

Parameters are what a request says besides its text: messages, prompt and model stay as they are. First they are
removed, then renamed, then added; the first two at any depth. An object that is added to an object is merged into it.

Stage   request, headers
Source  NeMo Evaluator, "Payload Modification Interceptor"
"""

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from eval_pipelines.client.headers import sendable, without_secrets
from eval_pipelines.errors import ConfigError
from eval_pipelines.records import Request

# the request's text, and what the client decides to count tokens and to tell answers apart
_OURS = frozenset({"model", "messages", "prompt", "stream", "stream_options", "n", "echo"})
# what draws an answer; a log-likelihood is computed, and the dialect says how
_DRAWS = frozenset(
    {"max_tokens", "max_completion_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "logprobs"}
    | {"top_logprobs", "ignore_eos", "tools", "tool_choice", "response_format", "reasoning_effort"}
)
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class Spec(BaseModel):
    """Options of payload."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    params_to_remove: tuple[str, ...] = Field(default=(), description="Names, wherever they stand in the parameters.")
    params_to_rename: dict[str, str] = Field(default_factory=dict, description="Name → new name, at any depth.")
    params_to_add: dict[str, Any] = Field(
        default_factory=dict, description="Name → value; an object is merged into one that is there."
    )
    headers_to_remove: tuple[str, ...] = Field(default=(), description="Of the deployment's own headers.")
    headers_to_rename: dict[str, str] = Field(default_factory=dict, description="Name → new name.")
    headers_to_add: dict[str, str] = Field(default_factory=dict, description="Name → value. No secrets.")
    headers_from_env: dict[str, str] = Field(
        default_factory=dict, description="Name → name of the variable that holds the value."
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("says nothing to add, to remove or to rename")
        return self

    @field_validator("params_to_add", "params_to_rename", "params_to_remove")
    @classmethod
    def _leaves_the_question(cls, params: Any, info: ValidationInfo) -> Any:
        names = {*params, *params.values()} if info.field_name == "params_to_rename" else {*params}
        if taken := sorted(names & _OURS):
            raise ValueError(f"{', '.join(taken)}: the client and the benchmark say these; they cannot be changed here")
        return params

    @field_validator("params_to_rename", "headers_to_rename")
    @classmethod
    def _names_stay_apart(cls, names: dict[str, str]) -> dict[str, str]:
        if len({*names.values()}) < len(names):
            raise ValueError("two of them would have the same new name")
        return names

    @field_validator("headers_to_add", "headers_from_env", "headers_to_rename")
    @classmethod
    def _are_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        sendable(headers)
        return headers

    @field_validator("headers_to_add")
    @classmethod
    def _are_no_secrets(cls, headers: dict[str, str]) -> dict[str, str]:
        without_secrets(headers, "name the variable in `headers_from_env: {{{name}: NAME_OF_THE_VARIABLE}}`")
        return headers

    @field_validator("headers_from_env")
    @classmethod
    def _are_variables(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, variable in headers.items():
            if not _VARIABLE.fullmatch(variable):
                raise ValueError(f"{name!r} needs the name of an environment variable, never the value")
        return headers


def request(spec: Spec, request: Request) -> Request:
    """The request with other parameters. A log-likelihood takes none that would draw an answer."""
    added = spec.params_to_add
    if request.is_likelihood:
        added = {name: value for name, value in added.items() if name not in _DRAWS}
    if isinstance(added.get("seed"), int):  # one seed for all repeats would draw one answer for all
        added = {**added, "seed": added["seed"] + request.repeat}
    params = merged(renamed(removed(request.params, {*spec.params_to_remove}), spec.params_to_rename), added)
    return request if params == request.params else request.model_copy(update={"params": params})


def removed(value: Any, names: set[str]) -> Any:
    """A JSON value without these keys, at any depth."""
    if isinstance(value, dict):
        return {key: removed(one, names) for key, one in value.items() if key not in names}
    return [removed(one, names) for one in value] if isinstance(value, list | tuple) else value


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A JSON value with other keys, at any depth. Where the new name is taken, the renamed one takes its place."""
    if isinstance(value, dict):
        plain = {key: renamed(one, names) for key, one in value.items() if key not in names}
        return plain | {names[key]: renamed(one, names) for key, one in value.items() if key in names}
    return [renamed(one, names) for one in value] if isinstance(value, list | tuple) else value


def merged(value: dict[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """An object with these keys; objects under the same key are merged, anything else is replaced."""
    found = dict(value)
    for key, new in added.items():
        old = found.get(key)
        found[key] = merged(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
    return found


def headers(spec: Spec, headers: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The headers of an endpoint, changed; names in lower case. Raises ConfigError for a variable that is not set."""
    gone = {name.lower() for name in spec.headers_to_remove}
    names = {old.lower(): new.lower() for old, new in spec.headers_to_rename.items()}
    found = {name.lower(): value for name, value in headers.items() if name.lower() not in gone}
    found = {name: value for name, value in found.items() if name not in names} | {
        names[name]: value for name, value in found.items() if name in names
    }
    found |= {name.lower(): value for name, value in spec.headers_to_add.items()}
    for name, variable in spec.headers_from_env.items():
        value = environment.get(variable, "").strip()
        if not value or not (value.isascii() and value.isprintable()):
            raise ConfigError(
                f"the environment variable {variable} is not set, or holds what no HTTP header can carry, and payload "
                f"takes the header {name} from it. Set it where Dagster runs (for example in .env), then try again."
            )
        found[name.lower()] = value
    return found


def undoes(spec: Spec, name: str, earlier: Any) -> str | None:
    """What was added or changed, only to be removed."""
    if name == "modify_tools" and "tools" in spec.params_to_remove:
        return "removes the tools that an earlier modify_tools changes: leave one out"
    if name != "payload":
        return None
    lost = sorted({*spec.params_to_remove} & {*earlier.params_to_add, *earlier.params_to_rename.values()})
    given = {one.lower() for one in (*earlier.headers_to_add, *earlier.headers_from_env)}
    lost += sorted({one.lower() for one in spec.headers_to_remove} & given)
    return f"removes {', '.join(lost)}, which an earlier payload adds: leave one out" if lost else None
