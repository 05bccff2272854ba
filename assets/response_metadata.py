"""What the metadata of `responses/<benchmark>` tells of an asking."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets import course_plot
from eval_pipelines.config.prices import in_words
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from eval_pipelines.benchmarks.harness import Benchmark
    from eval_pipelines.endpoint import Endpoint
    from eval_pipelines.evaluate import Asked
    from eval_pipelines.records import Response
    from eval_pipelines.serving.metrics import ServerSummary

_N_PREVIEW = 5


def asked_in_words(asked: "Asked") -> str:
    one, report = asked.evaluation, asked.report
    reused = f", {one.n_reused} known from earlier runs" if one.n_reused else ""
    recovered = f", {asked.n_recovered} recovered from an unfinished run" if asked.n_recovered else ""
    failed = f", {report.n_failed} failed" if report.n_failed else ""
    return f"{one.n_requests} requests: {report.n_answered} answered now{reused}{recovered}{failed} in {report.wall_s:.1f} s"


def of_asked(asked: "Asked", benchmark: "Benchmark", warehouse: WarehouseResource) -> dict[str, dg.MetadataValue]:
    one, report = asked.evaluation, asked.report
    folder = Path(warehouse.landing.folder) / "responses" / f"model={one.model_key}" / f"benchmark={one.benchmark}"
    rate = one.completion_tokens / report.wall_s if report.wall_s else 0.0
    told: dict[str, object] = {
        "n_requests": one.n_requests,
        "n_answered": one.n_answered,
        "coverage": one.n_answered / one.n_requests if one.n_requests else 0.0,
        "n_asked_now": report.n_done,
        "n_reused": one.n_reused + asked.n_recovered,
        "n_failed": report.n_failed,
        "failures_by_kind": dg.MetadataValue.json({kind.value: n for kind, n in report.failures.items()}),
        "prompt_tokens": one.prompt_tokens,
        "completion_tokens": one.completion_tokens,
        "tokens_per_s": round(rate, 1),
        "wall_s": round(report.wall_s, 2),
        "endpoint": dg.MetadataValue.url(one.endpoint) if one.endpoint else "nobody was asked",
        "server": f"{one.backend} {one.server_version or ''}".strip(),
        "fingerprint": one.fingerprint,
        "version": one.ask_version,
        "path": dg.MetadataValue.path(str(folder)),
        "preview": dg.MetadataValue.md(_preview(asked, benchmark, warehouse)),
    }
    if one.cost is not None and one.currency is not None:
        told["cost"] = in_words(one.cost, one.currency)
    if report.n_truncated:
        told["n_truncated"] = report.n_truncated
    if report.course is not None and report.course.points:
        told["in_flight"] = report.course.words
        told["in_flight_plot"] = dg.MetadataValue.md(course_plot.markdown(report.course))
    for name in (*("latency_p50_s", "latency_p95_s", "latency_p99_s"), *report.streamed):
        if (seconds := getattr(one, name)) is not None:
            told[name] = round(seconds, 4)
    if report.told:
        told["interceptors"] = dg.MetadataValue.json(dict(report.told))
    return {key: value if isinstance(value, dg.MetadataValue) else _plain(value) for key, value in told.items()}


def of_server(endpoint: "Endpoint | None", summary: "ServerSummary | None") -> dict[str, dg.MetadataValue]:
    told: dict[str, dg.MetadataValue] = {}
    if endpoint is None:
        return told
    told["endpoint_offers"] = dg.MetadataValue.text(", ".join(sorted(endpoint.offers)))
    if endpoint.lacks:
        told["endpoint_lacks"] = dg.MetadataValue.json(dict(endpoint.lacks))
    if summary is not None:
        rows = [f"| {name} | {value:.4g} |" for name, value in summary.model_dump().items() if value is not None]
        told["server_metrics"] = dg.MetadataValue.md("\n".join(["| while it was asked | |", "|---|---|", *rows]))
    if endpoint.log_path is not None:
        told["server_log"] = dg.MetadataValue.path(str(endpoint.log_path))
    if endpoint.watch is not None and endpoint.watch.n_restarts:
        told["server_restarts"] = dg.MetadataValue.int(endpoint.watch.n_restarts)
    return told


def _plain(value: object) -> dg.MetadataValue:
    if isinstance(value, float):
        return dg.MetadataValue.float(value)
    return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.text(str(value))


def _preview(asked: "Asked", benchmark: "Benchmark", warehouse: WarehouseResource) -> str:
    one = asked.evaluation
    first = list(itertools.islice(benchmark.requests(), _N_PREVIEW))
    digests = {request.digest for request in first}
    responses = warehouse.landing.responses_for(one.model_key, one.fingerprint, digests, of=one)
    lines = ["| sample | asked | answered |", "|---|---|---|"]
    for request in first:
        response = responses.get(request.digest)
        if response is None:
            continue
        question = (
            request.continuation or (request.messages[-1]["content"] if request.messages else request.prompt) or ""
        )
        lines.append(f"| {request.sample_id} | {_cell(question)} | {_cell(said(response))} |")
    return "\n".join(lines)


def said(response: "Response") -> str:
    """What came back, in a few words or many; an empty text is an answer, too."""
    if response.failure is not None:
        return response.failure.kind.value
    return response.text if response.text is not None else f"logprob {response.logprob:.2f}"


def _cell(text: str, n: int = 200) -> str:
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= n else f"…{flat[-n:]}"
