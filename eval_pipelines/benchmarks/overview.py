"""What can be told of a benchmark: from its files alone, and once it is loaded."""

from typing import Any

from eval_pipelines.benchmarks.catalog import Entry, Leaf, written
from eval_pipelines.benchmarks.checking import filter_names, metric_names
from eval_pipelines.benchmarks.harness import Benchmark
from eval_pipelines.benchmarks.own_file import read_own
from eval_pipelines.benchmarks.task_index import why_refused
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.records import Request


def static_facts(name: str, spec: BenchmarkSpec, entry: Entry, leaves: list[Leaf]) -> dict[str, Any]:
    """What its files say; nothing is imported, no data is read."""
    first = written(leaves[0].entry) | leaves[0].overrides
    refused = {leaf.entry.name: why_refused(written(leaf.entry)) for leaf in leaves[:1]}
    groups = [group for group in leaves[0].groups if group.aggregates]
    facts: dict[str, Any] = {
        "name": name,
        "task": spec.task,
        "kind": entry.kind,
        "from": f"{entry.origin}: {entry.path}" if entry.path else entry.origin,
        "in place of": f"the one in {entry.replaces}" if entry.replaces else None,
        "description": entry.about.get("description"),
        "subtasks": [leaf.entry.name for leaf in leaves] if len(leaves) > 1 else None,
        "aggregated": [_aggregate(one) for one in groups[0].aggregates] if groups else None,
        "asked": f"{first.get('output_type', 'generate_until')}, {spec.protocol}",
        "data": spec.data.in_words if spec.data else entry.about.get("dataset") or first.get("dataset_path"),
        "split": spec.split or first.get("test_split") or first.get("validation_split"),
        "num_fewshot": spec.num_fewshot if spec.num_fewshot is not None else first.get("num_fewshot"),
        "metrics": metric_names(first),
        "filters": filter_names(first),
        "task_version": (first.get("metadata") or {}).get("version"),
        "refused": None if entry.origin == "eval-pipelines" else refused[leaves[0].entry.name],
    }
    return {key: value for key, value in facts.items() if value not in (None, [], "")}


def is_local(spec: BenchmarkSpec, leaves: list[Leaf]) -> bool:
    """Whether its rows are on this machine for certain."""
    if spec.data is not None:
        return spec.data.hub is None
    return all(_has_own_rows(leaf.entry) for leaf in leaves)


def _has_own_rows(entry: Entry) -> bool:
    if entry.kind == "own" and entry.path is not None:
        return read_own(entry.path).source.hub is None
    return entry.origin == "eval-pipelines" and "custom_dataset" in written(entry)


def loaded_facts(benchmark: Benchmark) -> dict[str, Any]:
    """What only its data tells."""
    sample = next(benchmark.samples())
    requests = [one for one in benchmark.requests() if one.sample_id == sample.sample_id]
    metric, filter_name = benchmark.headline
    first = benchmark.subtasks[0]
    return {
        "samples": sum(len(subtask.task.eval_docs) for subtask in benchmark.subtasks),
        "needs": sorted(benchmark.needs),
        "headline": f"{metric},{filter_name}",
        "metrics": first.metric_names,
        "filters": first.filter_names,
        "ask_version": benchmark.ask_version,
        "score_version": benchmark.score_version,
        "parameters": requests[0].params,
        "first prompt": _prompt(requests[0]),
        "continuations": [one.continuation for one in requests] if requests[0].continuation is not None else [],
        "target": sample.target,
    }


def _prompt(request: Request) -> str:
    if request.messages:
        return "\n".join(f"[{message['role']}] {message['content']}" for message in request.messages)
    return request.prompt or ""


def _aggregate(one: Any) -> str:
    weight = "weighted by size" if one.weight_by_size else "each subtask alike"
    return f"{one.metric} ({weight})"
