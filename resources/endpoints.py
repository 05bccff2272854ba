"""Leases on model endpoints."""

import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import PrivateAttr

from eval_pipelines.config.deployments import asked_for
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import ServingError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model, resolve
from resources.config import ConfiguredResource

if TYPE_CHECKING:
    from eval_pipelines.client.chain import Chain
    from eval_pipelines.config.prices import Price
    from eval_pipelines.serving.reconcile import Reconciled
    from eval_pipelines.serving.room import Hold


class EndpointsResource(ConfiguredResource):
    """Leases on model endpoints. An asset never sees an address it did not lease."""

    # (model, server id) → lock: a run grades between two benchmarks, and its server must outlast that
    _held: dict[tuple[Model, str], "Hold"] | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - as Dagster calls it
        """From here to the end of the run, a server that was leased once stays."""
        self._held = {}

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - as Dagster calls it
        """The run needs no server any more; `keep_warm_s` starts to count."""
        self.let_go()
        self._held = None

    def let_go(self) -> None:
        """Keep no server from others until the next lease."""
        for lock in (self._held or {}).values():
            lock.release()
        (self._held or {}).clear()

    def reconcile(self) -> "Reconciled":
        """Put right what a crash left of the servers on this machine."""
        from eval_pipelines.serving.reconcile import reconcile

        return reconcile(self.config.data_root / "leases")

    def model(self, key: str) -> Model:
        """What a model key points to now. Raises UnknownNameError, ModelKeyError, ConfigError."""
        return resolve(self.config, ModelKey.parse(key))

    def price(self, model: Model) -> "tuple[Price | None, str]":
        """What tokens of a model that someone else serves cost, and in which currency; None where nobody says."""
        deployment, prices = self.config.deployment(model.deployment), self.config.prices
        price = None if deployment.is_started_here else prices.of(asked_for(deployment, model.served_name, model.key))
        return price, prices.currency

    @asynccontextmanager
    async def lease(
        self,
        model: Model,
        *,
        needs: Collection[str],
        wants: Collection[str] = (),
        who: str = "",
        on_wait: Callable[[str], None] = lambda _: None,
        chain: "Chain | None" = None,
    ) -> AsyncIterator[Endpoint]:
        """Borrow an endpoint that serves `model`. Raises StartError, NotReadyError, WrongModelError, UnsupportedError."""
        # the HTTP stack: only a step that asks pays for it
        from eval_pipelines.serving.lease import hold, lease, server_id

        config = self.config
        # Keys are read by the name that the configuration gives, at the moment a lease needs them.
        leases = config.data_root / "leases"
        deployment = config.deployment(model.deployment)
        key = (model, server_id(model, deployment))
        # what this run keeps for other bytes, or as evals.yaml had it before an edit, would wait for this very run
        for other in [each for each in self._held or {} if each != key]:
            (self._held or {}).pop(other).release()
        async with lease(
            model,
            deployment,
            needs=needs,
            wants=wants,
            leases=leases,
            secrets_=os.environ,
            machine=config.machine,
            who=who,
            on_wait=on_wait,
        ) as endpoint:
            if resolve(config, model.key).fingerprint != model.fingerprint:
                raise ServingError(
                    f"{model.key}: its weights were overwritten while the server loaded them. Nothing was asked; "
                    f"materialize again once they are finished."
                )
            if self._held is not None and deployment.is_started_here and key not in self._held:
                self._held[key] = hold(model, deployment, leases=leases, who=who)
            yield chain.endpoint(endpoint, os.environ) if chain else endpoint
