"""Every task, group and tag by name: lm-eval's, this project's own, and the operator's.

Of two that bear one name the operator's wins, then the project's.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from eval_pipelines.benchmarks.own_file import read_own
from eval_pipelines.benchmarks.own_names import SHIPPED, unread
from eval_pipelines.benchmarks.task_index import (
    Row,
    folder_index,
    lm_eval_folder,
    lm_eval_index,
    read_yaml,
)
from eval_pipelines.errors import ConfigError, UnknownNameError

OWN_TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of the catalogue. `kind` is task, py_task, own, group or tag; a tag has members instead of a file.

    Attributes:
        config: The whole task, where a group defines it inside itself; then `path` is the group's.
        origin: lm-eval, eval-pipelines, or the folder it was found in.
        replaces: of the operator's own: who else has the name.
    """

    name: str
    kind: str
    path: Path | None
    members: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    origin: str = "lm-eval"
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """How a group makes one number of its subtasks' numbers; None for filters: of each filter that they share."""

    metric: str
    filters: tuple[str, ...] | None = None
    weight_by_size: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """A group that was expanded, and the aggregates that it states. A tag is none: it only finds tasks."""

    name: str
    aggregates: tuple[Aggregate, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaf:
    """One task to load, with what the groups that name it override.

    Attributes:
        groups: It is in them, the outermost first.
    """

    entry: Entry
    overrides: dict[str, Any]
    groups: tuple[Group, ...] = ()


_OF_GROUPS = ("group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag")


_WELL_KNOWN = ("arc_challenge", "gsm8k", "hellaswag", "mmlu", "mmlu_pro", "truthfulqa_mc1", "winogrande")


class Catalog:
    """Names → entries."""

    def __init__(self, indexes: list[tuple[str, Path, dict[str, Row]]]) -> None:
        self._indexes = indexes
        self._rows: dict[str, tuple[str, Path, Row]] = {}
        self._replaced: dict[str, str] = {}
        for origin, folder, index in indexes:
            for name, row in index.items():
                before = self._rows.get(name)
                if row.kind == "tag" and before and before[2].kind == "tag":
                    row = row._replace(members=sorted({*row.members, *before[2].members}))
                elif before and origin not in SHIPPED:
                    self._replaced[name] = before[0]
                self._rows[name] = (origin, folder, row)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._rows)

    def entry(self, name: str) -> Entry:
        """What stands behind a name. Raises UnknownNameError with the near miss, ConfigError for a file that is none."""
        if name not in self._rows:
            for origin, folder, _ in self._indexes:
                if origin not in SHIPPED and (why := unread(folder, name)):
                    raise ConfigError(why)
            raise self._unknown("lm-eval task", name)
        origin, folder, row = self._rows[name]
        if row.kind == "broken":
            raise ConfigError(f"{row.file} cannot be read: {row.about['error']}")
        path = None if row.file is None else folder / row.file
        return Entry(
            name, row.kind, path, tuple(sorted(row.members)), row.about, None, origin, self._replaced.get(name)
        )

    def entries(self) -> Iterator[Entry]:
        """Everything there is, by name."""
        return (self.entry(name) for name in self.names() if self._rows[name][2].kind != "broken")

    def broken(self) -> list[str]:
        """Of each file that cannot be read: which it is, and why."""
        rows = (row for _, _, row in self._rows.values() if row.kind == "broken")
        return sorted(f"{row.file} cannot be read: {row.about['error']}" for row in rows)

    def leaves(self, name: str) -> list[Leaf]:
        """The tasks behind a name, groups and tags expanded.

        Raises:
            UnknownNameError: no such name, or a group names a member that is not there; with the near miss.
            ConfigError: the file of a group cannot be read; or the operator has a file of that name that is not read, for
                whom what is shipped under it would silently be another benchmark.
        """
        entry = self.entry(name)
        if entry.origin in SHIPPED:
            for origin, folder, _ in self._indexes:
                if origin not in SHIPPED and (why := unread(folder, name, is_shipped=True)):
                    raise ConfigError(
                        f"{why.rstrip('.')}. If the {name} in {entry.origin} is meant, call that file otherwise"
                    )
        found = self._expand(entry, {}, ())
        unique = {leaf.entry.name: leaf for leaf in found}
        return list(unique.values())

    def _expand(self, entry: Entry, overrides: dict[str, Any], above: tuple[Group, ...]) -> Iterator[Leaf]:
        if entry.name in {group.name for group in above}:
            raise ConfigError(f"{entry.path}: the group {entry.name!r} contains itself")
        if entry.kind == "tag":
            for member in entry.members:
                yield from self._expand(self.entry(member), overrides, above)
        elif entry.kind == "group":
            said = written(entry)
            group = Group(entry.name, _aggregates(said))
            yield from self._members(said.get("task"), {**_own(said), **overrides}, entry, (*above, group))
        else:
            yield Leaf(entry, overrides, above)

    def _members(
        self, members: Any, overrides: dict[str, Any], group: Entry, above: tuple[Group, ...]
    ) -> Iterator[Leaf]:
        for member in [members] if isinstance(members, str) else members or []:
            config: dict[str, Any] = {"task": member} if isinstance(member, str) else member
            own, name = _own(config), str(config.get("group") or config.get("task"))
            if isinstance(config.get("task"), list) and name not in self:
                # a group written inline inside its parent
                inline = Group(name, _aggregates(config))
                yield from self._members(config["task"], {**own, **overrides}, group, (*above, inline))
            elif name in self:
                yield from self._expand(self.entry(name), {**overrides, **own}, above)
            elif own:
                yield Leaf(_defined_inside(group, name, {**overrides, **config}), {}, above)
            else:
                raise self._unknown(f"member of the lm-eval group {group.name!r}", name)

    def _unknown(self, kind: str, name: str) -> UnknownNameError:
        near = difflib.get_close_matches(name, self._rows, n=10, cutoff=0.5)
        add = (
            f"name the folder of its YAML file in `include`; these are the nearest of {len(self._rows):,} names, and "
            f"`eval-pipelines benchmarks search` finds others"
        )
        return UnknownNameError(kind, name, known=near or _WELL_KNOWN, add=add)


def open_catalog(cache: Path, *, include: Path | None = None) -> Catalog:
    """lm-eval's names, this project's own, and those of the files in `include`; a later one wins.

    Args:
        cache: Folder for the indexes; lm-eval's is built there when the installed version has none yet (seconds, once).

    Raises:
        ConfigError: `include` is no folder.
    """
    indexes = [
        ("lm-eval", lm_eval_folder(), lm_eval_index(cache)),
        ("eval-pipelines", OWN_TASKS, folder_index(OWN_TASKS, cache)),
    ]
    if include is not None:
        if not include.is_dir():
            raise ConfigError(f"`include` names {include}, which is no folder")
        indexes.append((str(include), include, folder_index(include, cache)))
    return Catalog(indexes)


def written(entry: Entry) -> dict[str, Any]:
    """What the file of a task or group says; functions stay names. Raises ConfigError where it cannot be read."""
    if entry.config is not None:
        return entry.config
    if entry.kind == "own":
        assert entry.path is not None
        return read_own(entry.path).config
    assert entry.path is not None, "a tag has no file"
    try:
        return read_yaml(entry.path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{entry.path} cannot be read: {' '.join(str(error).split())}") from None


def _own(said: dict[str, Any]) -> dict[str, Any]:
    """What a group gives to the tasks in it: all that does not describe the group itself."""
    return {name: value for name, value in said.items() if name not in _OF_GROUPS}


def _defined_inside(group: Entry, name: str, config: dict[str, Any]) -> Entry:
    # its name tells where it stands, as lm-eval's does
    full = f"{group.name}::{name}"
    return Entry(full, "task", group.path, config={**config, "task": full}, origin=group.origin)


def _aggregates(said: dict[str, Any]) -> tuple[Aggregate, ...]:
    listed = said.get("aggregate_metric_list") or []
    return tuple(_aggregate(one) for one in ([listed] if isinstance(listed, dict) else listed))


def _aggregate(one: dict[str, Any]) -> Aggregate:
    filters = one.get("filter_list")
    named = None if filters is None else (filters,) if isinstance(filters, str) else tuple(filters)
    return Aggregate(one["metric"], named, one.get("weight_by_size", True) is not False)
