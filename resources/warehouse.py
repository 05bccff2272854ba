"""Where evidence and scores are kept."""

from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import PublishReport, publish
from resources.config import ConfiguredResource


class WarehouseResource(ConfiguredResource):
    """Parquet landing, and the DuckDB file that people open."""

    @property
    def landing(self) -> Landing:
        """The append-only truth."""
        return Landing(self.config.data_root)

    def publish(self) -> PublishReport:
        """Bring the published DuckDB file up to date. Raises SqlModelError, WarehouseError."""
        return publish(self.config.data_root)
