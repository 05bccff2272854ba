"""A model that thinks is graded by what it says, whichever way its server tells the one from the other."""

from typing import Any

import pytest

from eval_pipelines.client.chain import Chain
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.interception import Context
from eval_pipelines.client.journal import Journal
from eval_pipelines.config.specs import ModelEntry
from eval_pipelines.endpoint import Endpoint

LISTED = [{"thinking": {"speaks": "vllm", "budget_tokens": 40}}, "reasoning"]
LURE = "Is it #### 99? No."  # in thoughts: whoever grades them is wrong


def answers(is_apart: bool) -> dict[str, Any]:
    """Settings of a server that thinks about 1 + 1 to 6 + 6; about the last one until its tokens are used up."""
    texts, choices = {}, {}
    for i in range(1, 7):
        question, said = f"{i} plus {i}", f"#### {2 * i}" if i < 6 else ""
        texts[question] = said if is_apart else f"<think>{LURE}{'</think>' if said else ''}{said}"
        message = {"reasoning_content": LURE} if is_apart else {}
        choices[question] = {"message": message, "choice": {"finish_reason": "stop" if said else "length"}}
    return {"answers": texts, "choices": choices, "records": True}


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("is_apart", [False, True], ids=["in the text", "told apart"])
async def test_thoughts_are_not_graded_and_unfinished_ones_are_flagged(
    faulty, gsm8k, tmp_path, is_apart, is_streamed
) -> None:
    faulty.set(**answers(is_apart))
    entry = ModelEntry.model_validate({"deployment": ["d"], "interceptors": LISTED})
    chain = Chain((), entry.interceptors)
    benchmark = gsm8k(protocol="chat").seen_through(chain)
    endpoint = Endpoint(faulty.url, "mock", "hosted", is_streamed=is_streamed)
    requests = list(benchmark.requests())
    with Journal(tmp_path / "journal.jsonl") as journal:
        report = await ask(
            requests, len(requests), endpoint, journal=journal, limits=Limits(max_attempts=1),
            on_outcome=lambda request, response: None, interceptors=chain.attempts(Context(tmp_path)),
        )  # fmt: skip
        graded = benchmark.grade(journal.answers())[0]
    scores = [one for one in graded if one.filter == "strict-match"]
    assert [(one.value, one.note) for one in scores] == [(1.0, None)] * 5 + [(0.0, "unfinished reasoning")]
    assert [one.is_truncated for one in scores] == [False] * 5 + [True]
    told = report.told["reasoning"]
    assert (told["n_with_reasoning"], told["n_unfinished"], told["unfinished_share"]) == (
        6,
        1,
        pytest.approx(1 / 6, abs=1e-4),
    )
    assert all(one["body"]["thinking_token_budget"] == 40 for one in faulty.seen())
    assert all(one["body"]["max_tokens"] == 256 + 40 for one in faulty.seen())
