"""Completions and log-probabilities of a real model."""

from typing import Any

import httpx
import pytest

from .conftest import NAME

pytestmark = pytest.mark.slow

PARIS = "The capital of France is Paris."
# An independent NumPy implementation in float32, from the same GGUF file.
REFERENCE = [None, -11.55, -0.34, -2.421, -0.449, -0.261, -0.388]


def complete(server: httpx.Client, prompt: Any, **options: Any) -> Any:
    answer = server.post("/v1/completions", json={"model": NAME, "prompt": prompt, "temperature": 0} | options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_prompt_log_probabilities_agree_with_an_independent_implementation(server: httpx.Client) -> None:
    [choice] = complete(server, PARIS, max_tokens=0, echo=True, logprobs=1)["choices"]
    assert choice["text"] == PARIS
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(REFERENCE[1:], abs=0.02)


def test_the_shape_lm_eval_sends_comes_back_with_an_entry_for_the_generated_token(server: httpx.Client) -> None:
    ids = server.post("/tokenize", json={"prompt": PARIS, "add_special_tokens": False}).json()["tokens"]
    body = complete(server, [ids, ids[:3]], max_tokens=1, logprobs=1, echo=True, seed=1234)
    logprobs = [choice["logprobs"] for choice in body["choices"]]
    assert [len(entry["token_logprobs"]) for entry in logprobs] == [len(ids) + 1, 4]
    assert logprobs[0]["top_logprobs"][0] is None
    assert logprobs[0]["top_logprobs"][1] == {" capital": logprobs[0]["token_logprobs"][1]}
    assert body["usage"] == {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}


def test_echo_does_not_depend_on_what_else_is_in_the_batch(server: httpx.Client) -> None:
    long = "One two three four five six seven. " * 60  # several prefill chunks
    [alone] = complete(server, long, max_tokens=1, echo=True, logprobs=1)["choices"]
    crowd = complete(server, [PARIS, long, "Hello", long], max_tokens=1, echo=True, logprobs=1)["choices"]
    for index in (1, 3):
        assert crowd[index]["logprobs"]["token_logprobs"][1:] == pytest.approx(
            alone["logprobs"]["token_logprobs"][1:], abs=1e-4
        )


def test_text_offsets_count_characters_where_one_character_is_several_tokens(server: httpx.Client) -> None:
    text = "héllo 日本 🎉 ok"
    [choice] = complete(server, text, max_tokens=2, echo=True, logprobs=0)["choices"]
    entry = choice["logprobs"]
    assert choice["text"].startswith(text)
    assert len(entry["tokens"]) == len(entry["text_offset"]) == len(entry["token_logprobs"])
    assert entry["text_offset"] == sorted(entry["text_offset"])
    for token, offset in zip(entry["tokens"], entry["text_offset"], strict=True):
        if not token.startswith("bytes:"):
            assert choice["text"][offset:].startswith(token)
    assert entry["tokens"].count("bytes:\\x8e") == 1  # a middle byte of the emoji


def test_without_echo_only_generated_tokens_have_log_probabilities(server: httpx.Client) -> None:
    [choice] = complete(server, "The capital of France is", max_tokens=2, logprobs=1)["choices"]
    assert choice["logprobs"]["tokens"] == [" Paris", "."]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(REFERENCE[5:], abs=0.02)
    assert choice["logprobs"]["text_offset"] == [0, 6]


def test_a_stop_string_ends_the_text_before_itself(server: httpx.Client) -> None:
    [choice] = complete(server, "The capital of France is", max_tokens=20, stop=["is.", "ris."], logprobs=1)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (" Pa", "stop")
    assert choice["logprobs"]["tokens"] == [" Paris"]


def test_the_same_seed_gives_the_same_texts_and_another_seed_gives_others(server: httpx.Client) -> None:
    def texts(seed: int | None) -> list[str]:
        body = complete(server, "Once upon a time", max_tokens=12, temperature=1, n=3, seed=seed)
        return [choice["text"] for choice in body["choices"]]

    first = texts(7)
    assert texts(7) == first
    assert len({*first, *texts(2**32 + 7)}) == 6
    assert texts(None) != texts(None)


def test_greedy_choices_are_equal_and_indexed(server: httpx.Client) -> None:
    body = complete(server, ["1, 2, 3,", "a b c"], max_tokens=4, n=2)
    texts = [choice["text"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert body["usage"]["completion_tokens"] == 16


def test_lm_evals_own_client_scores_and_generates(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tenacity", reason="lm-eval[api] is not installed")
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    model = LocalCompletionsAPI(model=NAME, base_url=f"{server_url}/v1/completions", num_concurrent=4)
    assert model.tokenizer_backend == "remote"
    pairs = [("The capital of France is", " Paris"), ("The capital of France is", " cheese")]
    scores = model.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)])
    assert scores[0][0] == pytest.approx(-0.261, abs=0.02)
    assert scores[1][0] < scores[0][0]
    question = ("The capital of France is", {"until": ["."], "max_gen_toks": 8})
    assert model.generate_until([Instance("generate_until", {}, question, 0)]) == [" Paris"]
