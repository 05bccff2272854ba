"""What of a benchmark's entry in evals.yaml is wrong, as far as files tell: no lm-eval is imported, no data is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval_pipelines.benchmarks.catalog import Catalog, Leaf, open_catalog, written
from eval_pipelines.benchmarks.data import missing_files
from eval_pipelines.benchmarks.own_file import read_own, too_many_stops
from eval_pipelines.benchmarks.task_index import why_refused
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.config.judges import needs_reference
from eval_pipelines.errors import ConfigError


def mistakes(name: str, spec: BenchmarkSpec, *, cache: Path) -> list[str]:
    """Tasks that do not exist or are never asked, files that are not there, headlines that the task does not give."""
    try:
        return list(_mistakes(name, spec, open_catalog(cache, include=spec.include)))
    except ConfigError as error:
        return [f"benchmarks.{name}.task: {error}"]


def _mistakes(name: str, spec: BenchmarkSpec, catalog: Catalog) -> Iterator[str]:
    leaves = catalog.leaves(spec.task)
    if not leaves:
        yield f"benchmarks.{name}.task: {spec.task!r} holds no tasks"
        return
    first = {**written(leaves[0].entry), **leaves[0].overrides}
    for leaf in leaves:
        said = {**written(leaf.entry), **leaf.overrides}
        if leaf.entry.origin != "eval-pipelines" and (why := why_refused(said)):
            yield f"benchmarks.{name}.task: {leaf.entry.name} is not asked: {why}"
            break
    if spec.protocol == "chat" and first.get("output_type") not in (None, "generate_until"):
        yield (
            f"benchmarks.{name}.protocol: {leaves[0].entry.name} compares log-likelihoods, which chat endpoints do "
            f"not give: leave it at completions"
        )
    for leaf in leaves:
        if leaf.entry.kind == "own" and (wrong := too_many_stops({**written(leaf.entry), **leaf.overrides}, spec)):
            yield f"benchmarks.{name}.protocol: {wrong}"
    yield from _of_data(name, spec, leaves)
    yield from _of_judge(name, spec, leaves)
    yield from _of_headline(name, spec, leaves[0], first)


def _of_data(name: str, spec: BenchmarkSpec, leaves: list[Leaf]) -> Iterator[str]:
    if spec.data is not None:
        yield from missing_files(spec.data, benchmark=name)
        return
    for leaf in leaves:
        if leaf.entry.kind == "own" and leaf.entry.path is not None:
            yield from missing_files(read_own(leaf.entry.path).source, benchmark=name)


def _of_judge(name: str, spec: BenchmarkSpec, leaves: list[Leaf]) -> Iterator[str]:
    if spec.judge is None or not needs_reference(spec.judge.rules.prompt):
        return
    for leaf in leaves:
        if leaf.entry.kind == "own" and leaf.entry.path is not None and not read_own(leaf.entry.path).said.target:
            yield lacks_reference(name, f"{leaf.entry.path} has no `target`")


def lacks_reference(name: str, what: str) -> str:
    """That judges would be shown an empty reference."""
    return (
        f"benchmarks.{name}.judge: its prompt shows the `reference`, and {what}: give it one, or take a prompt that does "
        f"without, such as `template: rubric_1_10`, or one with {{% if reference %}}"
    )


def _of_headline(name: str, spec: BenchmarkSpec, leaf: Leaf, said: dict[str, Any]) -> Iterator[str]:
    metrics, filters = metric_names(said), filter_names(said)
    # what a judge gives, and what a class or lm-eval's defaults give, stands in no file
    if spec.headline is None or spec.judge is not None or leaf.entry.kind == "py_task" or not metrics:
        return
    metric, _, filter_name = spec.headline.partition(",")
    if metric not in metrics or filter_name not in ("", *filters):
        offered = ", ".join(f"{one},{other}" for one in metrics for other in filters)
        yield f"benchmarks.{name}.headline: {spec.headline!r} is not among {offered}"


def metric_names(said: dict[str, Any]) -> list[str]:
    """As the task's file lists them; a function's is its own."""
    metrics = [one.get("metric") for one in said.get("metric_list") or [] if isinstance(one, dict)]
    return [str(getattr(one, "__name__", one)).rpartition(".")[2] for one in metrics]


def filter_names(said: dict[str, Any]) -> list[str]:
    """As the task's file lists them; `none` where it lists none."""
    return [str(one["name"]) for one in said.get("filter_list") or []] or ["none"]


def check_benchmarks(benchmarks: dict[str, BenchmarkSpec], *, cache: Path) -> None:
    """Raise ConfigError with every mistake that files tell."""
    found = [told for name, spec in benchmarks.items() for told in mistakes(name, spec, cache=cache)]
    if found:
        raise ConfigError("\n".join(found))
