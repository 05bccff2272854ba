"""What the real server tells of itself while it is asked, read as an evaluation reads it."""

import asyncio
from pathlib import Path

import httpx
import pytest

from eval_pipelines import plugins
from eval_pipelines.endpoint import Endpoint, Replica
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.serving.metrics import NAMES
from eval_pipelines.serving.scraping import Scraper, Wanted

pytestmark = pytest.mark.slow


@pytest.fixture
def endpoint(server_url: str, model_path: Path) -> Endpoint:
    """As a lease builds it of the backend's command."""
    backend = plugins.load("serving.backends", "embedded", kind="backend")
    model = Model(ModelKey("smollm2", "q4"), "small", "f00d", model_path)
    told = backend.command(backend.Spec(), model, host="127.0.0.1", port=1)
    replica = Replica(f"{server_url}/v1", {"authorization": "Bearer wrong"}, f"{server_url}{told.metrics_path}")
    return Endpoint(replica.url, "smollm2@q4", "embedded", replicas=(replica,), metric_names=told.metric_names)


async def test_every_metric_the_backend_names_is_there_without_a_key(endpoint: Endpoint) -> None:
    text = httpx.get(endpoint.addresses[0].metrics_url or "").text
    assert set(Wanted(endpoint.metric_names).read(text)) == set(endpoint.metric_names)
    # without prefix caching there is nothing to hit, and it does not tell when it preempts
    assert set(NAMES) - set(endpoint.metric_names) == {"prefix_cache_hits", "prefix_cache_queries", "n_preempted"}


async def test_the_server_counts_the_tokens_it_told_each_client(endpoint: Endpoint, server: httpx.Client) -> None:
    key = server.headers["authorization"]
    async with httpx.AsyncClient(base_url=endpoint.url, headers={"authorization": key}, timeout=60) as client:
        async with Scraper(endpoint, every_s=0.02) as watched:
            prompts = [{"model": "smollm2@q4", "prompt": f"Count to {i}: 1, 2, 3,", "max_tokens": 24} for i in range(6)]
            replies = await asyncio.gather(*(client.post("/completions", json=prompt) for prompt in prompts))
        usages = [reply.json()["usage"] for reply in replies]
    last, summary = watched.records[-1], watched.summary
    assert summary is not None
    assert last.prompt_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert last.generation_tokens == sum(usage["completion_tokens"] for usage in usages)
    assert (summary.n_finished, summary.n_failed_scrapes) == (6, 0)
    assert summary.n_running_max is not None
    assert 1 <= summary.n_running_max <= 6


async def test_memory_for_keys_and_values_fills_while_it_answers_and_is_free_afterwards(
    endpoint: Endpoint, server: httpx.Client
) -> None:
    async with Scraper(endpoint, every_s=0.02) as watched:
        # 800 of the 23,000 tokens that one GiB holds for this model
        body = {"model": "smollm2@q4", "prompt": "word " * 780, "max_tokens": 20}
        await asyncio.to_thread(lambda: server.post("/v1/completions", json=body).raise_for_status())
    shares = [one.kv_cache_share for one in watched.records]
    assert 0.02 < max(share for share in shares if share is not None) < 0.06
    assert shares[-1] == 0.0
