"""Names of the tasks, groups and tags in a folder of lm-eval YAML files, read without importing lm-eval.

lm-eval itself reads some 14,000 files at each start, which takes seconds; a cell needs one of them. Its own folder is
indexed once per installed version, any other folder whenever one of its files changed.

Source  lm-evaluation-harness 0.4.13, `lm_eval.tasks._index`: the same kinds, and the first of two files wins a name
"""

import ast
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from eval_pipelines.keys import digest

# raised when rows hold something else
_FORMAT = 2
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}


class Row(NamedTuple):
    """What the index knows of one name.

    Attributes:
        kind: task, py_task, group, tag, own (a benchmark in one file, see `own_file`), or broken: a file that cannot
            be read, by its stem.
        file: relative to the indexed folder; None for a tag.
        members: of a tag; a group's stand in its file.
        about: output_type, dataset, num_fewshot, version, metrics, split, tags, description, as far as the file says;
            `refused` is why it is never asked.
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
    # an editor's lock is a link to nowhere
    files = [path for pattern in ("**/*.yaml", "**/*.py") for path in folder.glob(pattern) if path.exists()]
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
    aside = path.with_suffix(f".tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"stamp": stamp, "rows": found}))
        aside.rename(path)
    except OSError:  # where nothing can be kept it is read each time
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return found


def read_folder(folder: Path) -> Index:
    """The index of a folder, from its files. A file that is no task, such as a base of others, has no row."""
    index: Index = {}
    bases: dict[Path, dict[str, Any]] = {}
    for path in _files(folder):
        try:
            written = read_yaml(path, bases) if path.suffix == ".yaml" else read_constants(path)
            about = _about(written)
        except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
            index.setdefault(path.stem, Row("broken", str(path), [], {"error": " ".join(str(error).split())}))
            continue
        name, kind = name_and_kind(path, written)
        if name is None or (name in index and index[name].kind not in ("tag", "broken")):
            continue
        index[name] = Row(kind, path.relative_to(folder).as_posix(), [], about)
        if kind != "group":
            _add_to_tags(index, name, written.get("tag"))
    return index


def _files(folder: Path) -> Iterator[Path]:
    # lm-eval's own Python files hold no benchmarks, and there are many
    patterns = ("**/*.yaml",) if folder == lm_eval_folder() else ("**/*.yaml", "*.py")
    found = (path for pattern in patterns for path in folder.glob(pattern) if not _IGNORED & {*path.parts})
    yield from sorted((path for path in found if path.exists()), key=lambda path: path.as_posix())


def name_and_kind(path: Path, written: dict[str, Any]) -> tuple[str | None, str]:
    """What a file that says `written` is the benchmark of, None if of nothing; and the kind of its row."""
    if "prompt" in written and ("score" in written if path.suffix == ".py" else not {"task", "group"} & {*written}):
        return path.stem, "own"
    kind = "py_task" if "class" in written else "group" if "group" in written else "task"
    name = written.get("group" if kind == "group" else "task")
    # without a name it is a base of others
    return name if isinstance(name, str) else None, kind


def _add_to_tags(index: Index, name: str, tags: Any) -> None:
    for tag in [tags] if isinstance(tags, str) else tags if isinstance(tags, list) else []:
        if not isinstance(tag, str):  # told where the file itself is read
            continue
        row = index.setdefault(tag, Row("tag", None, [], {}))
        if row.kind == "tag":
            row.members.append(name)


def _about(written: dict[str, Any]) -> dict[str, Any]:
    metadata, metrics, data = written.get("metadata"), written.get("metric_list"), written.get("data")
    dataset = [written[key] for key in ("dataset_path", "dataset_name") if isinstance(written.get(key), str)]
    said = {
        "output_type": written.get("output_type"),
        "dataset": " ".join(dataset) or (data if isinstance(data, str) else None),
        "num_fewshot": written.get("num_fewshot"),
        "version": metadata.get("version") if isinstance(metadata, dict) else written.get("version"),
        "metrics": [one["metric"] for one in metrics if isinstance(one, dict) and isinstance(one.get("metric"), str)]
        if isinstance(metrics, list)
        else None,
        "split": written.get("test_split") or written.get("validation_split"),
        "tags": written.get("tag"),
        "description": written.get("description") if "prompt" in written else None,
        "refused": why_refused(written),
    }
    if "prompt" in written:
        said |= _about_own(written)
    return {key: _plain(value) for key, value in said.items() if value not in (None, "", [])}


def _plain(value: Any) -> Any:
    """As JSON keeps it and people read it, whatever YAML makes of it, such as dates."""
    if isinstance(value, list):
        return [one for one in value if isinstance(one, str)]
    return value if isinstance(value, str | int | float) else str(value)


def _about_own(written: dict[str, Any]) -> dict[str, Any]:
    if "score" in written:
        return {"output_type": "generate_until", "metrics": ["score"]}
    metric = written.get("metric", "exact_match")
    names = [
        next(iter(one), "") if isinstance(one, dict) else one
        for one in (metric if isinstance(metric, list) else [metric])
    ]
    kind = "multiple_choice" if "choice" in names else "generate_until"
    return {"output_type": kind, "metrics": [str(name) for name in names], "num_fewshot": written.get("num_fewshot", 0)}


def read_constants(path: Path) -> dict[str, Any]:
    """What a Python file defines at its top, in lower case, with the values that are plain; nothing of it is run.

    Raises:
        ValueError, OSError: it cannot be read, or is no Python.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8-sig"))
    except SyntaxError as error:
        raise ValueError(str(error)) from None
    found: dict[str, Any] = {node.name: None for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            found[node.targets[0].id.lower()] = value
    return {"description": ast.get_docstring(tree) or ""} | found


class FunctionName(str):
    """`!function module.name` of a task's file, not imported; `folder` is where its module is looked for first."""

    folder: Path


def why_refused(written: dict[str, Any]) -> str | None:
    """Why a task is never asked, whatever its data; None if it is."""
    if written.get("doc_to_image") or written.get("doc_to_audio"):
        return "it shows pictures or plays sounds, and requests carry text only"
    metrics = [str(one.get("metric")) for one in written.get("metric_list") or [] if isinstance(one, dict)]
    if written.get("unsafe_code") or any(name.endswith("code_eval") for name in metrics):
        return (
            "its scorer runs what the model wrote outside any sandbox. `humaneval`, `humaneval_instruct`, `mbpp` and "
            "`mbpp_instruct` run it in one (with `repeats` for several answers); docs/code-and-instructions.md says how "
            "another task does"
        )
    return None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    folder: Path

    def function_name(self, node: Any) -> FunctionName:
        name = FunctionName(self.construct_scalar(node))
        name.folder = self.folder
        return name


_Loader.add_constructor("!function", _Loader.function_name)


# by key, what its value is, or a list of; and whether it may be one alone
_SHAPES: dict[str, tuple[tuple[type, ...], bool, str]] = {
    "include": ((str,), True, "a file's name, or a list of them"),
    "metric_list": ((dict,), False, "a list such as [{metric: exact_match}]"),
    "filter_list": ((dict,), False, "a list such as [{name: none, filter: [{function: take_first}]}]"),
    "aggregate_metric_list": ((dict,), True, "a list such as [{metric: acc}]"),
    "task": ((str, dict), True, "a name, or a group's list of them"),
}


def _check_shapes(written: dict[str, Any]) -> None:
    for key, (kinds, is_one, told) in _SHAPES.items():
        value = written.get(key)
        of = value if isinstance(value, list) else [value] if is_one and value else []
        if value and (not of or not all(isinstance(one, kinds) for one in of)):
            raise ValueError(f"its `{key}` must be {told}, not {value!r:.80}")
    if not isinstance(written.get("metadata") or {}, dict):
        raise ValueError(f"its `metadata` must be a mapping such as {{version: 1}}, not {written['metadata']!r:.80}")


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
    _check_shapes(written)
    includes = written.pop("include", None)
    merged: dict[str, Any] = {}
    for one in includes if isinstance(includes, list) else [includes] if includes else []:
        base = Path(os.path.abspath(path.parent / one))
        if base not in bases:
            bases[base] = _read_yaml(base, bases, (*above, path))
        merged |= {key: value for key, value in bases[base].items() if key != "task_list"}
    return merged | written
