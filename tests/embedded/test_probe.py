"""What the embedded server can do, as an operator's probe tells it."""

import pytest

from eval_pipelines.client.probe import try_all
from eval_pipelines.endpoint import Endpoint

from .conftest import KEY, NAME

pytestmark = pytest.mark.slow


async def test_it_can_do_all_but_tell_other_tokens_and_call_tools(server_url: str) -> None:
    endpoint = Endpoint(f"{server_url}/v1", NAME, "embedded", headers={"authorization": f"Bearer {KEY}"})
    assert {name: why for name, why in (await try_all(endpoint)).items() if why} == {
        "top_logprobs": "only the chosen token's log-probability is told",
        "tools": "unsupported_parameter tools: this server cannot do that. Leave it out.",
    }
