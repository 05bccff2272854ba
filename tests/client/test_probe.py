"""A capability counts when one tiny request of its kind was answered."""

import pytest

from eval_pipelines.client import probe
from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.transport import open_client
from eval_pipelines.endpoint import CAPABILITIES, Endpoint
from eval_pipelines.errors import UnsupportedError
from eval_pipelines.serving.ready import seen_to_work


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.01)


async def kind_of(faulty, capability: str, **headers: str) -> str | None:
    endpoint = Endpoint(
        faulty.url, "mock", "hosted", request_timeout_s=5, headers=headers, is_streamed=capability == "stream"
    )
    async with open_client(endpoint) as client:
        failed = await probe.try_capability(client, endpoint, capability)
    return failed and failed.kind.value


@pytest.mark.parametrize("capability", CAPABILITIES)
async def test_what_works_is_seen(faulty, capability) -> None:
    faulty.set(start="own")
    assert await kind_of(faulty, capability) is None


@pytest.mark.parametrize("capability", ["logprobs", "n", "seed", "stream", "tools"])
async def test_a_server_that_ignores_what_it_is_asked_for_is_seen(faulty, capability) -> None:
    faulty.set(lacks=[capability])
    assert await kind_of(faulty, capability) == "unsupported"


async def test_all_that_an_endpoint_can_do_is_told_and_why_it_cannot_do_the_rest(faulty) -> None:
    faulty.set(start="own", lacks=["logprobs", "tools"], top_logprobs=False)
    found = await probe.try_all(Endpoint(faulty.url, "mock", "hosted", request_timeout_s=5))
    assert [*found] == [*CAPABILITIES]
    assert {capability: why for capability, why in found.items() if why} == {
        "top_logprobs": "only the chosen token's log-probability is told",
        "logprobs": "the reply has no logprobs",
        "tools": "the reply calls no tool",
    }
    assert faulty.stats()["requests"] == 14


async def test_what_would_be_of_use_and_does_not_work_refuses_nobody(faulty) -> None:
    faulty.set(lacks=["seed"])
    endpoint = await seen_to_work(Endpoint(faulty.url, "mock", "hosted"), ["chat"], ["seed", "n"], where="it")
    assert endpoint.offers == {"chat", "n"}
    assert endpoint.lacks == {"seed": "the same seed drew two different answers"}


@pytest.mark.parametrize(
    ("settings", "needed", "words"),
    [
        ({"echo": False}, "echo_logprobs", "mmlu_generative"),
        ({"top_logprobs": False}, "top_logprobs", "vllm, sglang and transformers servers tell it"),
        ({}, "start_logprobs", "text_start"),
    ],
)
async def test_a_refusal_names_what_would_be_right(faulty, settings, needed, words) -> None:
    faulty.set(**settings)
    with pytest.raises(UnsupportedError, match=words):
        await seen_to_work(Endpoint(faulty.url, "mock", "hosted"), [needed], where="it")


@pytest.mark.parametrize("capability", ["echo_logprobs", "top_logprobs"])
async def test_a_server_that_ignores_echo_is_seen(faulty, capability) -> None:
    faulty.set(echo=False)
    assert await kind_of(faulty, capability) == "unsupported"


async def test_a_server_that_tells_only_the_chosen_token_lacks_top_logprobs(faulty) -> None:
    faulty.set(top_logprobs=False)
    assert await kind_of(faulty, "top_logprobs") == "unsupported"


async def test_it_has_echo_logprobs_all_the_same(faulty) -> None:
    faulty.set(top_logprobs=False)
    assert await kind_of(faulty, "echo_logprobs") is None


async def test_a_wrong_key_is_refused_once_and_not_tried_again(faulty) -> None:
    faulty.set(api_key="right")
    assert await kind_of(faulty, "chat", authorization="Bearer wrong") == "denied"
    assert faulty.stats()["requests"] == 1


async def test_the_right_key_is_sent(faulty) -> None:
    faulty.set(api_key="right")
    assert await kind_of(faulty, "chat", authorization="Bearer right") is None


async def test_an_endpoint_that_is_busy_at_first_is_not_refused(faulty) -> None:
    faulty.set(faults_of_canaries=True, faults=[{"kind": "503", "first": 3}])
    assert await kind_of(faulty, "chat") is None


async def test_an_endpoint_that_stays_busy_is_told_as_overloaded(faulty) -> None:
    faulty.set(faults_of_canaries=True, faults=[{"kind": "503"}])
    assert await kind_of(faulty, "chat") == "overloaded"


async def test_the_served_names_are_read(faulty) -> None:
    faulty.set(model="smol")
    endpoint = Endpoint(faulty.url, "mock", "hosted")
    async with open_client(endpoint) as client:
        assert await probe.served_names(client, endpoint) == ["smol"]


async def test_a_server_without_the_route_lists_no_names(faulty) -> None:
    endpoint = Endpoint(f"{faulty.root}/nowhere", "mock", "hosted")
    async with open_client(endpoint) as client:
        assert await probe.served_names(client, endpoint) is None
