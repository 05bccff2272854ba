"""The operator's one file, `evals.yaml`, as frozen and checked specs.

    deployments   how to serve a family of models      prices    what their tokens cost
    models        models named by hand            watched   folders whose finished checkpoints become models
    benchmarks    what is asked                   suites    named lists of benchmarks
    gates         what a model may lose on them    store     where several machines keep one record

Every mistake in the file is one ConfigError that names file, line, place and what would be right; all of
them are reported together. Reading the file imports the backends it names and nothing heavier.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self, TypeVar

from eval_pipelines.config.deployments import Deployment, Machine
from eval_pipelines.config.gates import BenchmarkPolicy, Gate
from eval_pipelines.config.interceptors import InterceptorEntry, report_mistaken_chains
from eval_pipelines.config.judges import JudgeRules, JudgeSpec
from eval_pipelines.config.prices import Prices
from eval_pipelines.config.reader import Reader
from eval_pipelines.config.source import Source
from eval_pipelines.config.specs import BenchmarkSpec, DataSource, ModelEntry, SpecRecord, WatchedRoot
from eval_pipelines.config.stopping import StopEarly
from eval_pipelines.config.store import ConfiguredStore
from eval_pipelines.errors import ConfigError, UnknownNameError

__all__ = [
    "BenchmarkPolicy",
    "BenchmarkSpec",
    "Config",
    "DataSource",
    "Deployment",
    "Gate",
    "InterceptorEntry",
    "JudgeRules",
    "JudgeSpec",
    "Machine",
    "ModelEntry",
    "StopEarly",
    "WatchedRoot",
    "load_config",
]

T = TypeVar("T")

_SECTIONS = (
    "data_root",
    "store",
    "machine",
    "prices",
    "deployments",
    "models",
    "watched",
    "benchmarks",
    "suites",
    "gates",
)


class Config(SpecRecord):
    """Everything `evals.yaml` says. All paths are absolute; every name that is referred to exists."""

    path: Path
    folder: Path
    data_root: Path
    store: ConfiguredStore | None
    machine: Machine
    prices: Prices
    deployments: dict[str, Deployment]
    models: dict[str, ModelEntry]
    watched: tuple[WatchedRoot, ...]
    benchmarks: dict[str, BenchmarkSpec]
    suites: dict[str, tuple[str, ...]]
    gates: dict[str, Gate]

    @classmethod
    def parse(cls, text: str, *, path: Path) -> Self:
        """Check the text of a configuration file that stands (or would stand) at `path`.

        Raises:
            ConfigError: all problems, one a line: `evals.yaml:12: deployments.gpu.max_in_flite: unknown key. …`
        """
        source = Source(text, name=str(path))
        # Absolute, not resolved: in a mounted ConfigMap the file is a symlink out of its folder.
        path = path.absolute()
        for key in source.data:
            if key not in _SECTIONS:
                source.report_unknown_key((key,), _SECTIONS)
        reader = Reader(source, path.parent)
        sections = {name: getattr(reader, name)() for name in _SECTIONS}
        report_mistaken_chains(source, sections["benchmarks"], sections["models"], sections["watched"])
        source.fail_if_any()
        return cls(path=path, folder=path.parent, **sections)

    def benchmark(self, name: str) -> BenchmarkSpec:
        """The benchmark of that name. Raises UnknownNameError."""
        return self._get(self.benchmarks, name, kind="benchmark", section="benchmarks")

    def deployment(self, name: str) -> Deployment:
        """The deployment of that name. Raises UnknownNameError."""
        return self._get(self.deployments, name, kind="deployment", section="deployments")

    def suite(self, name: str) -> tuple[str, ...]:
        """The benchmarks of a suite, in its order. Raises UnknownNameError."""
        return self._get(self.suites, name, kind="suite", section="suites")

    def gate(self, name: str) -> Gate:
        """The gate of that name. Raises UnknownNameError."""
        return self._get(self.gates, name, kind="gate", section="gates")

    def expand(self, names: Iterable[str]) -> tuple[str, ...]:
        """Benchmarks and suites, mixed, as benchmark names: in order, each once. Raises UnknownNameError."""
        known: dict[str, tuple[str, ...]] = {name: (name,) for name in self.benchmarks} | self.suites
        found = [self._get(known, name, kind="benchmark or suite", section="benchmarks or suites") for name in names]
        return tuple(dict.fromkeys(benchmark for group in found for benchmark in group))

    def _get(self, known: Mapping[str, T], name: str, *, kind: str, section: str) -> T:
        if name not in known:
            raise UnknownNameError(kind, name, known=sorted(known), add=f"declare it under {section} in {self.path}")
        return known[name]


def load_config(path: Path) -> Config:
    """Read and check the operator's file.

    Raises:
        ConfigError: the file is missing, unreadable, empty or wrong; says where and what would be right.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file (tried {path.absolute()}). "
            f"`eval-pipelines --config PATH` or the environment variable EVALS_CONFIG points elsewhere."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text. Save the file as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}.") from None
    return Config.parse(text, path=path)
