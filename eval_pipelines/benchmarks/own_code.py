"""Python that stands beside a task's YAML, as part of its versions: lm-eval names the functions, this reads their files."""

import ast
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from eval_pipelines.benchmarks.catalog import OWN_TASKS
from eval_pipelines.benchmarks.reach import reached
from eval_pipelines.benchmarks.task_index import lm_eval_folder
from eval_pipelines.keys import digest


def code_of(values: Iterable[Any]) -> list[list[str]]:
    """(file name, digest) of each file outside lm-eval and this project that defines a function in `values`, and of what it imports
    from its own folder; sorted.

    Args:
        values: of a task's configuration, nested as in its YAML.
    """
    files: set[Path] = set()
    for function in _functions(values):
        source = _source_of(function)
        if source is not None and not _has_a_version(source):
            found: set[Path] = set()
            _follow(source, found, getattr(function, "reached_from", ()))
            # whose `repr` names all that its own file does is in the configuration as that
            files |= found - {source} if getattr(function, "is_told_by_repr", False) else found
    return sorted([path.name, digest([path.read_text(encoding="utf-8")], n_bytes=16)] for path in files)


def _functions(values: Any) -> Iterator[Any]:
    if callable(values):
        yield values
    elif isinstance(values, dict):
        yield from _functions(list(values.values()))
    elif isinstance(values, str | bytes):
        return
    elif isinstance(values, Iterable):
        for value in values:
            yield from _functions(value)


def _source_of(function: Any) -> Path | None:
    # a partial, or an object around a function
    while inner := getattr(function, "func", None) or getattr(function, "function", None):
        function = inner
    try:
        found = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        try:
            found = inspect.getsourcefile(type(function))
        except TypeError:
            return None
    path = None if found is None else Path(found).resolve()
    return path if path is not None and path.is_file() else None


def _follow(path: Path, files: set[Path], roots: tuple[str, ...] = ()) -> None:
    if path in files:
        return
    files.add(path)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8-sig"))
    except (SyntaxError, ValueError):
        return
    for name in _imported(reached(tree, roots) if roots else tree):
        beside = path.parent / name.replace(".", "/")
        for candidate in (beside.with_suffix(".py"), beside / "__init__.py"):
            if name and candidate.is_file():
                _follow(candidate.resolve(), files)


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= 1:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" if node.module else alias.name for alias in node.names)


def _has_a_version(path: Path) -> bool:
    """Whether it is lm-eval's, or this project's own machinery and no task of it."""
    package = Path(__file__).parents[1]
    return path.is_relative_to(_lm_eval()) or (path.is_relative_to(package) and not path.is_relative_to(OWN_TASKS))


def _lm_eval() -> Path:
    return lm_eval_folder().parent.resolve()
