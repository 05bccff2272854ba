"""Every task, group and tag of lm-eval by name, from an index that is built once per installed version.

lm-eval itself reads some 14,000 YAML files at each start, which takes seconds; a cell needs one of them.
"""

import difflib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eval_pipelines.errors import UnknownNameError, UnsupportedError


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of the catalogue. `kind` is task, py_task, group or tag; a tag has members instead of a file."""

    name: str
    kind: str
    path: Path | None
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaf:
    """One task to load, with what the group that names it overrides."""

    entry: Entry
    overrides: dict[str, Any]


_OF_GROUPS = ("group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag")


class Catalog:
    """Names → entries."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._entries)

    def leaves(self, name: str) -> list[Leaf]:
        """The tasks behind a name, groups and tags expanded. Raises UnknownNameError with the near miss."""
        if name not in self._entries:
            raise self._unknown("lm-eval task", name)
        found = list(self._expand(self._entries[name], {}))
        unique = {leaf.entry.name: leaf for leaf in found}
        return list(unique.values())

    def _expand(self, entry: Entry, overrides: dict[str, Any]) -> Iterator[Leaf]:
        if entry.kind == "tag":
            for member in sorted(entry.members):
                yield from self._expand(self._entries[member], overrides)
        elif entry.kind == "group":
            assert entry.path is not None
            written = _read_yaml(entry.path)
            yield from self._members(written.get("task"), {**_own(written), **overrides}, entry.name)
        else:
            yield Leaf(entry, overrides)

    def _members(self, members: Any, overrides: dict[str, Any], group: str) -> Iterator[Leaf]:
        for member in [members] if isinstance(members, str) else members or []:
            own = {} if isinstance(member, str) else _own(member)
            name = member if isinstance(member, str) else member.get("group") or member.get("task")
            if isinstance(member, dict) and isinstance(member.get("task"), list):
                # a group written inline inside its parent
                yield from self._members(member["task"], {**own, **overrides}, str(name))
            elif name in self._entries:
                yield from self._expand(self._entries[name], {**overrides, **own})
            elif own:
                raise UnsupportedError(
                    f"lm-eval group {group!r} defines the task {name!r} inside itself: not asked yet"
                )
            else:
                raise self._unknown(f"member of the lm-eval group {group!r}", str(name))

    def _unknown(self, kind: str, name: str) -> UnknownNameError:
        near = difflib.get_close_matches(name, self._entries, n=10, cutoff=0.5)
        add = f"name the folder of its YAML file in `include`; these are the nearest of {len(self._entries):,} names"
        return UnknownNameError(kind, name, known=near or self.names()[:10], add=add)


def open_catalog(cache: Path, *, include: Path | None = None) -> Catalog:
    """lm-eval's own names, and those of the YAML files in `include`, which win.

    Args:
        cache: Folder for the index; built there when the installed lm-eval has none yet (about 6 s of CPU, once).
    """
    path = cache / f"lm-eval-{version('lm-eval')}.json"
    try:
        raw = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        raw = _index(None)
        cache.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".tmp-{os.getpid()}")
        aside.write_text(json.dumps(raw))
        aside.rename(path)
    root = _tasks_root()
    if include is not None:
        raw = {**raw, **_index(include)}
    return Catalog(
        {
            name: Entry(name, kind, None if file is None else root / file, tuple(members))
            for name, (kind, file, members) in raw.items()
        }
    )


def _own(written: dict[str, Any]) -> dict[str, Any]:
    """What a group gives to the tasks in it: all that does not describe the group itself."""
    return {name: value for name, value in written.items() if name not in _OF_GROUPS}


def _index(folder: Path | None) -> dict[str, tuple[str, str | None, list[str]]]:
    from lm_eval.tasks._index import TaskIndex

    root = _tasks_root()
    entries = TaskIndex.build([folder or root])
    found: dict[str, tuple[str, str | None, list[str]]] = {}
    for name, entry in entries.items():
        kind = entry.kind.name.lower()
        file = entry.yaml_path
        relative = (
            None if file is None else str(file.relative_to(root) if file.is_relative_to(root) else file.resolve())
        )
        found[name] = (kind, relative, sorted(entry.tags) if kind == "tag" else [])
    return found


def _tasks_root() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None, "lm-eval is a dependency of this project"
    assert spec.submodule_search_locations, "lm-eval is a package"
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def _read_yaml(path: Path) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    loaded: dict[str, Any] = load_yaml(path, resolve_func=True)
    return loaded
