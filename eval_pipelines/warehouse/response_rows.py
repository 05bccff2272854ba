"""Responses as rows of the landing, and the one row that counts for a request."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from eval_pipelines.errors import WarehouseError
from eval_pipelines.records import Evaluation, Failure, Place, Request, Response
from eval_pipelines.warehouse.shapes import arrow_schema

Row = dict[str, Any]
TIME = arrow_schema("responses").field("asked_at").type
COLUMNS = [
    "evaluation_id",
    "run_id",
    "request_digest",
    "text",
    "reasoning",
    "logprob",
    "is_greedy",
    "failure_kind",
    "failure_message",
    "http_status",
    "finish_reason",
    "n_attempts",
    "latency_s",
    "ttft_s",
    "inter_token_s",
    "prompt_tokens",
    "completion_tokens",
    "cached_prompt_tokens",
    "asked_at",
]


def row_of(evaluation: Evaluation, request: Request | Place, response: Response) -> Row:
    """What is landed of one response. Raises WarehouseError if it belongs to another request."""
    if isinstance(request, Request) and response.request_digest != request.digest:
        raise WarehouseError(
            f"the response {response.request_digest} was handed in for request {request.digest} "
            f"of sample {request.sample_id!r}: it would be found under the wrong question."
        )
    failure = response.failure
    return {
        **{name: getattr(evaluation, name) for name in ("evaluation_id", "run_id", "model_key", "fingerprint")},
        "benchmark": evaluation.benchmark,
        "ask_version": evaluation.ask_version,
        **{name: getattr(request, name) for name in ("sample_id", "subtask", "part", "repeat", "operation")},
        **response.model_dump(exclude={"failure"}),
        "failure_kind": failure.kind.value if failure else None,
        "failure_message": failure.message if failure else None,
        "http_status": failure.http_status if failure else None,
    }


def _response(row: Row) -> Response:
    kind, message, status = row.pop("failure_kind"), row.pop("failure_message"), row.pop("http_status")
    failure = Failure(kind=kind, message=message or "", http_status=status) if kind else None
    return Response(failure=failure, **row)


def newest(rows: Iterable[Row], of: Evaluation | None) -> dict[str, Response]:
    """One response per request: an answer, or what this evaluation came to, before a failure; then the newest."""
    own = (of.evaluation_id, of.run_id) if of else None
    best: dict[str, tuple[tuple[bool, datetime], Row]] = {}
    for row in rows:
        is_own = (row.pop("evaluation_id"), row.pop("run_id")) == own
        worth = (is_own or row["failure_kind"] is None, row["asked_at"])
        other = best.get(row["request_digest"])
        if other is None or worth > other[0]:
            best[row["request_digest"]] = worth, row
    return {request_digest: _response(row) for request_digest, (_, row) in best.items()}
