"""thinking: what each kind of server is told, and what it refuses to promise."""

import pytest
from pydantic import ValidationError

from eval_pipelines.errors import UnsupportedError
from eval_pipelines.records import Request

ASKED = {"temperature": 0.6, "max_tokens": 256}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"speaks": "vllm", "budget_tokens": 1000},
            {"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": 1000, "max_tokens": 1256},
        ),
        ({"speaks": "vllm", "thinks": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            {"speaks": "sglang", "budget_tokens": 9, "effort": "low", "makes_room": False},
            {"chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 9}, "reasoning_effort": "low"},
        ),
        ({"speaks": "openai", "effort": "high"}, {"reasoning_effort": "high"}),
        ({"speaks": "openai", "thinks": False}, {"reasoning_effort": "none"}),
        ({"speaks": "qwen", "budget_tokens": 9}, {"enable_thinking": True, "thinking_budget": 9, "max_tokens": 265}),
        (
            {"speaks": "anthropic", "budget_tokens": 1024},
            {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1280},
        ),
        ({"speaks": "openrouter", "effort": "low"}, {"reasoning": {"enabled": True, "effort": "low"}}),
    ],
)
def test_each_server_is_told_in_its_own_words(chain, chat, options, said) -> None:
    assert chain({"thinking": options}).request(chat(**ASKED)).params == ASKED | said


def test_what_the_template_is_told_otherwise_stays(chain, chat) -> None:
    asked = chain({"thinking": {"speaks": "vllm"}}).request(chat(chat_template_kwargs={"lang": "en"}))
    assert asked.params == {"chat_template_kwargs": {"lang": "en", "enable_thinking": True}}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speaks": "openai", "budget_tokens": 9}, "openai has no budget_tokens; it takes `effort`"),
        ({"speaks": "qwen", "effort": "low"}, "qwen has no effort; it takes `budget_tokens`"),
        ({"speaks": "anthropic"}, "anthropic needs to be told how much: `budget_tokens`"),
        ({"speaks": "vllm", "thinks": False, "budget_tokens": 9}, "`thinks: false` does not go with budget_tokens"),
        ({"speaks": "openrouter", "effort": "low", "budget_tokens": 9}, "not both"),
    ],
)
def test_what_a_server_cannot_be_told_is_refused_in_the_file(listed, options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        listed({"thinking": options})


def test_a_plain_prompt_is_refused_and_a_log_likelihood_stays_as_it_is(chain) -> None:
    thinking = chain({"thinking": {"speaks": "vllm"}})
    likelihood = Request(sample_id="s", subtask="s", operation="loglikelihood", prompt="a", continuation="b")
    assert thinking.request(likelihood) == likelihood
    with pytest.raises(UnsupportedError, match="protocol: chat"):
        thinking.request(Request(sample_id="s", subtask="s", operation="completion", prompt="a"))
