"""Where evidence and scores are kept."""

import os
import socket
from typing import TYPE_CHECKING

from eval_pipelines.config import Config
from eval_pipelines.configured import Configured
from eval_pipelines.records import utc_now
from resources.config import ConfiguredResource

if TYPE_CHECKING:
    from eval_pipelines.warehouse.landing import Landing
    from eval_pipelines.warehouse.mirror import Synced
    from eval_pipelines.warehouse.publish import PublishReport
    from eval_pipelines.warehouse.stores import Store


class WarehouseResource(ConfiguredResource):
    """Parquet landing, and the DuckDB file that people open."""

    @property
    def landing(self) -> "Landing":
        """The append-only truth. Raises ConfigError, WarehouseError where a store behind it cannot be opened."""
        # pyarrow, and pandas behind it: not paid for by a process that only loads the definitions
        from eval_pipelines.warehouse.landing import Landing

        return Landing(self.config.data_root, open_configured_store(self.config))

    def sync(self) -> "Synced":
        """Fetch what other machines landed, and keep what only this one has. Raises ConfigError, WarehouseError."""
        return self.landing.sync()

    def record_configured(self, configured: Configured) -> int:
        """Land what changed of what evals.yaml asks for; returns how many rows. Raises ConfigError, WarehouseError."""
        from eval_pipelines.warehouse.configured import name_of, said

        landing, now = self.landing, utc_now()
        # two machines may ask for different things of one record
        by = f"{name_of(self.config.data_root, socket.gethostname())}:{self.config.path}"
        landing.configured_folder(by)
        changes = configured.changes(said(self.config.data_root, by, now))
        if changes:
            landing.land_configured(by, changes, now)
        return len(changes)

    def publish(self) -> "PublishReport":
        """Bring the published DuckDB file up to date. Raises SqlModelError, ConfigError, WarehouseError."""
        from eval_pipelines.warehouse.publish import publish

        if self.config.store is not None:
            self.sync()
        return publish(self.config.data_root)


def open_configured_store(config: Config) -> "Store | None":
    """The store of evals.yaml, its secrets read from the environment by the names it gives; None: there is none."""
    if config.store is None:
        return None
    from eval_pipelines.warehouse.stores import open_store

    return open_store(config.store.kind, config.store.spec, os.environ)
