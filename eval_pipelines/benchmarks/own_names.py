"""Files of the operator's that are called as a benchmark is, and are not read as one."""

import os
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from eval_pipelines.benchmarks.task_index import name_and_kind, read_constants, read_yaml

SHIPPED = ("lm-eval", "eval-pipelines")
SUFFIXES = (".yaml", ".yml", ".py")


def unread(folder: Path, name: str, *, is_shipped: bool = False) -> str | None:
    """Why no file in the folder of one's own benchmarks is the benchmark `name`; None if none is called so.

    Args:
        is_shipped: lm-eval or this project has the name: a module of helpers, a configuration of something else, or a
            file that says which other task it is, may well be called so, too, and counts for nothing.
    """
    for path in _called(files_below(folder), name):
        said = _read(path)
        if path.suffix == ".yml":
            if not is_shipped or (said is not None and name_and_kind(path, said)[0] == name):
                return f"{path} is not read: name it {name}.yaml"
        elif said is None:
            continue
        elif path.suffix == ".py":
            lacking = [one for one in ("prompt", "score") if one not in said]
            if not lacking:
                return f"{path} is not read: one in Python lies in {folder} itself"
            if len(lacking) == 1 or not is_shipped:
                wanted = "`def score(sample, answer)`, and `def prompt(sample)` or PROMPT"
                return f"{path} is no benchmark: it defines no {' and no '.join(lacking)}. One in Python has {wanted}."
        elif other := said.get("group") or said.get("task"):
            if not is_shipped:
                return f"{path} is the task {other!r}: ask for that name"
        elif not is_shipped or _looks_like_one(said):
            has = ", ".join(map(str, said)) or "nothing"
            return f"{path} is no benchmark: it has no `prompt`, nor the `task` of lm-eval's own files. It has {has}."
    return None


def _looks_like_one(said: dict[str, Any]) -> bool:
    return bool(get_close_matches("prompt", map(str, said))) or {"data", "target"} <= said.keys()


def files_below(folder: Path) -> Iterator[Path]:
    """Every file in a folder, but for what is hidden or Python's own; nothing of what may not be looked into."""
    for place, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith((".", "__"))]
        yield from (Path(place, one) for one in files)


def benchmarks_called(name: str, paths: Iterable[Path]) -> Iterator[Path]:
    """Those of the files that would be the benchmark `name` if they were read."""
    for path in _called(paths, name):
        said = _read(path)
        if said is not None and name_and_kind(path, said)[0] == name:
            yield path


def _called(paths: Iterable[Path], name: str) -> list[Path]:
    return sorted(path for path in paths if path.stem == name and path.suffix in SUFFIXES)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_constants(path) if path.suffix == ".py" else read_yaml(path)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        return None
