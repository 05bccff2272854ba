"""From a name of the catalogue to an lm-eval task with its data."""

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2

from eval_pipelines.benchmarks import data
from eval_pipelines.benchmarks.catalog import Leaf, written
from eval_pipelines.benchmarks.task_index import FunctionName
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import DataError

# lm-eval's own default, so that the same few-shot examples are drawn
_FEWSHOT_SEED = 1234


def prepare_library() -> None:
    """Import lm-eval, and make it quiet and quick. Again: nothing."""
    _quiet()
    _compile_templates_once()


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


def build_task(leaf: Leaf, spec: BenchmarkSpec, splits: dict[str, list[data.Row]] | None, *, benchmark: str) -> Any:
    """The lm-eval task behind a leaf, on the rows that are given or on its own data set.

    Raises:
        DataError: the data cannot be fetched, or does not fit the task.
    """
    from lm_eval.tasks._factory import TaskFactory
    from lm_eval.tasks._index import Entry, Kind

    own = leaf.entry.config
    entry = Entry(
        name=leaf.entry.name,
        kind=Kind[leaf.entry.kind.upper()],
        yaml_path=leaf.entry.path if own is None else None,
        cfg=_imported(own),
    )
    raw = {**written(leaf.entry), **leaf.overrides}
    overrides = _imported(leaf.overrides)
    if splits is not None:
        overrides |= _local(raw, spec, splits, benchmark)
    try:
        task = TaskFactory().build(entry, overrides=overrides, registry={})
    except DataError:
        raise
    except (ConnectionError, FileNotFoundError, OSError) as error:
        raise DataError(
            f"benchmarks.{benchmark}: the data set {raw.get('dataset_path')!r} of {entry.name} could not be fetched: "
            f"{type(error).__name__}: {str(error).splitlines()[0][:200]}. Offline? Give the benchmark a local `data` source."
        ) from error
    except (KeyError, ValueError, TypeError, jinja2.TemplateError) as error:
        where = "its `data`" if splits is not None else "its data set"
        has = (
            "" if splits is None else f" The rows have the columns {', '.join(sorted(next(iter(splits.values()))[0]))}."
        )
        raise DataError(
            f"benchmarks.{benchmark}: {entry.name} could not be built from {where}: {type(error).__name__}: {error}.{has} "
            f"`data.columns` can give a column another name or shape."
        ) from error
    _set_fewshot(task, raw, spec, benchmark)
    return task


def _imported(value: Any) -> Any:
    """With the functions that a file names in place of their names."""
    from lm_eval.tasks._yaml_loader import _import_func_in_yml

    if isinstance(value, FunctionName):
        return _import_func_in_yml(str(value), value.folder)
    if isinstance(value, dict):
        return {key: _imported(one) for key, one in value.items()}
    return [_imported(one) for one in value] if isinstance(value, list) else value


def _local(
    raw: Mapping[str, Any], spec: BenchmarkSpec, splits: dict[str, list[data.Row]], benchmark: str
) -> dict[str, Any]:
    """Overrides that put our rows where the task's hub data set would be."""
    assert spec.data is not None
    if spec.data.subset_column is not None:
        subset = str(raw.get("dataset_name") or raw["task"])
        splits = data.of_subset(splits, spec.data.subset_column, subset, benchmark=benchmark)
        if not any(splits.values()):
            raise DataError(f"benchmarks.{benchmark}.data: no row has {spec.data.subset_column} = {subset!r}")
    evaluated = raw.get("test_split") or raw.get("validation_split")
    if evaluated not in splits:
        raise DataError(
            f"benchmarks.{benchmark}.data.splits: {raw['task']} is evaluated on its {evaluated!r} split, "
            f"and only {', '.join(sorted(splits))} is given"
        )
    missing = ("training_split", "validation_split", "test_split", "fewshot_split")
    gone = {name: None for name in missing if raw.get(name) is not None and raw[name] not in splits}

    def build(**_: Any) -> Any:
        import datasets

        return datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})

    return {**gone, "custom_dataset": build}


def _set_fewshot(task: Any, raw: Mapping[str, Any], spec: BenchmarkSpec, benchmark: str) -> None:
    n = spec.num_fewshot if spec.num_fewshot is not None else task.config.num_fewshot or 0
    wanted = raw.get("fewshot_split") or raw.get("training_split")
    if n and spec.data is not None and not callable(wanted) and wanted is not None and wanted not in spec.data.splits:
        raise DataError(
            f"benchmarks.{benchmark}: {raw['task']} draws {n} few-shot examples from its {wanted!r} split, which "
            f"`data.splits` does not give. Add it, or set num_fewshot: 0."
        )
    task.set_config(key="num_fewshot", value=n)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)
