"""A landing folder that is one machine's copy of what a team keeps in a store.

What is landed here is copied there before the step that landed it ends; what others landed is fetched when it is asked
for. Files never change, so a copy is right for ever. A killed process leaves a file here that is not there yet: the next
`sync` copies it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from eval_pipelines.warehouse.files import aside_of, write_copy
from eval_pipelines.warehouse.landed_rows import read
from eval_pipelines.warehouse.noticed import announced_by
from eval_pipelines.warehouse.shapes import SHAPES
from eval_pipelines.warehouse.stores import Store

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Synced:
    """What one look at both sides copied."""

    n_fetched: int
    n_kept: int


class Mirror:
    """One landing folder and the store behind it."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self._store = folder, store

    def keep(self, path: Path) -> Path:
        """Copy a file that was landed here; returns where it lies here now. Raises WarehouseError.

        Two machines may have chosen one name for what is not the same (two processes on one machine cannot): the later
        file gets the next free name on both sides.
        """
        n = 1
        stem, folder = path.stem, path.parent
        while not self._store.put(self._name(path), path):
            if self._is_same(path):
                return path
            n += 1
            while (free := folder / f"{stem}-{n}{path.suffix}").exists():
                n += 1
            path = self._renamed(path, free)
        return path

    def fetch(self, folder: str) -> int:
        """Fetch what others landed at or below a folder; returns how many files. Raises WarehouseError."""
        return self._fetch_all(name for name in self._store.names(folder) if not (self.folder / name).exists())

    def sync(self, kinds: Iterable[str] = tuple(SHAPES)) -> Synced:
        """Fetch what is only there and keep what is only here. Raises WarehouseError.

        What rests on other files is listed before them and copied after them, in both directions: whoever sees a metric
        sees what it rests on.
        """
        listed = {kind: set(self._store.names(kind)) for kind in sorted(kinds, key=list(SHAPES).index)}
        here = {kind: set(self._here(kind)) for kind in listed}
        n_fetched = n_kept = 0
        for kind in reversed(listed):
            n_fetched += self._fetch_all(sorted(listed[kind] - here[kind]))
            for name in sorted(here[kind] - listed[kind]):
                self.keep(self.folder / name)
                n_kept += 1
        return Synced(n_fetched, n_kept)

    def _here(self, kind: str) -> Iterator[str]:
        return (self._name(path) for path in (self.folder / kind).rglob("[!.]*.parquet"))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _fetch_all(self, names: Iterable[str]) -> int:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return sum(1 for _ in pool.map(self._fetch, names))

    def _fetch(self, name: str) -> None:
        write_copy(self.folder / name, lambda aside: self._store.get(name, aside), announced_by(self.folder))

    def _renamed(self, path: Path, free: Path) -> Path:
        """Both names are real files', now or later, and a note removes what it names once it is old: so a third is noted."""
        mark = aside_of(path)
        mark.touch(exist_ok=False)
        try:
            announced_by(self.folder)(mark)
            return path.rename(free)
        finally:
            mark.unlink()

    def _is_same(self, path: Path) -> bool:
        """By its rows: a lake keeps those, in any order, and writes a file of them anew."""
        theirs = aside_of(path)
        try:
            self._store.get(self._name(path), theirs)
            kind = self._name(path).split("/", 1)[0]
            one, other = (Counter(hash(repr(row)) for row in read(kind, [file])) for file in (theirs, path))
            return one == other
        finally:
            theirs.unlink(missing_ok=True)
