"""The operator's file, read when it is needed and again when it changed."""

from functools import lru_cache
from pathlib import Path

import dagster as dg
from pydantic import Field

from eval_pipelines.config import Config, load_config


@lru_cache(maxsize=4)
def _load(path: Path, _mtime_ns: int) -> Config:
    return load_config(path)


def read_config(path: Path) -> Config:
    """The checked configuration. Raises ConfigError."""
    return _load(path, path.stat().st_mtime_ns) if path.exists() else load_config(path)


class ConfiguredResource(dg.ConfigurableResource[None]):
    """A resource that reads the operator's file."""

    config_path: str = Field(
        description="The operator's evals.yaml; an absolute path, or relative to the working directory."
    )

    @property
    def config(self) -> Config:
        """The checked configuration. Raises ConfigError."""
        return read_config(Path(self.config_path))
