"""The log-likelihood of a continuation: which tokens count, whatever the server's offsets look like."""

import math
from typing import Any

import pytest

from eval_pipelines.client.dialects.openai_completions import body, read
from eval_pipelines.client.failures import NoAnswer
from eval_pipelines.records import Request

pytestmark = pytest.mark.unit


def request(context: str, continuation: str) -> Request:
    return Request(sample_id="s/0", subtask="s", operation="loglikelihood", prompt=context, continuation=continuation)


def reply(*tokens: tuple[str, float | None], offsets: list[int] | None = None, **usage: int) -> dict[str, Any]:
    """What a server tells of these (token, log-probability) pairs; offsets count the tokens' characters."""
    names = [name for name, _ in tokens]
    counted = [sum(len(name) for name in names[:i]) for i in range(len(names))]
    told = {"tokens": names, "token_logprobs": [lp for _, lp in tokens], "text_offset": offsets or counted}
    return {"choices": [{"text": "".join(names), "logprobs": told}], "usage": usage}


def logprob(asked: Request, told: dict[str, Any]) -> float:
    value = read(asked, told)["logprob"]
    assert isinstance(value, float)
    return value


def failure_of(asked: Request, told: dict[str, Any]) -> str:
    with pytest.raises(NoAnswer) as caught:
        read(asked, told)
    return caught.value.failure.kind.value


PARIS = request("The capital is", " Paris now")
TOKENS = (("The", None), (" capital", -1.0), (" is", -2.0), (" Paris", -0.5), (" now", -0.25))


def test_the_continuations_tokens_are_summed() -> None:
    assert logprob(PARIS, reply(*TOKENS)) == -0.75


@pytest.mark.parametrize("usage", [{}, {"completion_tokens": 1}, {"completion_tokens": 5}])
def test_the_generated_token_does_not_count(usage) -> None:
    assert logprob(PARIS, reply(*TOKENS, (" then", -9.0), **usage)) == -0.75


def test_a_server_that_generates_nothing_is_understood() -> None:
    assert logprob(PARIS, reply(*TOKENS, completion_tokens=0)) == -0.75


def test_a_generated_end_token_without_text_does_not_count() -> None:
    assert logprob(PARIS, reply(*TOKENS, ("", -9.0), completion_tokens=1)) == -0.75


def test_a_token_across_the_boundary_belongs_to_the_continuation() -> None:
    asked = request("The capi", "tal is")
    assert logprob(asked, reply(("The", None), (" capital", -1.0), (" is", -2.0))) == -3.0


def test_offsets_count_characters_not_bytes() -> None:
    asked = request("Das Café öffnet", " früh 🙂")
    told = reply(("Das", None), (" Café", -1.0), (" öffnet", -2.0), (" früh", -0.5), (" 🙂", -0.25), ("!", -9.0))
    assert logprob(asked, told) == -0.75


def test_every_token_of_a_character_that_takes_several_counts() -> None:
    asked = request("A", "😀!")
    tokens = (("A", None), ("", -1.0), ("", -2.0), ("😀", -4.0), ("!", -8.0), ("x", -99.0))
    assert logprob(asked, reply(*tokens, offsets=[0, 1, 1, 1, 2, 3])) == -15.0


@pytest.mark.parametrize("usage", [{}, {"completion_tokens": 1}])
def test_a_begin_of_text_token_whose_name_is_counted_shifts_nothing(usage) -> None:
    told = reply(("<|begin_of_text|>", None), *TOKENS[:0], ("The", -7.0), *TOKENS[1:], (" then", -9.0), **usage)
    assert logprob(PARIS, told) == -0.75


def test_a_begin_of_text_token_is_understood_where_tokens_are_vocabulary_entries() -> None:
    told = reply(
        ("<s>", None), ("The", -7.0), ("Ġcapital", -1.0), ("Ġis", -2.0), ("ĠParis", -0.5), ("Ġnow", -0.25), ("Ġx", -9.0),
        completion_tokens=1,
    )  # fmt: skip
    assert logprob(PARIS, told) == -0.75


def test_broken_characters_in_the_context_shift_nothing() -> None:
    asked = request("Smile 😀:", " yes")
    told = reply(("Smile", None), (" \ufffd", -1.0), ("\ufffd", -1.0), (":", -1.0), (" yes", -0.5), ("!", -9.0))
    assert logprob(asked, {**told, "usage": {"completion_tokens": 1}}) == -0.5


def test_offsets_that_cannot_be_placed_are_a_failure_and_not_a_number() -> None:
    asked = request("Smile:", " 😀 yes")
    told = reply(("Smile", None), (":", -1.0), (" \ufffd", -1.0), ("\ufffd", -1.0), (" yes", -0.5), ("!", -9.0))
    assert failure_of(asked, {**told, "usage": {"completion_tokens": 1}}) == "malformed"


def test_a_text_that_the_server_cut_is_a_failure() -> None:
    assert failure_of(PARIS, reply(*TOKENS[:-1])) == "malformed"


def test_echo_ignored_is_unsupported() -> None:
    assert failure_of(PARIS, {"choices": [{"text": "Paris", "logprobs": None}]}) == "unsupported"


@pytest.mark.parametrize("value", [None, math.nan, -math.inf, "abc", {}])
def test_what_is_no_finite_number_is_a_failure(value) -> None:
    assert failure_of(PARIS, reply(*TOKENS[:-1], (" now", value))) == "malformed"


@pytest.mark.parametrize("name", ["tokens", "text_offset"])
@pytest.mark.parametrize("value", [None, [], ["x"], 7])
def test_an_incomplete_logprobs_object_is_a_failure(name, value) -> None:
    told = reply(*TOKENS)
    told["choices"][0]["logprobs"][name] = value
    assert failure_of(PARIS, told) == "malformed"


def with_top(top: Any) -> dict[str, Any]:
    told = reply(*TOKENS)
    told["choices"][0]["logprobs"]["top_logprobs"] = top
    return told


@pytest.mark.parametrize(
    ("top", "is_greedy"),
    [
        ([None, {}, {}, {" Paris": -0.5}, {" now": -0.25}], True),
        ([None, {}, {}, {" Paris": -0.5, " Rome": -0.4}, {" now": -0.25}], False),
        ([None, {}, {}, {" Paris": -0.5}, None], None),
        ([None], None),
        (None, None),
    ],
)
def test_greedy_is_told_only_where_the_server_tells_the_best_token(top, is_greedy) -> None:
    assert read(PARIS, with_top(top))["is_greedy"] is is_greedy


def test_a_best_token_without_a_number_is_a_failure() -> None:
    assert failure_of(PARIS, with_top([None, {}, {}, {" Paris": None}, {" now": -0.25}])) == "malformed"


def test_the_text_that_is_sent_is_context_and_continuation() -> None:
    sent = body(PARIS, "m")
    assert (sent["prompt"], sent["echo"], sent["logprobs"]) == ("The capital is Paris now", True, 1)
