"""Benchmarks from local files; the index of task names is built once, because that takes seconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.records import Failure, FailureKind, Request, Response, utc_now


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("task-index")


GSM8K_ROWS = [
    {"question": f"What is {i} plus {i}?", "answer": f"{i} + {i} = {2 * i}\n#### {2 * i}"} for i in range(1, 7)
]


@pytest.fixture
def gsm8k(tmp_path: Path, index: Path) -> Callable[..., Benchmark]:
    """Load gsm8k from rows of our own."""

    def build(rows: list[dict[str, Any]] = GSM8K_ROWS, limit: int | None = None, **fields: Any) -> Benchmark:
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GSM8K_ROWS))
        source = {"folder": tmp_path, "splits": {"test": "test.jsonl", "train": "train.jsonl"}}
        return load(
            "gsm8k", spec_of(**{"task": "gsm8k", "num_fewshot": 0, "data": source, **fields}), limit=limit, cache=index
        )

    return build  # fmt: skip


def spec_of(**fields: Any) -> BenchmarkSpec:
    return BenchmarkSpec.model_validate(fields)


def told(request: Request, **fields: Any) -> Response:
    return Response(request_digest=request.digest, n_attempts=1, latency_s=0.0, asked_at=utc_now(), **fields)


@pytest.fixture
def say() -> Callable[..., Response]:
    """A response to a request: text, log-likelihood or the kind of a failure."""

    def respond(request: Request, answer: str | float | FailureKind) -> Response:
        if isinstance(answer, FailureKind):
            return told(request, failure=Failure(kind=answer, message="no"))
        return told(request, text=answer) if isinstance(answer, str) else told(request, logprob=answer)

    return respond
