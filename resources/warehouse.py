"""Where evidence and scores are kept."""

from typing import TYPE_CHECKING

from resources.config import ConfiguredResource

if TYPE_CHECKING:
    from eval_pipelines.warehouse.landing import Landing
    from eval_pipelines.warehouse.publish import PublishReport


class WarehouseResource(ConfiguredResource):
    """Parquet landing, and the DuckDB file that people open."""

    @property
    def landing(self) -> "Landing":
        """The append-only truth."""
        # pyarrow, and pandas behind it: not paid for by a process that only loads the definitions
        from eval_pipelines.warehouse.landing import Landing

        return Landing(self.config.data_root)

    def publish(self) -> "PublishReport":
        """Bring the published DuckDB file up to date. Raises SqlModelError, WarehouseError."""
        from eval_pipelines.warehouse.publish import publish

        return publish(self.config.data_root)
