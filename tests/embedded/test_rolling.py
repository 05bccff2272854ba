"""Log-likelihoods of whole documents by a real model; the oracle is lm-eval's own client at the same server."""

import math
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.client import rolling
from eval_pipelines.client.dialects import as_sent, openai_completions
from eval_pipelines.client.failures import NoAnswer, failure
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import FailureKind, Request, Response
from eval_pipelines.serving.ready import seen_to_work
from tests.client.wire import asked

from .conftest import KEY, NAME

pytestmark = pytest.mark.slow

SHORT = "The capital of France is Paris. Grüße aus Köln, 東京は日本の首都です 🙂."
LONG = " ".join(f"In the year {year} the harvest of {year % 7} valleys was good." for year in range(1200, 1218))

ROOM = 128


@pytest.fixture
async def endpoint(server_url: str) -> Endpoint:
    """Probed as a lease does it: the server tells what begins texts."""
    headers = {"authorization": f"Bearer {KEY}"}
    endpoint = Endpoint(f"{server_url}/v1", NAME, "embedded", headers=headers, request_timeout_s=120)
    return await seen_to_work(endpoint, ("echo_logprobs", "start_logprobs"), where="the server")


def document(text: str) -> Request:
    return Request(sample_id=f"d/{text[:9]}", subtask="d", operation="loglikelihood_rolling", continuation=text)


def likelihood(context: str, continuation: str) -> Request:
    return Request(
        sample_id=f"l/{context}", subtask="l", operation="loglikelihood", prompt=context, continuation=continuation
    )


async def logprobs(endpoint: Endpoint, folder: Path, requests: list[Request]) -> list[float]:
    _, found = await asked(endpoint, folder, requests)
    return [_logprob(one) for one in found]


def _logprob(response: Response) -> float:
    assert response.logprob is not None, response.failure
    return response.logprob


async def test_documents_agree_with_lm_evals_own_client_in_one_request_and_in_windows(
    endpoint: Endpoint, server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tenacity", reason="lm-eval[api] is not installed")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    model = LocalCompletionsAPI(model=NAME, base_url=f"{server_url}/v1/completions", max_length=ROOM)
    documents = [Instance("loglikelihood_rolling", {}, (one,), 0) for one in (SHORT, LONG)]
    (alone, _), *theirs = (
        *model.loglikelihood([Instance("loglikelihood", {}, ("", "Paris is a city"), 0)]),
        *model.loglikelihood_rolling(documents, disable_tqdm=True),
    )
    ours = await logprobs(endpoint, tmp_path, [likelihood("", "Paris is a city"), document(SHORT)])
    assert [*ours, await in_windows(endpoint, LONG, monkeypatch)] == pytest.approx([alone, *theirs], abs=0.01)


async def in_windows(endpoint: Endpoint, text: str, monkeypatch: pytest.MonkeyPatch) -> float:
    """As if the server's context held but `ROOM` tokens: a document beyond its own takes a minute."""
    tokens_of = rolling._tokens

    async def in_less_room(*args: Any, **options: Any) -> tuple[list[int], int]:
        return (await tokens_of(*args, **options))[0], ROOM

    monkeypatch.setattr(rolling, "_tokens", in_less_room)
    sent = as_sent(document(text), endpoint)
    too_long = NoAnswer(failure(FailureKind.CONTEXT_LENGTH, "too long"))
    async with open_client(endpoint) as client:
        told = await rolling.told(client, endpoint.url, NAME, "/completions", openai_completions, sent, too_long)
    assert told["prompt_tokens"] > 2 * (ROOM - 1)
    return float(told["logprob"])


async def test_a_document_is_as_likely_as_its_words_one_after_the_other(endpoint: Endpoint, tmp_path: Path) -> None:
    words = ["The capital", " of France", " is Paris", ", of course", "."]
    parts = [likelihood(f"{endpoint.text_start}{''.join(words[:i])}", word) for i, word in enumerate(words)]
    whole, *each = await logprobs(endpoint, tmp_path, [document("".join(words)), *parts])
    assert whole == pytest.approx(math.fsum(each), abs=0.01)
