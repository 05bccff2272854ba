"""From a name of the catalogue to an lm-eval task with its data."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from eval_pipelines.benchmarks import data
from eval_pipelines.benchmarks.catalog import Leaf, written
from eval_pipelines.benchmarks.code_filters import check_steps
from eval_pipelines.benchmarks.odd_rows import in_words, is_of_a_row, sample_id_of
from eval_pipelines.benchmarks.own_file import GOLD, SAMPLE_ID, read_own, too_many_stops
from eval_pipelines.benchmarks.own_rows import OwnRows, check_shown
from eval_pipelines.benchmarks.own_scoring import Gold
from eval_pipelines.benchmarks.task_index import FunctionName, why_refused
from eval_pipelines.config import BenchmarkSpec, DataSource
from eval_pipelines.errors import ConfigError, DataError, EvalPipelinesError, UnsupportedError
from eval_pipelines.scoring import sandbox


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a benchmark by split, in place of the task's own data set."""

    source: DataSource
    splits: dict[str, list[data.Row]]

    @classmethod
    def read(cls, source: DataSource, *, benchmark: str) -> "Rows":
        """Raises DataError where they cannot be read."""
        return cls(source, data.read_splits(source, benchmark=benchmark))


def prepare_library() -> None:
    """Import lm-eval, add our filters to it, and make it quiet and quick. Again: nothing."""
    _quiet()
    _compile_templates_once()
    import eval_pipelines.benchmarks.own_filters  # noqa: F401


def _quiet() -> None:
    # its progress bars and its warnings about defaults would drown the run's own log
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    import datasets
    import lm_eval.api.task

    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = lambda rows, **_: rows


@lru_cache
def _compile_templates_once() -> None:
    # it compiles a task's templates anew for every sample: four fifths of what loading a benchmark took
    import lm_eval.utils

    lm_eval.utils.env.from_string = lru_cache(maxsize=1024)(lm_eval.utils.env.from_string)


def build_task(leaf: Leaf, spec: BenchmarkSpec, rows: Rows | None, *, benchmark: str) -> Any:
    """The lm-eval task behind a leaf, on the rows that are given or on its own data set.

    Raises:
        UnsupportedError: it needs what is never done here. ConfigError: what it imports is not installed.
        DataError: the data cannot be fetched, or does not fit the task.
        NoSandboxError: it runs model-written code, and there is no sandbox here.
    """
    raw: dict[str, Any] = {**written(leaf.entry), **leaf.overrides}
    _refuse(leaf, raw)
    if leaf.entry.kind == "own" and rows is None:
        assert leaf.entry.path is not None
        rows = Rows.read(read_own(leaf.entry.path).source, benchmark=benchmark)
    overrides = leaf.overrides | _of_spec(raw, spec)
    raw |= overrides
    if leaf.entry.kind == "own" and rows is not None:
        _check_own(raw, spec, rows, benchmark)
    try:
        task = _build(leaf, raw, overrides, rows, benchmark)
    except EvalPipelinesError:
        raise
    except ImportError as error:
        raise ConfigError(_not_installed(leaf, benchmark, error)) from error
    except OSError as error:
        if rows is not None:
            raise DataError(_does_not_fit(leaf, rows, benchmark, error)) from error
        raise DataError(
            f"benchmarks.{benchmark}: the data set {raw.get('dataset_path')!r} of {leaf.entry.name} could not be "
            f"fetched: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}. "
            f"Offline? Give the benchmark a local `data` source."
        ) from error
    except Exception as error:
        # minerva_math asserts which release of antlr is there
        if isinstance(error, AssertionError) and "pip install" in str(error):
            raise ConfigError(_not_installed(leaf, benchmark, error)) from error
        raise DataError(_does_not_fit(leaf, rows, benchmark, error)) from error
    check_steps(task)
    _set_fewshot(task, raw, spec, rows, benchmark)
    return task


def _check_own(raw: dict[str, Any], spec: BenchmarkSpec, rows: Rows, benchmark: str) -> None:
    if wrong := too_many_stops(raw, spec):
        raise ConfigError(f"benchmarks.{benchmark}.protocol: {wrong}")
    n = spec.num_fewshot if spec.num_fewshot is not None else raw["num_fewshot"]
    rendered = {raw["test_split"], *([raw["fewshot_split"]] if n else [])}
    target = raw["doc_to_target"]
    check_shown(
        {"prompt": raw["doc_to_text"], "target": target.target if isinstance(target, Gold) else target},
        {split: found for split, found in rows.splits.items() if split in rendered},
        data.places_of(rows.source, benchmark=benchmark),
        benchmark=benchmark,
    )


def _not_installed(leaf: Leaf, benchmark: str, error: Exception) -> str:
    return (
        f"benchmarks.{benchmark}: {leaf.entry.name} needs what is not installed here: {error}. This project's extras "
        f"`math` and `ifeval` bring what such tasks need (`pip install 'eval-pipelines[math]'`), lm-eval's own extras "
        f"what its others do."
    )


def _refuse(leaf: Leaf, raw: dict[str, Any]) -> None:
    if why := why_refused(raw):
        raise UnsupportedError(f"{leaf.entry.name} is not asked: {why}")
    if (raw.get("metadata") or {}).get("runs_code"):
        sandbox.require()


def _build(leaf: Leaf, raw: dict[str, Any], overrides: dict[str, Any], rows: Rows | None, benchmark: str) -> Any:
    from lm_eval.tasks._factory import TaskFactory
    from lm_eval.tasks._index import Entry, Kind

    is_class = leaf.entry.kind == "py_task"
    in_memory = leaf.entry.config if leaf.entry.kind != "own" else written(leaf.entry)
    entry = Entry(
        name=leaf.entry.name,
        kind=Kind.PY_TASK if is_class else Kind.TASK,
        yaml_path=leaf.entry.path if in_memory is None else None,
        cfg=_imported(in_memory),
    )
    given = _imported(overrides)
    if rows is not None:
        load, gone = _in_place_of_the_hub(raw, rows, benchmark, leaf.entry.kind)
        given |= {**gone, "custom_dataset": load}
        if is_class:
            given["class"] = _fed_by(load, _imported(raw["class"]))
    task = TaskFactory().build(entry, overrides=given, registry={})
    if is_class and not getattr(task, "_metric_fn_list", None):
        task._metric_fn_list = dict.fromkeys(task.aggregation())
    return task


def _fed_by(load: Callable[..., Any], cls: Any) -> Any:
    """A task class that takes our rows: such a class names its data set in its code."""

    def download(self: Any, *_: Any, **__: Any) -> None:
        self.dataset = load()

    return type(cls.__name__, (cls,), {"download": download, "__module__": cls.__module__})


def _of_spec(raw: dict[str, Any], spec: BenchmarkSpec) -> dict[str, Any]:
    """What evals.yaml says in place of the task."""
    given: dict[str, Any] = {}
    if spec.split is not None:
        given["test_split"] = spec.split
    if spec.fewshot_split is not None:
        given["fewshot_split"] = spec.fewshot_split
    drawn = {"split": spec.fewshot_split, "sampler": spec.fewshot_sampler}
    if any(drawn.values()):
        own = raw.get("fewshot_config")
        given["fewshot_config"] = (own if isinstance(own, dict) else {}) | {k: v for k, v in drawn.items() if v}
    return given


def _does_not_fit(leaf: Leaf, rows: Rows | None, benchmark: str, error: Exception) -> str:
    where = "its `data`" if rows is not None else "its data set"
    first = next((one[0] for one in rows.splits.values() if one), {}) if rows is not None else {}
    has = f" The rows have the columns {', '.join(sorted({*first} - {SAMPLE_ID, GOLD}))}." if first else ""
    if leaf.entry.kind == "own" and is_of_a_row(error):
        # lm-eval tries the first row before there is a task
        sample_id = sample_id_of(leaf.entry.name, first, 0)
        return f"benchmarks.{benchmark}: {sample_id} cannot be made of its row: {in_words(error)}.{has}"
    return (
        f"benchmarks.{benchmark}: {leaf.entry.name} could not be built from {where}: {in_words(error)}.{has} "
        f"`data.columns` can give a column another name or shape."
    )


def _imported(value: Any) -> Any:
    """With the functions that a file names in place of their names."""
    from lm_eval.tasks._yaml_loader import _import_func_in_yml

    if isinstance(value, FunctionName):
        return _import_func_in_yml(str(value), value.folder)
    if isinstance(value, dict):
        return {key: _imported(one) for key, one in value.items()}
    return [_imported(one) for one in value] if isinstance(value, list) else value


def _in_place_of_the_hub(
    raw: dict[str, Any], rows: Rows, benchmark: str, kind: str
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Our rows as the task's data set, and the splits it cannot have then."""
    splits, column = rows.splits, rows.source.subset_column
    if column is not None:
        subset = str(raw.get("dataset_name") or raw["task"])
        splits = data.of_subset(splits, column, subset, benchmark=benchmark)
        if not any(splits.values()):
            raise DataError(f"benchmarks.{benchmark}.data: no row has {column} = {subset!r}")
    evaluated = raw.get("test_split") or raw.get("validation_split")
    if evaluated not in splits and kind != "py_task":
        raise DataError(
            f"benchmarks.{benchmark}.data.splits: {raw['task']} is evaluated on its {evaluated!r} split, "
            f"and only {', '.join(sorted(splits))} is given"
        )
    named = ("training_split", "validation_split", "test_split", "fewshot_split")
    gone = {name: None for name in named if raw.get(name) is not None and raw[name] not in splits}

    def load(**_: Any) -> Any:
        if kind == "own":
            return {name: OwnRows(found) for name, found in splits.items()}
        import datasets

        places = data.places_of(rows.source, benchmark=benchmark)
        return datasets.DatasetDict({name: data.as_table(found, places[name]) for name, found in splits.items()})

    return load, gone


def _set_fewshot(task: Any, raw: dict[str, Any], spec: BenchmarkSpec, rows: Rows | None, benchmark: str) -> None:
    n = spec.num_fewshot if spec.num_fewshot is not None else task.config.num_fewshot or 0
    wanted = raw.get("fewshot_split") or raw.get("training_split")
    drawn = task.config.fewshot_config
    has_own = drawn is not None and drawn.samples is not None and drawn.split is None
    if n and rows is not None and not has_own and isinstance(wanted, str) and wanted not in rows.splits:
        raise DataError(
            f"benchmarks.{benchmark}: {raw['task']} draws {n} few-shot examples from its {wanted!r} split, which "
            f"`data.splits` does not give. Add it, or set num_fewshot: 0."
        )
    task.set_config(key="num_fewshot", value=n)
    task.set_fewshot_seed(seed=spec.fewshot_seed)
