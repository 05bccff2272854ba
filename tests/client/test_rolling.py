"""The log-likelihood of whole documents: what begins them, and windows where they are longer than the context."""

import math

import pytest

from eval_pipelines.client import rolling
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import UnsupportedError
from eval_pipelines.records import Request, Response
from eval_pipelines.serving.ready import seen_to_work
from tests.client.wire import asked
from tests.faulty_server import logprob_of

DOCUMENT = "It was the best of times , it was the worst of times , it was the age of wisdom"
NEEDS = ("echo_logprobs", "start_logprobs")


def document(text: str = DOCUMENT) -> Request:
    return Request(sample_id="s/0", subtask="s", operation="loglikelihood_rolling", continuation=text)


def expected(text: str = DOCUMENT) -> float:
    first, *others = text.split()
    return math.fsum(map(logprob_of, [first, *(f" {word}" for word in others)]))


async def answer_to(faulty, folder, request: Request, **fields) -> Response:
    endpoint = Endpoint(faulty.url, "mock", "hosted", request_timeout_s=5, **fields)
    endpoint = await seen_to_work(endpoint, NEEDS, where="the server")
    _, (response,) = await asked(endpoint, folder, [request])
    return response


@pytest.mark.parametrize("start", ["own", "<|endoftext|>"])
async def test_every_token_of_a_document_counts_whoever_begins_it(faulty, tmp_path, start) -> None:
    faulty.set(start=start)
    response = await answer_to(faulty, tmp_path, document())
    assert response.logprob == pytest.approx(expected())
    assert response.is_greedy is None


async def test_so_does_a_continuation_without_a_context(faulty, tmp_path) -> None:
    faulty.set(start="<|endoftext|>")
    request = Request(sample_id="s/0", subtask="s", operation="loglikelihood", prompt="", continuation="It was")
    assert (await answer_to(faulty, tmp_path, request)).logprob == pytest.approx(expected("It was"))


async def test_what_begins_texts_can_be_said(faulty, tmp_path) -> None:
    faulty.set(start=None)
    with pytest.raises(UnsupportedError, match="text_start"):
        await answer_to(faulty, tmp_path, document())
    response = await answer_to(faulty, tmp_path, document(), text_start="<s>")
    assert response.logprob == pytest.approx(expected())


@pytest.mark.parametrize("start", ["own", "<|endoftext|>"])
async def test_a_long_document_is_asked_in_windows_and_each_token_counts_once(faulty, tmp_path, start) -> None:
    faulty.set(start=start, context=8, records=True)
    response = await answer_to(faulty, tmp_path, document())
    assert response.logprob == pytest.approx(expected())
    sent = [one["body"]["prompt"] for one in faulty.seen() if isinstance(one["body"]["prompt"], list)]
    assert [len(window) for window in sent] == [7, 7, 7, 7]


async def test_without_a_tokenizer_a_long_document_fails_and_says_why(faulty, tmp_path) -> None:
    faulty.set(start="own", context=8, tokenize=False)
    failed = (await answer_to(faulty, tmp_path, document())).failure
    assert failed is not None
    assert failed.kind.value == "context_length"
    assert "/tokenize" in failed.message
    assert "maximum context length" in failed.message


@pytest.mark.parametrize("n", [1, 5, 6, 7, 12, 13, 40])
def test_windows_are_the_references_own(n) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    theirs = utils.get_rolling_token_windows(token_list=list(range(n)), prefix_token=-1, max_seq_len=6, context_len=1)
    pairs = [utils.make_disjoint_window(pair) for pair in theirs]
    assert [([*context], [*predicted]) for context, predicted in rolling.windows(range(n), -1, 6)] == pairs


async def test_a_failed_window_is_a_failure_of_the_document(faulty, tmp_path) -> None:
    faulty.set(start="own", context=8)
    endpoint = Endpoint(faulty.url, "mock", "hosted", request_timeout_s=5, text_start="")
    faulty.set(start="own", context=8, api_key="other")
    _, (response,) = await asked(endpoint, tmp_path, [document()])
    assert response.failure is not None
    assert response.failure.kind.value == "denied"
