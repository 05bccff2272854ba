"""Every task, group and tag of lm-eval by name, from an index that is built once per installed version.

lm-eval itself reads some 14,000 YAML files at each start, which takes seconds; a cell needs one of them.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eval_pipelines.errors import UnknownNameError


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
            known = [known for known in self._entries if known[:2] == name[:2]] or list(self._entries)
            error = UnknownNameError("lm-eval task", name, known=known[:200])
            raise error
        found = list(self._expand(self._entries[name], {}))
        unique = {leaf.entry.name: leaf for leaf in found}
        return list(unique.values())

    def _expand(self, entry: Entry, overrides: dict[str, Any]) -> Iterator[Leaf]:
        if entry.kind == "tag":
            for member in sorted(entry.members):
                yield from self._expand(self._entries[member], overrides)
        elif entry.kind == "group":
            assert entry.path is not None
            yield from self._members(_read_yaml(entry.path).get("task"), overrides)
        else:
            yield Leaf(entry, overrides)

    def _members(self, members: Any, overrides: dict[str, Any]) -> Iterator[Leaf]:
        for member in [members] if isinstance(members, str) else members or []:
            own = {} if isinstance(member, str) else {k: v for k, v in member.items() if k not in ("task", "group")}
            name = member if isinstance(member, str) else member.get("group") or member.get("task")
            if isinstance(name, str) and name in self._entries:
                yield from self._expand(self._entries[name], {**overrides, **own})
            elif isinstance(member, dict):
                # a group written inline inside its parent
                yield from self._members(member.get("task"), overrides)


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
    assert spec is not None and spec.submodule_search_locations, "lm-eval is a dependency of this project"
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def _read_yaml(path: Path) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    loaded: dict[str, Any] = load_yaml(path, resolve_func=False)
    return loaded
