"""Loaded benchmarks, each loaded once per process."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from eval_pipelines.keys import ModelKey
from eval_pipelines.models import interceptors_of
from resources.config import ConfiguredResource, read_config

if TYPE_CHECKING:
    from eval_pipelines.benchmarks.harness import Benchmark
    from eval_pipelines.client.chain import Chain


@lru_cache(maxsize=16)
def _load(config_path: str, _mtime_ns: int, name: str, limit: int | None) -> "Benchmark":
    # lm-eval takes seconds to import: only a step that asks or grades pays for it
    from eval_pipelines.benchmarks.harness import load

    config = read_config(Path(config_path))
    return load(name, config.benchmark(name), limit=limit, cache=config.data_root / "cache")


class BenchmarksResource(ConfiguredResource):
    """Benchmarks by name, with their samples and scorers."""

    def load(self, name: str, *, limit: int | None, model: str | None = None) -> "Benchmark":
        """Load a benchmark, as this model is asked it. Raises UnknownNameError, DataError, UnsupportedError."""
        found = _load(self.config_path, Path(self.config_path).stat().st_mtime_ns, name, limit)
        found.check_is_graded()
        chain = self.chain(name, model) if model is not None else None
        return found.seen_through(chain) if chain else found

    def judge_chain(self, judge: str) -> "Chain":
        """The interceptors of a model that judges: a benchmark's own are for whom it asks. Raises ConfigError."""
        from eval_pipelines.client.chain import Chain

        return Chain((), interceptors_of(self.config, ModelKey.parse(judge)))

    def chain(self, name: str, model: str) -> "Chain":
        """The interceptors of a benchmark and then of a model. Raises UnknownNameError, ConfigError."""
        from eval_pipelines.client.chain import Chain

        config = self.config
        return Chain(config.benchmark(name).interceptors, interceptors_of(config, ModelKey.parse(model)))
