"""Whose each task is: lm-eval's, this project's, or the operator's own file."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval_pipelines.benchmarks.catalog import Catalog, Entry, open_catalog
from eval_pipelines.benchmarks.own_names import SHIPPED, SUFFIXES, benchmarks_called, files_below
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.config.reader import OWN_BENCHMARKS
from eval_pipelines.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a task comes from.

    Attributes:
        in_words: `lm-eval`, `eval-pipelines` or a file of the operator's, and what it stands in place of.
        notes: Files that are called as the task is, and are not the one that is asked; whole sentences.
    """

    in_words: str
    notes: tuple[str, ...] = ()


def origins(benchmarks: Mapping[str, BenchmarkSpec], *, cache: Path, folder: Path) -> dict[str, Origin]:
    """Benchmark → where its task comes from; a task that is not there has a note instead.

    Args:
        folder: Where evals.yaml lies.
    """
    catalogs: dict[Path | None, Catalog] = {}
    found: dict[str, Origin] = {}
    for name, spec in benchmarks.items():
        try:
            if spec.include not in catalogs:
                catalogs[spec.include] = open_catalog(cache, include=spec.include)
            found[name] = origin_of(spec, catalogs[spec.include], folder=folder)
        except ConfigError as error:
            found[name] = Origin("nowhere", (str(error),))
    return found


def origin_of(spec: BenchmarkSpec, catalog: Catalog, *, folder: Path) -> Origin:
    """Where a task comes from. Raises UnknownNameError, or ConfigError for a file that is none."""
    entry = catalog.entry(spec.task)
    replaced = [
        leaf.entry for leaf in catalog.leaves(spec.task) if leaf.entry.replaces and leaf.entry.name != spec.task
    ]
    told = "".join(f"; its {one.name}: {_whose(one, folder)}" for one in replaced)
    return Origin(_whose(entry, folder) + told, tuple(_notes(entry, spec.include, folder)))


def _whose(entry: Entry, folder: Path) -> str:
    if entry.origin in SHIPPED:
        return entry.origin
    path = entry.path or Path(entry.origin)
    shown = path.relative_to(folder) if path.is_relative_to(folder) else path
    return f"{shown}, in place of the one in {entry.replaces}" if entry.replaces else str(shown)


def _notes(entry: Entry, include: Path | None, folder: Path) -> Iterator[str]:
    if entry.origin not in SHIPPED:
        for path in benchmarks_called(entry.name, files_below(Path(entry.origin))):
            if path != entry.path:
                yield f"{path} is a benchmark {entry.name!r}, too, and is not used: {entry.path} is"
        return
    for path in benchmarks_called(entry.name, _near(entry.name, folder)):
        # what lies in `include` and is not read is refused
        if include is None or not path.is_relative_to(include):
            yield (
                f"{path} is a benchmark {entry.name!r}, too, and is not used: the one in {entry.origin} is. To ask yours, "
                f"move it into {include or folder / OWN_BENCHMARKS}, or name its folder as `include`"
            )


def _near(name: str, folder: Path) -> Iterator[Path]:
    """Files so called where one's own benchmarks are likely kept: beside evals.yaml, and one folder down."""
    # by os: a folder that may not be looked into holds nothing, and is no error
    _, below, _ = next(os.walk(folder), (None, [], None))
    for place in (folder, *(folder / one for one in below if one != OWN_BENCHMARKS.name)):
        yield from (path for suffix in SUFFIXES if os.path.isfile(path := place / f"{name}{suffix}"))
    yield from files_below(folder / OWN_BENCHMARKS)
