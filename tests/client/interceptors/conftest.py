"""Ask the faulty server through a chain of interceptors, and read back as grading does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.client.chain import Chain
from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.interception import Context
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.report import AskReport
from eval_pipelines.config import InterceptorEntry
from eval_pipelines.config.specs import ModelEntry
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Request, Response

KEY = "s3cret-of-the-endpoint"


def entries(*listed: Any) -> tuple[InterceptorEntry, ...]:
    """Interceptors as evals.yaml lists them."""
    return ModelEntry.model_validate({"deployment": ["d"], "interceptors": list(listed)}).interceptors


@pytest.fixture
def listed() -> Callable[..., tuple[InterceptorEntry, ...]]:
    return entries


@pytest.fixture
def chain() -> Callable[..., Chain]:
    return lambda *listed: Chain(entries(*listed))


@pytest.fixture
def chat() -> Callable[..., Request]:
    """A chat request; texts are user messages, `system=` goes before them."""

    def build(*texts: str, system: tuple[str, ...] = (), **params: Any) -> Request:
        messages = [{"role": "system", "content": one} for one in system]
        for text in texts or ("What is 1 + 1?",):
            messages += [{"role": "user", "content": text}]
        return Request(sample_id=f"s/{texts[-1:]}", subtask="s", operation="chat", messages=messages, params=params)

    return build


@dataclass
class Asking:
    """One evaluation through a chain."""

    faulty: Any
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    responses: dict[str, Response] = field(default_factory=dict)

    async def __call__(self, requests: list[Request], *listed: Any, key: str = KEY, **limits: Any) -> AskReport:
        chain = Chain(entries(*listed))
        asked = [chain.request(request) for request in requests]
        headers = {"authorization": f"Bearer {key}"}
        endpoint = Endpoint(self.faulty.url, "mock", "hosted", max_in_flight=8, request_timeout_s=10, headers=headers)
        context = Context(
            self.folder / "logs", run_id="r1", log=self.said.append, environment=self.environment, benchmark="sums"
        )
        with Journal(self.folder / "journal.jsonl") as journal:
            return await ask(
                asked,
                len(asked),
                chain.endpoint(endpoint, self.environment),
                journal=journal,
                limits=Limits(**{"backoff": Backoff(base_s=0.005, cap_s=0.01), **limits}),
                on_outcome=lambda request, response: self.responses.__setitem__(request.digest, response),
                interceptors=chain.attempts(context),
            )


@pytest.fixture
def asking(faulty: Any, tmp_path: Path) -> Asking:
    return Asking(faulty, tmp_path)
