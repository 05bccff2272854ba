"""Chat, streams, refusals and the routes around them."""

import contextlib
import json
import time
from typing import Any

import httpx
import pytest

from .conftest import NAME

pytestmark = pytest.mark.slow

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def chat(server: httpx.Client, **options: Any) -> httpx.Response:
    return server.post("/v1/chat/completions", json={"model": NAME, "messages": QUESTION, "temperature": 0} | options)


def running(server: httpx.Client) -> int:
    lines = server.get("/metrics").text.splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("embedded_sequences_"))


def test_a_question_is_answered_in_the_shape_of_openai(server: httpx.Client) -> None:
    body = chat(server, max_tokens=30, user="someone").json()
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "The capital of France is Paris."}
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 8
    assert body["object"] == "chat.completion"
    assert body["system_fingerprint"].startswith("fp_")


def test_text_parts_mean_the_same_as_text(server: httpx.Client) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}]
    answers = [chat(server, max_completion_tokens=5, messages=messages).json() for messages in (QUESTION, parts)]
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["choices"][0]["finish_reason"] == "length"


def test_chat_reports_the_chosen_tokens_log_probability(server: httpx.Client) -> None:
    [choice] = chat(server, max_tokens=3, logprobs=True).json()["choices"]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["The", " capital", " of"]
    assert all(entry["logprob"] <= 0 for entry in choice["logprobs"]["content"])


def test_a_stream_adds_up_to_the_answer_and_ends_with_usage(server: httpx.Client) -> None:
    options = {"max_tokens": 20, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    lines = [line for line in chat(server, **options).text.splitlines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert lines[-1] == "data: [DONE]"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 16
    for index in (0, 1):
        mine = [event["choices"][0] for event in events[:-1] if event["choices"][0]["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in mine) == "The capital of France is Paris."
        assert [choice["finish_reason"] for choice in mine if choice["finish_reason"]] == ["stop"]


def test_a_streamed_stop_string_is_never_shown(server: httpx.Client) -> None:
    lines = chat(server, max_tokens=20, stream=True, stop=" is Paris").text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events) == "The capital of France"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place_in_the_engine(server: httpx.Client, stream: bool) -> None:
    options = {"max_tokens": 1900, "ignore_eos": True, "stream": stream}
    body = {"model": NAME, "messages": QUESTION, "temperature": 0} | options
    leave_at = time.monotonic() + 0.7
    with (
        contextlib.suppress(httpx.ReadTimeout),
        server.stream("POST", "/v1/chat/completions", json=body, timeout=0.7) as answer,
    ):
        assert stream, "without a stream there is no answer yet"
        for _ in answer.iter_lines():
            if time.monotonic() > leave_at:
                break
    deadline = time.monotonic() + 5
    while running(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running(server) == 0


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("tools", [{"type": "function"}], "unsupported_parameter"),
        ("response_format", {"type": "json_object"}, "unsupported_parameter"),
        ("logit_bias", {"5": 1}, "unsupported_parameter"),
        ("frequency_penalty", 0.5, "unsupported_parameter"),
        ("top_logprobs", 3, "unsupported_parameter"),
        ("min_tokens", 3, "unknown_parameter"),
        ("max_tokens", "16", "invalid_value"),
        ("temperature", -1, "invalid_value"),
        ("temperature", True, "invalid_value"),
        ("stop", [""], "invalid_value"),
        ("messages", [{"role": "tool", "content": "x"}], "invalid_value"),
        ("messages", [], "invalid_value"),
        ("max_tokens", 5000, "context_length_exceeded"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: httpx.Client, field: str, value: Any, code: str) -> None:
    answer = chat(server, **{field: value})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"logprobs": 2}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [999999]}, "prompt"),
        ({"prompt": "word " * 3000}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream": True, "echo": True}, "echo"),
    ],
)
def test_a_completion_that_cannot_be_is_refused(server: httpx.Client, options: dict[str, Any], param: str) -> None:
    answer = server.post("/v1/completions", json={"model": NAME, "prompt": "a"} | options)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_fields_that_ask_for_nothing_are_accepted(server: httpx.Client) -> None:
    neutral = {"tools": None, "frequency_penalty": 0, "logit_bias": {}, "response_format": {"type": "text"}, "n": None}
    assert chat(server, max_tokens=1, **neutral).status_code == 200


def test_bodies_that_are_no_json_object_are_refused(server: httpx.Client) -> None:
    for body in (b"{", b"[]", b"\xff", b""):
        answer = server.post("/v1/completions", content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_another_models_name_is_not_answered(server: httpx.Client) -> None:
    answer = chat(server, model="smollm2@other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_the_key_guards_v1_and_nothing_else(server: httpx.Client, server_url: str) -> None:
    assert httpx.get(f"{server_url}/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        refused = httpx.post(f"{server_url}/v1/completions", headers=headers, json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert httpx.get(f"{server_url}/v1/models", headers=headers).status_code == 401


def test_the_server_says_what_it_serves_and_can(server: httpx.Client) -> None:
    [model] = server.get("/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"], model["root"]) == (NAME, 2048, "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert model["capabilities"]["echo_logprobs"] is True
    assert model["capabilities"]["top_logprobs"] is False
    assert server.get("/version").json()["engine"].startswith("openvino-genai 20")
    assert server.get("/nowhere").json()["error"]["code"] == "no_such_route"


@pytest.mark.parametrize(
    "text", ["Hello 2024", "e\u0301 \u212b 日本 🎉", "  two\n\n\ttabs ", "<|im_start|>user<|im_end|>"]
)
def test_text_survives_tokenize_and_detokenize(server: httpx.Client, text: str) -> None:
    ids = server.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert server.post("/detokenize", json={"tokens": ids}).json() == {"prompt": text}


def test_the_remote_tokenizer_knows_its_special_tokens(server: httpx.Client) -> None:
    info = server.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "message['content']" in info["chat_template"]
    body = server.post("/tokenize", json={"messages": QUESTION, "return_token_strs": True}).json()
    assert (body["count"], body["token_strs"][0]) == (37, "<|im_start|>")
