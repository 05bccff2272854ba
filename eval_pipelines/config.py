"""The operator's one file, `evals.yaml`, as frozen and checked specs.

    deployments   how to serve a family of models
    models        models named by hand            watched   folders whose finished checkpoints become models
    benchmarks    what is asked                   suites    named lists of benchmarks

Every mistake in the file is one ConfigError that names file, line, place and what would be right; all of
them are reported together. Reading the file imports the backends it names and nothing heavier.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

from eval_pipelines import plugins
from eval_pipelines.config_source import Loc, Source
from eval_pipelines.config_specs import (
    BenchmarkSpec,
    DataSource,
    Deployment,
    DeploymentFields,
    Machine,
    ModelEntry,
    SpecRecord,
    SuiteEntry,
    WatchedRoot,
)
from eval_pipelines.errors import ConfigError, ModelKeyError, UnknownNameError
from eval_pipelines.keys import ModelKey, slug

__all__ = [
    "BenchmarkSpec",
    "Config",
    "DataSource",
    "Deployment",
    "Machine",
    "ModelEntry",
    "WatchedRoot",
    "load_config",
]

T = TypeVar("T")

_BACKENDS = "serving.backends"
_SECTIONS = ("data_root", "machine", "deployments", "models", "watched", "benchmarks", "suites")


class Config(SpecRecord):
    """Everything `evals.yaml` says. All paths are absolute; every name that is referred to exists."""

    path: Path
    folder: Path
    data_root: Path
    machine: Machine
    deployments: dict[str, Deployment]
    models: dict[str, ModelEntry]
    watched: tuple[WatchedRoot, ...]
    benchmarks: dict[str, BenchmarkSpec]
    suites: dict[str, tuple[str, ...]]

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
        reader = _Reader(source, path.parent)
        sections = {name: getattr(reader, name)() for name in _SECTIONS}
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


def _backend(name: str) -> ModuleType:
    return plugins.load(_BACKENDS, name, kind="backend")


class _Reader:
    """Reads the sections of one file, one method each; what does not fit is reported to the source and left out."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.source, self.folder = source, folder
        self._deployments: dict[str, Deployment] = {}

    def data_root(self) -> Path | None:
        value = self.source.data.get("data_root", "data")
        if not isinstance(value, str) or not value or "://" in value:
            self.source.report(("data_root",), "must be the path of a folder, such as `data` (not a URL)")
            return None
        return self._absolute(Path(value))

    def machine(self) -> Machine | None:
        given = self.source.data.get("machine") or {}
        found = self.source.read(Machine, ("machine",), given)
        return found and found.model_copy(update={"folder": self._absolute(found.folder)})

    def deployments(self) -> dict[str, Deployment]:
        for name, value in self.source.mapping("deployments").items():
            self._check_name("deployments", name)
            if (deployment := self._deployment(("deployments", name), name, value)) is not None:
                self._deployments[name] = deployment
        return self._deployments

    def _deployment(self, loc: Loc, name: str, value: Any) -> Deployment | None:
        fields = DeploymentFields.model_fields
        given = value if isinstance(value, dict) else {}
        common = {key: given[key] for key in given if key in fields} if isinstance(value, dict) else value
        own = {key: given[key] for key in given if key not in fields}
        head = self.source.read(DeploymentFields, loc, common)
        module = self._module((*loc, "backend"), given.get("backend"))
        # Without its backend nobody can say which of the other keys are right.
        spec = self.source.read(module.Spec, loc, own, also=fields) if module else None
        if head is None or module is None or spec is None:
            return None
        if hasattr(module, "bind") and head.replicas > 1:
            self.source.report((*loc, "replicas"), "someone else runs its servers: list their addresses in `base_urls`")
            return None
        if getattr(module, "NEEDS_CONTAINER", False) and head.container is None:
            self.source.report(
                (*loc, "container"), f"{head.backend} exists as an image only: name it in `container.image`"
            )
            return None
        if head.container is not None and getattr(spec, "hot_swap", False):
            self.source.report((*loc, "hot_swap"), "does not go with `container`, which sees one checkpoint only")
            return None
        return Deployment.of(name, head, spec, module)

    def _module(self, loc: Loc, backend: Any) -> ModuleType | None:
        if not isinstance(backend, str) or not backend:
            return None
        try:
            return _backend(backend)
        except UnknownNameError as error:
            self.source.report(loc, str(error))
        except ImportError as error:
            self.source.report(loc, f"the backend {backend!r} cannot be imported: {error}. Is its extra installed?")
        return None

    def models(self) -> dict[str, ModelEntry]:
        found: dict[str, ModelEntry] = {}
        for key, value in self.source.mapping("models").items():
            loc: Loc = ("models", key)
            try:
                ModelKey.parse(key)
            except ModelKeyError as error:
                self.source.report(loc, str(error))
            self._refer(loc, value, "deployment", "deployments")
            entry = self.source.read(ModelEntry, loc, value)
            if entry is None:
                continue
            deployments = [self._deployments[name] for name in entry.deployment if name in self._deployments]
            if entry.weights is None and deployments and all(one.needs_weights for one in deployments):
                names = " and ".join(repr(one.name) for one in deployments)
                serve = "serves from files, so it needs" if len(deployments) == 1 else "serve from files, so they need"
                self.source.report(loc, f"`weights` is missing: {names} {serve} a folder or file")
            found[key] = entry.model_copy(update={"weights": self._absolute(entry.weights)})
        return found

    def watched(self) -> tuple[WatchedRoot, ...]:
        found: dict[Path, WatchedRoot] = {}
        for loc, value in self.source.items("watched"):
            self._refer(loc, value, "deployment", "deployments")
            self._refer(loc, value, "suite", "suites", "benchmarks")
            root = self.source.read(WatchedRoot, loc, value)
            if root is None:
                continue
            for name in root.deployment:
                if name in self._deployments and not self._deployments[name].reads:
                    problem = f"{name!r} does not serve from files, so a folder is no use to it"
                    self.source.report((*loc, "deployment"), problem)
            path = self._absolute(root.path) or root.path
            if path in found:
                self.source.report((*loc, "path"), "is watched twice: each checkpoint would be evaluated twice")
            found[path] = root.model_copy(update={"path": path})
        return tuple(found.values())

    def benchmarks(self) -> dict[str, BenchmarkSpec]:
        found: dict[str, BenchmarkSpec] = {}
        for name, value in self.source.mapping("benchmarks").items():
            self._check_name("benchmarks", name)
            spec = self.source.read(BenchmarkSpec, ("benchmarks", name), value)
            if spec is None:
                continue
            data = spec.data
            if data is not None:
                data = data.model_copy(update={"folder": self._absolute(data.folder)})
            found[name] = spec.model_copy(update={"include": self._absolute(spec.include), "data": data})
        return found

    def suites(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        known = self._declared("benchmarks")
        for name, value in self.source.mapping("suites").items():
            loc: Loc = ("suites", name)
            self._check_name("suites", name)
            if name in known:
                self.source.report(loc, "a benchmark has this name already; give the suite another")
            entry = self.source.read(SuiteEntry, loc, value)
            names = entry.root if entry else ()
            for i, benchmark in enumerate(names):
                if benchmark not in known:
                    self.source.report((*loc, i), str(UnknownNameError("benchmark", benchmark, known=known)))
                elif benchmark in names[:i]:
                    self.source.report((*loc, i), f"{benchmark!r} is listed twice")
            found[name] = names
        return found

    def _absolute(self, path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.abspath(self.folder / os.path.expanduser(path)))

    def _declared(self, *sections: str) -> list[str]:
        """Names a section declares, right or wrong: a broken entry is no reason to call its name unknown."""
        return [name for section in sections for name in self.source.mapping(section)]

    def _refer(self, loc: Loc, entry: Any, key: str, *sections: str) -> None:
        """Check a name that an entry of the file (read or not: all problems are told at once) refers to."""
        given = entry.get(key) if isinstance(entry, dict) else None
        known = self._declared(*sections)
        several = [((*loc, key, i), name) for i, name in enumerate(given)] if isinstance(given, list) else None
        for where, name in several or [((*loc, key), given)]:
            if isinstance(name, str) and name not in known:
                self.source.report(where, str(UnknownNameError(key, name, known=known)))

    def _check_name(self, section: str, name: str) -> None:
        extra, why = (
            ("_-", "'_' and '-'") if section == "deployments" else ("_", "'_', because it names Dagster assets")
        )
        if not re.fullmatch(f"[a-z0-9{extra}]+", name):
            near = re.sub(f"[^a-z0-9{extra}]", "_", slug(name))
            message = f"a name here takes only lower-case letters, digits, {why}: for example {near!r}"
            self.source.report((section, name), message)
