"""Small worlds for the warehouse tests: evaluations, answers and gradings with everything else filled in."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from eval_pipelines.keys import ModelKey, digest
from eval_pipelines.records import Evaluation, Failure, FailureKind, Metric, Request, Response, Sample, Score
from eval_pipelines.warehouse.landing import Landing

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """So many minutes after noon."""
    return NOON + timedelta(minutes=minutes)


def evaluation(
    model: str = "tiny@step-100", benchmark: str = "gsm8k", run_id: str = "run1", **fields: Any
) -> Evaluation:
    key = ModelKey.parse(model)
    values: dict[str, Any] = {
        "evaluation_id": digest([model, benchmark, fields.get("ask_version"), fields.get("fingerprint")], n_bytes=6),
        "run_id": run_id,
        "model_key": model,
        "family": key.family,
        "revision": key.revision,
        "step": key.step,
        "fingerprint": f"bytes-of-{model}",
        "benchmark": benchmark,
        "ask_version": "1.0-aaaa",
        "parameters": "{}",
        "endpoint": "http://127.0.0.1:8000/v1",
        "backend": "vllm",
        "n_samples": 4,
        "n_requests": 4,
        "n_answered": 4,
        "n_reused": 0,
        "n_failed": 0,
        "failures": "{}",
        "is_within_budget": True,
        "wall_s": 1.5,
        "project_version": "0.1.0",
        "recorded_at": NOON,
    }
    return Evaluation(**(values | fields))


def samples(n: int = 4) -> list[Sample]:
    return [
        Sample(sample_id=f"main/{i}", subtask="main", question=f"What is {i}?", target=str(i), n_requests=1)
        for i in range(n)
    ]


def requests(n: int = 4, salt: str = "") -> list[Request]:
    return [
        Request(sample_id=f"main/{i}", subtask="main", operation="completion", prompt=f"{salt}What is {i}?")
        for i in range(n)
    ]


def answer(request: Request, text: str | None = None, *, minute: float = 0) -> Response:
    return Response(
        request_digest=request.digest,
        text=f"It is {request.sample_id}." if text is None else text,
        n_attempts=1,
        latency_s=0.25,
        asked_at=at(minute),
    )


def failure(request: Request, kind: FailureKind = FailureKind.OVERLOADED, *, minute: float = 0) -> Response:
    return Response(
        request_digest=request.digest,
        failure=Failure(kind=kind, message="come back later", http_status=503),
        n_attempts=3,
        latency_s=0.5,
        asked_at=at(minute),
    )


def metric(value: float | None, *, n: int = 4, n_asked: int = 4, **fields: Any) -> Metric:
    return Metric(
        **({"subtask": "", "metric": "exact_match", "filter": "strict", "value": value, "n": n, "n_asked": n_asked,
            "is_headline": True} | fields)
    )  # fmt: skip


def scores(values: Sequence[float | None]) -> list[Score]:
    return [
        Score(
            sample_id=f"main/{i}",
            subtask="main",
            metric="exact_match",
            filter="strict",
            value=value,
            ungraded_reason=None if value is not None else "no answer",
        )
        for i, value in enumerate(values)
    ]


def land(
    root: Path,
    what: Evaluation,
    values: Sequence[float | None] = (1.0, 1.0, 0.0, 0.0),
    *,
    score_version: str = "s1",
    score_run: str = "grade1",
    minute: float | None = None,
    metrics: Iterable[Metric] | None = None,
    pairs: Iterable[tuple[Request, Response]] | None = None,
) -> Evaluation:
    """Land one whole evaluation: samples, answers, the evaluation, scores, metrics."""
    landing = Landing(root)
    landing.land_samples(what.benchmark, what.ask_version, samples(len(values)))
    asked = requests(len(values)) if pairs is None else []
    landing.land_responses(what, [(request, answer(request)) for request in asked] if pairs is None else pairs)
    landing.land_evaluation(what)
    grade(root, what, values, score_version=score_version, score_run=score_run, minute=minute, metrics=metrics)
    return what


def grade(
    root: Path,
    what: Evaluation,
    values: Sequence[float | None] = (1.0, 1.0, 0.0, 0.0),
    *,
    score_version: str = "s1",
    score_run: str = "grade1",
    minute: float | None = None,
    metrics: Iterable[Metric] | None = None,
    judged_by: str | None = None,
    graded_as: str | None = None,
) -> Path:
    """Land one grading of an evaluation; `minute` is when, one minute after the asking unless said."""
    graded = [value for value in values if value is not None]
    mean = sum(graded) / len(graded) if graded else None
    return Landing(root).land_scores(
        what,
        scores(values),
        [metric(mean, n=len(graded), n_asked=len(values))] if metrics is None else metrics,
        score_version=score_version,
        run_id=score_run,
        recorded_at=what.recorded_at + timedelta(minutes=1) if minute is None else at(minute),
        judged_by=judged_by,
        graded_as=graded_as,
    )
