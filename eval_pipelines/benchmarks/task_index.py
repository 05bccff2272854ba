"""Names of the tasks, groups and tags in a folder of lm-eval YAML files, read without importing lm-eval.

lm-eval itself reads some 14,000 files at each start, which takes seconds; a cell needs one of them. Its own folder is
indexed once per installed version, any other folder whenever one of its files changed.

Source  lm-evaluation-harness 0.4.13, `lm_eval.tasks._index`: the same kinds, and the first of two files wins a name
"""

import importlib.util
import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from eval_pipelines.keys import digest

_FORMAT = 1
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}


class Row(NamedTuple):
    """What the index knows of one name.

    Attributes:
        kind: task, py_task, group or tag.
        file: relative to the indexed folder; None for a tag.
        members: of a tag; a group's stand in its file.
        about: output_type, dataset, num_fewshot, version, metrics, split, tags: as far as the file says.
    """

    kind: str
    file: str | None
    members: list[str]
    about: dict[str, Any]


Index = dict[str, Row]


def lm_eval_folder() -> Path:
    """Where the installed lm-eval keeps its tasks; found without importing it."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None, "lm-eval is a dependency of this project"
    assert spec.submodule_search_locations, "lm-eval is a package"
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def lm_eval_index(cache: Path) -> Index:
    """Index of the installed lm-eval, from `cache` if it is there; built and kept there otherwise (seconds, once)."""
    stamp = f"{_FORMAT}-{version('lm-eval')}"
    return _kept(cache / f"lm-eval-{version('lm-eval')}.json", stamp, lm_eval_folder())


def folder_index(folder: Path, cache: Path) -> Index:
    """Index of any other folder; read anew once a file in it is added, removed or changed."""
    files = [path for pattern in ("**/*.yaml", "**/*.py") for path in folder.glob(pattern)]
    states = [(str(path), one.st_mtime_ns, one.st_size) for path in sorted(files) for one in [path.stat()]]
    stamp = digest([_FORMAT, states], n_bytes=16)
    return _kept(cache / f"tasks-{digest(str(folder.absolute()), n_bytes=6)}.json", stamp, folder)


def _kept(path: Path, stamp: str, folder: Path) -> Index:
    try:
        kept = json.loads(path.read_bytes())
        if kept["stamp"] == stamp:
            return {name: Row(*row) for name, row in kept["rows"].items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    found = read_folder(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".tmp-{os.getpid()}")
    aside.write_text(json.dumps({"stamp": stamp, "rows": found}))
    aside.rename(path)
    return found


def read_folder(folder: Path) -> Index:
    """The index of a folder, from its files. A file that is no task (a base of others, or broken) has no row."""
    index: Index = {}
    bases: dict[Path, dict[str, Any]] = {}
    for path in _files(folder):
        try:
            written = read_yaml(path, bases)
            name, kind = _name_and_kind(written)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if name in index and index[name].kind != "tag":
            continue
        index[name] = Row(kind, path.relative_to(folder).as_posix(), [], _about(written))
        if kind != "group":
            _add_to_tags(index, name, written.get("tag"))
    return index


def _files(folder: Path) -> Iterator[Path]:
    found = (path for path in folder.glob("**/*.yaml") if not _IGNORED & {*path.parts})
    yield from sorted(found, key=lambda path: path.as_posix())


def _name_and_kind(written: dict[str, Any]) -> tuple[str, str]:
    kind = "py_task" if "class" in written else "group" if "group" in written else "task"
    name = written.get("group" if kind == "group" else "task")
    if not isinstance(name, str):
        raise ValueError("names no task")
    return name, kind


def _add_to_tags(index: Index, name: str, tags: Any) -> None:
    for tag in [tags] if isinstance(tags, str) else tags or []:
        row = index.setdefault(tag, Row("tag", None, [], {}))
        if row.kind == "tag":
            row.members.append(name)


def _about(written: dict[str, Any]) -> dict[str, Any]:
    metadata, metrics = written.get("metadata"), written.get("metric_list")
    dataset = [written[key] for key in ("dataset_path", "dataset_name") if isinstance(written.get(key), str)]
    said = {
        "output_type": written.get("output_type"),
        "dataset": " ".join(dataset),
        "num_fewshot": written.get("num_fewshot"),
        "version": metadata.get("version") if isinstance(metadata, dict) else None,
        "metrics": [one["metric"] for one in metrics if isinstance(one, dict) and isinstance(one.get("metric"), str)]
        if isinstance(metrics, list)
        else None,
        "split": written.get("test_split") or written.get("validation_split"),
        "tags": written.get("tag"),
    }
    return {key: value for key, value in said.items() if value not in (None, "", [])}


class FunctionName(str):
    """`!function module.name` of a task's file, not imported; `folder` is where its module is looked for first."""

    folder: Path


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    folder: Path

    def function_name(self, node: Any) -> FunctionName:
        name = FunctionName(self.construct_scalar(node))
        name.folder = self.folder
        return name


_Loader.add_constructor("!function", _Loader.function_name)


def read_yaml(path: Path, bases: dict[Path, dict[str, Any]] | None = None) -> dict[str, Any]:
    """A task's or group's file with what it includes; functions stay names, so that nothing of it is run.

    Args:
        bases: files read before that others include; more are added.

    Raises:
        ValueError: it holds no mapping, or includes itself. yaml.YAMLError, OSError: it cannot be read.
    """
    return _read_yaml(path, {} if bases is None else bases, ())


def _read_yaml(path: Path, bases: dict[Path, dict[str, Any]], above: tuple[Path, ...]) -> dict[str, Any]:
    if path in above:
        raise ValueError(f"{path} includes itself")
    with path.open("rb") as file:
        loader = _Loader(file)
        loader.folder = path.parent
        written = loader.get_single_data()
    if not isinstance(written, dict):
        raise ValueError(f"{path} holds no mapping")
    includes = written.pop("include", None)
    merged: dict[str, Any] = {}
    for one in includes if isinstance(includes, list) else [includes] if includes else []:
        base = Path(os.path.abspath(path.parent / one))
        if base not in bases:
            bases[base] = _read_yaml(base, bases, (*above, path))
        merged |= {key: value for key, value in bases[base].items() if key != "task_list"}
    return merged | written
