"""Leasing and asking hosted deployments, and a stand-in for their providers."""

from pathlib import Path
from typing import Any

import httpx

from eval_pipelines.client.failures import Backoff
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.config import Config, Deployment
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import Request, Response
from eval_pipelines.serving.lease import lease

KEY = "plain-old-key-0123456789"
NOWHERE = Path("/nowhere/evals.yaml")
QUICK = Backoff(base_s=0.005, cap_s=0.01)


class StandIn:
    """Drives tests/serving/stand_in_providers.py."""

    def __init__(self, root: str) -> None:
        self.root = root

    def set(self, **settings: Any) -> None:
        httpx.post(f"{self.root}/config", json=settings).raise_for_status()

    def seen(self, *, asks: bool = True) -> list[dict[str, Any]]:
        """Requests so far; `asks`: only those that ask a question."""
        told = httpx.get(f"{self.root}/seen").json()
        return [one for one in told if one["method"] == "POST"] if asks else told


def deployment(text: str) -> Deployment:
    return Config.parse(f"deployments: {{one: {{backend: hosted, {text}}}}}", path=NOWHERE).deployment("one")


def model(served_name: str = "mock") -> Model:
    return Model(ModelKey("mock", "a"), "one", "f00d", None, served_name)


def borrow(tmp_path: Path, how: Deployment, of: Model | None = None, *, needs: Any = ("chat",), **secrets: str) -> Any:
    return lease(of or model(), how, needs=needs, leases=tmp_path, secrets_=secrets)


async def ask_one(tmp_path: Path, endpoint: Any, n: int = 1, max_attempts: int = 2, **params: Any) -> list[Response]:
    told: list[Response] = []
    requests = [
        Request(
            sample_id=f"s/{i}",
            subtask="s",
            operation="chat",
            messages=({"role": "system", "content": "Be short."}, {"role": "user", "content": "7+7?"}),
            repeat=i,
            params=params,
        )
        for i in range(n)
    ]
    with Journal(tmp_path / "journal.jsonl") as journal:
        await ask(
            requests, n, endpoint, journal=journal, limits=Limits(max_attempts=max_attempts, backoff=QUICK),
            on_outcome=lambda _, response: told.append(response),
        )  # fmt: skip
    return told
