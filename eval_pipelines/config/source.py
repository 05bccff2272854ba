"""YAML that remembers its lines, and problems told in plain words.

A `Source` is one parsed file: its values, the line of every key and list item, and every problem found so
far. Nothing is raised until `fail_if_any`, so that an operator reads all problems of a file at once.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from eval_pipelines.errors import ConfigError

Loc = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

_TAG = "tag:yaml.org,2002:"
_STANDARD_TAGS = {_TAG + kind for kind in ("map", "seq", "str", "int", "float", "bool", "null")}


class _Loader(yaml.SafeLoader):
    """SafeLoader, but a date stays text and `1e-3` is a number (YAML 1.1 reads it as text)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


@dataclass(frozen=True, order=True, slots=True)
class Problem:
    """One thing that is wrong, on one line of the file (1-based)."""

    line: int
    where: str
    message: str


class Source:
    """One YAML file: values, lines and problems."""

    def __init__(self, text: str, *, name: str) -> None:
        """Parse `text`; `name` is how the file is called in messages.

        Raises:
            ConfigError: the text is no YAML, or not a mapping. Problems below that level are only collected.
        """
        self.name = name
        self.problems: list[Problem] = []
        self._lines: dict[Loc, int] = {}
        node = self._compose(text)
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(
                f"{name}:1: the file must be a mapping of sections, such as `deployments:` and `benchmarks:`."
            )
        self._loader = _Loader("")
        self.data: dict[str, Any] = self._build(node, (), ())

    def _compose(self, text: str) -> yaml.Node:
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = ", ".join(part for part in (error.context, error.problem) if part)
            line = mark.line + 1 if mark else 1
            start = error.context_mark.line + 1 if error.context_mark else line
            began = f" It began on line {start}." if start != line else ""
            raise ConfigError(f"{self.name}:{line}: not valid YAML: {words}.{began}{_hint(words)}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{self.name}:1: not valid YAML: {' '.join(str(error).split())}.") from None
        if node is None:
            raise ConfigError(
                f"{self.name}:1: the file is empty. It needs `deployments:`, `benchmarks:` and what to evaluate."
            )
        return node

    def _build(self, node: yaml.Node, loc: Loc, above: tuple[yaml.Node, ...]) -> Any:
        """The node as plain JSON values; notes the line of everything on the way."""
        self._lines.setdefault(loc, node.start_mark.line + 1)
        if any(node is one for one in above):
            self.report(loc, "an alias that contains itself")
            return None
        if node.tag not in _STANDARD_TAGS:
            self.report(loc, f"the tag {node.tag} is not supported; write plain YAML")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(node, loc, (*above, node))
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*loc, i), (*above, node)) for i, item in enumerate(node.value)]
        try:
            return self._loader.construct_object(node)
        except ValueError:
            self.report(loc, f"is no {node.tag.rpartition(':')[2]}")
            return None

    def _build_mapping(self, node: yaml.MappingNode, loc: Loc, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        built: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._note(line, loc, "a key must be plain text")
                continue
            # The key's own text: YAML would read the names `no` and `on` as false and true.
            name = str(key.value)
            if name in first:
                self._note(line, (*loc, name), f"written twice; the first is on line {first[name]}")
                continue
            first[name] = line
            self._lines.setdefault((*loc, name), line)
            built[name] = self._build(value, (*loc, name), above)
        for base in merged:
            if not isinstance(base, yaml.MappingNode):
                self.report(loc, "`<<` takes a mapping, or a list of mappings")
                continue
            built = {**self._build(base, loc, above), **built}
        return built

    def line(self, loc: Loc) -> int:
        """The 1-based line of `loc`, or of the nearest thing around it that the file holds."""
        return self._lines[self._present(loc)]

    def _present(self, loc: Loc) -> Loc:
        while loc not in self._lines:
            loc = loc[:-1]
        return loc

    def _note(self, line: int, loc: Loc, message: str) -> None:
        problem = Problem(line, _path_text(loc), message)
        if problem not in self.problems:
            self.problems.append(problem)

    def report(self, loc: Loc, message: str) -> None:
        """Note a problem at `loc`; nothing is raised yet."""
        self._note(self.line(loc), loc, message)

    def report_unknown_key(self, loc: Loc, known: Iterable[str]) -> None:
        """Note that the last part of `loc` is no key of its mapping."""
        self.report(loc, f"unknown key. {near_miss(str(loc[-1]), known, label='Known')}")

    def mapping(self, key: str) -> dict[str, Any]:
        """A section of names and what they mean; empty when absent. Reports it if it is something else."""
        value = self.data.get(key)
        if value is None or isinstance(value, dict):
            return value or {}
        self.report((key,), f"must be a mapping of names to values, not {_kind(value)}")
        return {}

    def items(self, key: str) -> Iterator[tuple[Loc, Any]]:
        """The places and values of a list section; none when absent. Reports it if it is something else."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, list):
            self.report((key,), f"must be a list (lines that start with `- `), not {_kind(value)}")
        elif value:
            yield from (((key, i), item) for i, item in enumerate(value))

    def read(self, model: type[M], loc: Loc, value: Any, *, also: Iterable[str] = ()) -> M | None:
        """Check `value`, which stands at `loc`, against `model`; None if it does not fit (then it is reported).

        Args:
            also: further keys that are known at this place, for near misses.
        """
        try:
            # By way of JSON, so that strict checking still takes a list for a tuple and text for a path.
            return model.model_validate_json(json.dumps(value), strict=True)
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                self._report_error(model, loc, error, also)
            return None

    def _report_error(self, model: type[BaseModel], loc: Loc, error: ErrorDetails, also: Iterable[str]) -> None:
        inner: Loc = error["loc"]
        if error["type"] == "extra_forbidden":
            known = [*_fields_at(model, inner[:-1]), *(also if len(inner) == 1 else ())]
            self.report_unknown_key((*loc, *inner), known)
        elif error["type"] == "missing":
            self.report((*loc, *inner), f"required, but missing{_meaning(model, inner)}")
        else:
            # pydantic adds parts that the file does not hold, such as the branch of a union
            self.report(self._present((*loc, *inner)), plain_words(error))

    def fail_if_any(self) -> None:
        """Raise one ConfigError that holds every problem, in the order of the file."""
        if self.problems:
            lines = (
                f"{self.name}:{p.line}: {p.where + ': ' if p.where else ''}{p.message}" for p in sorted(self.problems)
            )
            raise ConfigError("\n".join(lines))


def near_miss(name: str, known: Iterable[str], *, label: str) -> str:
    """`Did you mean 'x'?`, or the whole list if nothing is near."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"{label}: {', '.join(names) or 'none'}."


def plain_words(error: ErrorDetails) -> str:
    """What is wrong and what would be right. Never quotes text the operator wrote: it may be a secret."""
    kind, given, ctx = error["type"], error["input"], error.get("ctx", {})
    if kind == "literal_error":
        options = re.findall(r"'([^']+)'", ctx["expected"])
        return f"must be {ctx['expected']}. {near_miss(str(given), options, label='Allowed')}"
    if kind == "value_error":
        return str(ctx["error"])
    for bound, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if bound in ctx:
            return f"must be {words} {ctx[bound]:g}, not {given}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    for start, words in _WANTED:
        if kind.startswith(start):
            fix = (
                ": put it in quotes"
                if start in ("string_type", "path_type") and isinstance(given, (int, float))
                else ""
            )
            return f"must be {words}, not {_kind(given)}{fix}"
    return error["msg"][:1].lower() + error["msg"][1:]


_WANTED = (
    ("string_type", "text"),
    ("path_type", "a path"),
    ("int_", "a whole number"),
    ("float_", "a number"),
    ("finite_number", "a finite number"),
    ("bool_", "true or false"),
    ("dict_type", "a mapping of names to values"),
    ("model_", "a mapping of names to values"),
    ("list_type", "a list"),
    ("tuple_type", "a list"),
)


def _kind(value: Any) -> str:
    names = {type(None): "empty", bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list"}
    text = names.get(type(value), "a mapping")
    return f"{value}" if isinstance(value, float) else text


def _hint(words: str) -> str:
    if "'\\t'" in words:
        return " Indent with spaces, not tabs."
    if "mapping values are not allowed" in words:
        return " Is the indentation right? Text that holds ': ' needs quotes."
    return ""


def _path_text(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _fields_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys known at `loc` inside `model`."""
    models = [model]
    for part in loc:
        inner = [one.model_fields[part] for one in models if isinstance(part, str) and part in one.model_fields]
        models = [one for field in inner for one in _models_in(field.annotation)] or models
    return [name for one in models for name in one.model_fields]


def _meaning(model: type[BaseModel], loc: Loc) -> str:
    """The description of a field of `model` itself, to say what is missing."""
    field = model.model_fields.get(str(loc[0])) if len(loc) == 1 else None
    return f": {field.description}" if field and field.description else ""
