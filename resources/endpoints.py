"""Leases on model endpoints."""

import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from eval_pipelines.endpoint import Endpoint
from eval_pipelines.errors import ServingError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model, resolve
from resources.config import ConfiguredResource


class EndpointsResource(ConfiguredResource):
    """Leases on model endpoints. An asset never sees an address it did not lease."""

    def model(self, key: str) -> Model:
        """What a model key points to now. Raises UnknownNameError, ModelKeyError, ConfigError."""
        return resolve(self.config, ModelKey.parse(key))

    @asynccontextmanager
    async def lease(self, model: Model, *, needs: Collection[str]) -> AsyncIterator[Endpoint]:
        """Borrow an endpoint that serves `model`. Raises StartError, NotReadyError, WrongModelError, UnsupportedError."""
        # the HTTP stack: only a step that asks pays for it
        from eval_pipelines.serving.lease import lease

        config = self.config
        # Keys are read by the name that the configuration gives, at the moment a lease needs them.
        leases = config.data_root / "leases"
        async with lease(
            model, config.deployment(model.deployment), needs=needs, leases=leases, secrets_=os.environ
        ) as endpoint:
            if resolve(config, model.key).fingerprint != model.fingerprint:
                raise ServingError(
                    f"{model.key}: its weights were overwritten while the server loaded them. Nothing was asked; "
                    f"materialize again once they are finished."
                )
            yield endpoint
