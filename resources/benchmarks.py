"""Loaded benchmarks, each loaded once per process."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from resources.config import ConfiguredResource, read_config

if TYPE_CHECKING:
    from eval_pipelines.benchmarks.harness import Benchmark


@lru_cache(maxsize=16)
def _load(config_path: str, _mtime_ns: int, name: str, limit: int | None) -> "Benchmark":
    # lm-eval takes seconds to import: only a step that asks or grades pays for it
    from eval_pipelines.benchmarks.harness import load

    config = read_config(Path(config_path))
    return load(name, config.benchmark(name), limit=limit, cache=config.data_root / "cache")


class BenchmarksResource(ConfiguredResource):
    """Benchmarks by name, with their samples and scorers."""

    def load(self, name: str, *, limit: int | None) -> "Benchmark":
        """Load a benchmark. Raises UnknownNameError, DataError, UnsupportedError."""
        return _load(self.config_path, Path(self.config_path).stat().st_mtime_ns, name, limit)
