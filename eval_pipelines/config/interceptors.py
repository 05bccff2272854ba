"""`interceptors` of `evals.yaml`: which there are, with their options, and whether they go together.

interceptors:
  - system_message: {text: "You are brief."}
  - reasoning
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

from eval_pipelines import plugins
from eval_pipelines.config.source import Loc, Source
from eval_pipelines.errors import UnknownNameError

FOLDER = "client.interceptors"
STAGES = ("request", "headers", "response", "remark", "reuses", "attempt")
# what of a stage decides which text is sent, and which text is graded
ASKING, GRADING = ("request",), ("response", "remark")


class InterceptorEntry(BaseModel):
    """One interceptor with its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    spec: SerializeAsAny[BaseModel]

    @property
    def module(self) -> ModuleType:
        """The file of its name."""
        return plugins.load(FOLDER, self.name, kind="interceptor")

    def is_of(self, stages: Sequence[str]) -> bool:
        """Whether it does anything at one of these stages."""
        return any(hasattr(self.module, stage) for stage in stages)

    @property
    def in_words(self) -> dict[str, Any]:
        """As plain JSON, for the record: the options that were given, and the version of a change of answers."""
        options = self.spec.model_dump(mode="json", exclude_defaults=True)
        number = getattr(self.module, "VERSION", None)
        return {self.name: options | ({"VERSION": number} if number is not None else {})}


def _entry(value: Any) -> Any:
    if isinstance(value, InterceptorEntry):
        return value
    name, options = _parts(value)
    module = plugins.load(FOLDER, name, kind="interceptor")
    return InterceptorEntry(name=name, spec=module.Spec.model_validate_json(json.dumps(options or {}), strict=True))


def _parts(value: Any) -> tuple[str, Any]:
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and len(value) == 1:
        return next(iter(value.items()))
    raise ValueError("must be the name of an interceptor, or one name with its options: `name: {option: value}`")


Interceptors = Annotated[
    tuple[Annotated[InterceptorEntry, BeforeValidator(_entry, json_schema_input_type=str | dict[str, Any])], ...],
    "in this order on the way out, reversed on the way back",
]


def in_words(entries: Iterable[InterceptorEntry], stages: Sequence[str] = STAGES) -> tuple[dict[str, Any], ...]:
    """Those of these stages as plain JSON, in order."""
    return tuple(entry.in_words for entry in entries if entry.is_of(stages))


def without_mistakes(source: Source, loc: Loc, given: Any) -> Any:
    """The entry that stands at `loc`, without `interceptors` that are wrong: these are reported, each on its line."""
    if not isinstance(given, dict) or not isinstance(listed := given.get("interceptors"), list):
        return given
    n_before = len(source.problems)
    for i, value in enumerate(listed):
        where: Loc = (*loc, "interceptors", i)
        try:
            name, options = _parts(value)
            module = plugins.load(FOLDER, name, kind="interceptor")
        except (UnknownNameError, ValueError) as error:
            source.report(where, str(error))
            continue
        source.read(module.Spec, (*where, name) if isinstance(value, dict) else where, options or {})
    found = {key: value for key, value in given.items() if key != "interceptors"}
    return found if len(source.problems) > n_before else given


class _Listing(Protocol):
    @property
    def interceptors(self) -> tuple[InterceptorEntry, ...]: ...


def report_mistaken_chains(
    source: Source, benchmarks: Mapping[str, _Listing], models: Mapping[str, _Listing], watched: Sequence[_Listing]
) -> None:
    """Report what does not go together: within each list, and of each model's list after each benchmark's."""
    lists: list[tuple[Loc, Sequence[InterceptorEntry]]] = [
        (("models", key), one.interceptors) for key, one in models.items()
    ]
    lists += [(("watched", i), one.interceptors) for i, one in enumerate(watched) if one is not None]
    firsts = {name: one.interceptors for name, one in benchmarks.items()}
    for loc, later in [*((("benchmarks", name), one) for name, one in firsts.items()), *lists]:
        for i, why in mistakes((), later):
            source.report((*loc, "interceptors", i), why)
    for loc, later in lists:
        for name, first in firsts.items():
            for i, why in mistakes(first, later):
                source.report((*loc, "interceptors", i), f"after those of benchmark {name}: {why}")


def mistakes(first: Sequence[InterceptorEntry], later: Sequence[InterceptorEntry]) -> Iterator[tuple[int, str]]:
    """Which of `later` does not go with what comes before it, and why. Given `first`, only what it is to blame for."""
    for i, entry in enumerate(later):
        before = first or later[:i]
        if getattr(entry.module, "ONCE", False) and any(one.name == entry.name for one in before):
            yield i, f"{entry.name!r} is listed already, and a second one makes no sense: leave one out"
            continue
        undoes = getattr(entry.module, "undoes", _undoes_nothing)
        yield from ((i, why) for one in before if (why := undoes(entry.spec, one.name, one.spec)))


def _undoes_nothing(_spec: BaseModel, _name: str, _earlier: BaseModel) -> None:
    return None


def schema_of_interceptors(definitions: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of `interceptors`; what it refers to is put into `definitions`."""
    names = plugins.names(FOLDER)
    entries: list[dict[str, Any]] = []
    bare: list[str] = []
    for name in names:
        module = plugins.load(FOLDER, name, kind="interceptor")
        own = module.Spec.model_json_schema()
        definitions.update(own.pop("$defs", {}))
        own["description"] = (module.__doc__ or "").splitlines()[0]
        if not own.get("required"):
            bare.append(name)
            own = {"anyOf": [own, {"type": "null"}], "description": own["description"]}
        entries.append({"type": "object", "properties": {name: own}, "required": [name], "additionalProperties": False})
    definitions["interceptors"] = {"type": "array", "items": {"oneOf": [{"enum": bare}, *entries]}}
    return {"$ref": "#/$defs/interceptors"}
