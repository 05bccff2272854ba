"""Reads the sections of `evals.yaml`, and checks that names which are referred to exist."""

import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from eval_pipelines import plugins
from eval_pipelines.config.deployments import Deployment, DeploymentFields, Machine, asked_for
from eval_pipelines.config.gates import Gate, read_gate
from eval_pipelines.config.interceptors import without_mistakes
from eval_pipelines.config.prices import Prices
from eval_pipelines.config.source import Loc, Source
from eval_pipelines.config.specs import BenchmarkSpec, ModelEntry, SuiteEntry, WatchedRoot
from eval_pipelines.config.store import ConfiguredStore, read_store
from eval_pipelines.errors import ModelKeyError, UnknownNameError
from eval_pipelines.keys import ModelKey, slug

_BACKENDS = "serving.backends"
# beside evals.yaml
OWN_BENCHMARKS = Path("benchmarks")


def _backend(name: str) -> ModuleType:
    return plugins.load(_BACKENDS, name, kind="backend")


class Reader:
    """Reads the sections of one file, one method each; what does not fit is reported to the source and left out."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.source, self.folder = source, folder
        self._deployments: dict[str, Deployment] = {}
        self._prices: Prices | None = None

    def data_root(self) -> Path | None:
        value = self.source.data.get("data_root", "data")
        if not isinstance(value, str) or not value or "://" in value:
            self.source.report(
                ("data_root",), "must be the path of a folder, such as `data`; an object store goes into `store`"
            )
            return None
        return self._absolute(Path(value))

    def machine(self) -> Machine | None:
        given = self.source.data.get("machine") or {}
        found = self.source.read(Machine, ("machine",), given)
        return found and found.model_copy(update={"folder": self._absolute(found.folder)})

    def store(self) -> ConfiguredStore | None:
        return read_store(self.source)

    def prices(self) -> Prices | None:
        found = self.source.read(Prices, ("prices",), self.source.data.get("prices") or {})
        self._prices = found
        return found

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
        return Deployment.of(name, head, spec, module, self._prices)

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
            entry = self.source.read(ModelEntry, loc, without_mistakes(self.source, loc, value))
            if entry is None:
                continue
            deployments = [self._deployments[name] for name in entry.deployment if name in self._deployments]
            if entry.weights is None and deployments and all(one.needs_weights for one in deployments):
                names = " and ".join(repr(one.name) for one in deployments)
                serve = "serves from files, so it needs" if len(deployments) == 1 else "serve from files, so they need"
                self.source.report(loc, f"`weights` is missing: {names} {serve} a folder or file")
            for one in deployments:
                self._check_price(loc, one, asked_for(one, entry.served_name, key))
            found[key] = entry.model_copy(update={"weights": self._absolute(entry.weights)})
        return found

    def _check_price(self, loc: Loc, deployment: Deployment, served_name: str) -> None:
        # prices that are wrong are told already; a server we start may give a model another name: its lease tells
        if self._prices is None or deployment.daily_cost is None or deployment.is_started_here:
            return
        if self._prices.of(served_name) is not None:
            return
        problem = (
            f"{deployment.name!r} has a daily_cost, and prices.per_million_tokens has no price for {served_name!r}"
        )
        self.source.report(loc, problem)

    def watched(self) -> tuple[WatchedRoot, ...]:
        found: dict[Path, WatchedRoot] = {}
        for loc, value in self.source.items("watched"):
            self._refer(loc, value, "deployment", "deployments")
            self._refer(loc, value, "suite", "suites", "benchmarks")
            root = self.source.read(WatchedRoot, loc, without_mistakes(self.source, loc, value))
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
            loc: Loc = ("benchmarks", name)
            spec = self.source.read(BenchmarkSpec, loc, without_mistakes(self.source, loc, value))
            self._check_judge((*loc, "judge"), value.get("judge") if isinstance(value, dict) else None)
            if spec is None:
                continue
            data = spec.data
            if data is not None:
                data = data.model_copy(update={"folder": self._absolute(data.folder)})
            include = self._absolute(spec.include) or self._own_benchmarks()
            found[name] = spec.model_copy(update={"include": include, "data": data})
        return found

    def _own_benchmarks(self) -> Path | None:
        folder = self._absolute(OWN_BENCHMARKS)
        return folder if folder and folder.is_dir() else None

    def _check_judge(self, loc: Loc, judge: Any) -> None:
        self._refer(loc, judge, "models", "models")
        baseline = judge.get("baseline") if isinstance(judge, dict) else None
        if not isinstance(baseline, str) or baseline in self._declared("models"):
            return
        try:
            family = ModelKey.parse(baseline).family
        except ModelKeyError as error:
            self.source.report((*loc, "baseline"), str(error))
            return
        # a checkpoint of a watched folder need not be there yet
        roots = [root for _, root in self.source.items("watched") if isinstance(root, dict)]
        if not any(root.get("family") in (None, family) for root in roots):
            self.source.report(
                (*loc, "baseline"), str(UnknownNameError("model", baseline, known=self._declared("models")))
            )

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

    def gates(self) -> dict[str, Gate]:
        found: dict[str, Gate] = {}
        models = self._declared("models")
        roots = [root for _, root in self.source.items("watched") if isinstance(root, dict)]
        # a watched folder brings models that the file does not name
        families = None if roots else sorted({key.partition("@")[0] for key in models})
        for name, value in self.source.mapping("gates").items():
            self._check_name("gates", name)
            gate = read_gate(
                self.source,
                ("gates", name),
                value,
                benchmarks=self._declared("benchmarks"),
                models=models,
                families=families,
            )
            if gate is not None:
                found[name] = gate
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
                self.source.report(where, str(UnknownNameError(key.removesuffix("s"), name, known=known)))

    def _check_name(self, section: str, name: str) -> None:
        extra, why = (
            ("_-", "'_' and '-'") if section == "deployments" else ("_", "'_', because it names Dagster assets")
        )
        if not re.fullmatch(f"[a-z0-9{extra}]+", name):
            near = re.sub(f"[^a-z0-9{extra}]", "_", slug(name))
            message = f"a name here takes only lower-case letters, digits, {why}: for example {near!r}"
            self.source.report((section, name), message)
