"""What is sent to Triton and how its replies are read. The replies are what Triton 2.51 said to these requests."""

import json
from typing import Any

import httpx
import pytest

from eval_pipelines.client.dialects import dialect
from eval_pipelines.client.dialects.triton import body, model_name, path, read, served_names
from eval_pipelines.client.failures import NoAnswer
from eval_pipelines.keys import ModelKey
from eval_pipelines.records import Request

pytestmark = pytest.mark.unit

HEAD = {"model_name": "smollm2-135m-AT-main", "model_version": "1"}
CHAT = Request(
    sample_id="s/0", subtask="s", operation="chat", params={"max_tokens": 8, "temperature": 0.0, "stop": ["\n"]},
    messages=({"role": "user", "content": "Say “hi” 🙂"},),
)  # fmt: skip
TEXT = Request(sample_id="s/0", subtask="s", operation="completion", prompt="The capital of France is")
PARIS = Request(
    sample_id="s/0", subtask="s", operation="loglikelihood", prompt="The capital of France is", continuation=" Paris"
)
ANSWER = {
    **HEAD,
    "finish_reason": "length",
    "num_input_tokens": 5,
    "num_output_tokens": 8,
    "text_output": " Paris.\n\n",
}
LIKELIHOOD = {**HEAD, "log_likelihood": -0.2577840983867645, "num_input_tokens": 6, "num_output_tokens": 1}


def failure_of(asked: Request, reply: dict[str, Any]) -> str:
    with pytest.raises(NoAnswer) as caught:
        read(asked, reply)
    return caught.value.failure.kind.value


@pytest.mark.parametrize("operation", ["chat", "completion", "loglikelihood"])
def test_one_file_speaks_every_operation(operation) -> None:
    assert dialect("triton", operation).__name__.endswith(".triton")


def test_a_model_key_becomes_a_name_that_triton_takes() -> None:
    assert path("llama-3.1@step-100") == "/v2/models/llama-3.1-AT-step-100/generate"


def test_no_two_model_keys_share_a_name() -> None:
    names = {model_name(str(ModelKey(*parts))) for parts in (("a-at", "b"), ("a", "at-b"), ("a-at-", "b"), ("a", "b"))}
    assert len(names) == 4


def test_a_name_that_is_no_model_key_stays_as_it_is() -> None:
    assert path("ensemble.v2") == "/v2/models/ensemble.v2/generate"


def test_a_conversation_travels_as_json_in_the_text() -> None:
    sent = body(CHAT, "smollm2-135m@main")
    assert json.loads(sent["text_input"]) == [{"role": "user", "content": "Say “hi” 🙂"}]
    assert sent["apply_chat_template"] is True
    assert json.loads(sent["sampling_parameters"]) == CHAT.params


def test_a_prompt_is_sent_as_it_is() -> None:
    assert body(TEXT, "m") == {
        "text_input": "The capital of France is", "apply_chat_template": False, "sampling_parameters": "{}",
    }  # fmt: skip


def test_context_and_continuation_are_sent_apart() -> None:
    sent = body(PARIS, "m")
    assert (sent["text_input"], sent["continuation"]) == ("The capital of France is", " Paris")


@pytest.mark.parametrize("asked", [CHAT, TEXT], ids=["chat", "completion"])
def test_text_finish_reason_and_counts_are_read(asked) -> None:
    assert read(asked, ANSWER) == {
        "text": " Paris.\n\n", "finish_reason": "length", "prompt_tokens": 5, "completion_tokens": 8,
    }  # fmt: skip


def test_an_empty_text_is_an_answer() -> None:
    assert read(CHAT, {**ANSWER, "text_output": ""})["text"] == ""


def test_a_log_likelihood_is_read_in_full() -> None:
    told = read(PARIS, LIKELIHOOD)
    assert (told["logprob"], told["is_greedy"], told["prompt_tokens"]) == (-0.2577840983867645, None, 6)


@pytest.mark.parametrize("is_greedy", [True, False])
def test_greedy_is_told_where_the_server_knows(is_greedy) -> None:
    assert read(PARIS, {**LIKELIHOOD, "is_greedy": is_greedy})["is_greedy"] is is_greedy


def test_counts_that_are_none_are_not_made_up() -> None:
    told = read(CHAT, {**HEAD, "text_output": "x", "num_input_tokens": -1, "num_output_tokens": True})
    assert (told["prompt_tokens"], told["completion_tokens"], told["finish_reason"]) == (None, None, None)


def test_a_reply_without_text_is_empty() -> None:
    assert failure_of(CHAT, HEAD) == "empty"


def test_a_text_that_is_none_is_malformed() -> None:
    assert failure_of(TEXT, {**HEAD, "text_output": ["a", "b"]}) == "malformed"


def test_a_model_without_log_likelihood_is_unsupported() -> None:
    assert failure_of(PARIS, ANSWER) == "unsupported"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "-1", True, [1.0]])
def test_a_log_likelihood_that_is_no_finite_number_is_malformed(value) -> None:
    assert failure_of(PARIS, {**HEAD, "log_likelihood": value}) == "malformed"


async def names_told_by(reply: httpx.Response | Exception, served_name: str = "smollm2-135m@main") -> list[str] | None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == f"/v2/models/{model_name(served_name)}/config"
        if isinstance(reply, Exception):
            raise reply
        return reply

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        return await served_names(client, "http://triton", served_name)


async def test_the_served_model_is_told_by_its_key() -> None:
    told = httpx.Response(200, json={"name": "smollm2-135m-AT-main", "platform": "", "backend": "python"})
    assert await names_told_by(told) == ["smollm2-135m@main"]


async def test_a_model_of_another_name_is_told_by_that_name() -> None:
    assert await names_told_by(httpx.Response(200, json={"name": "other"})) == ["other"]


async def test_an_unknown_model_is_no_served_name() -> None:
    assert await names_told_by(httpx.Response(404, json={"error": "Request for unknown model: 'x' is not found"})) == []


@pytest.mark.parametrize(
    "reply",
    [httpx.ConnectError("refused"), httpx.Response(500), httpx.Response(200, text="no JSON"), httpx.Response(200, json=7)],
    ids=["refused", "500", "text", "number"],
)  # fmt: skip
async def test_a_server_that_does_not_say_is_no_reason_to_refuse_it(reply) -> None:
    assert await names_told_by(reply) is None
