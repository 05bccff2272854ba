"""What the metadata of an asking tells."""

from typing import Any

import pytest

from assets.response_metadata import said
from eval_pipelines.records import Failure, FailureKind, Response, utc_now

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": "four"}, "four"),
        ({"text": ""}, ""),
        ({"logprob": -1.25}, "logprob -1.25"),
        ({"failure": Failure(kind=FailureKind.TIMEOUT, message="late")}, "timeout"),
    ],
    ids=["a text", "an empty text", "a log-likelihood", "a failure"],
)
def test_whatever_came_back_can_be_shown(fields: dict[str, Any], words: str) -> None:
    assert said(Response(request_digest="d", n_attempts=1, latency_s=0, asked_at=utc_now(), **fields)) == words
