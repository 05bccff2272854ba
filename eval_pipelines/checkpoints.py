"""Checkpoints on storage: which are finished, which are still being written, which are due.

    <path>/<family>/<revision>/   or, with `family` given,   <path>/<revision>/   or   <path>/<revision>.gguf

A folder is finished when its completion rule holds (a marker, or a newest file old enough) and its weights
are whole by what their headers declare. Nothing here knows who asks.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from eval_pipelines.checkpoint_files import Layout, UnfinishedError, UnusableError, check_whole, is_temporary
from eval_pipelines.errors import ModelKeyError
from eval_pipelines.fingerprints import (
    CheckpointVanished,
    HashingPaused,
    counted_files,
    fingerprint,
    hosted_fingerprint,
)
from eval_pipelines.keys import ModelKey, slug

__all__ = [
    "Checkpoint",
    "CheckpointVanished",
    "Due",
    "Ignored",
    "Scan",
    "Waiting",
    "fingerprint",
    "hosted_fingerprint",
    "scan",
    "what_is_due",
]

_STALE_S = 3600


class Root(Protocol):
    """What `scan` needs to know of a watched folder; `config.WatchedRoot` has it."""

    @property
    def path(self) -> Path: ...
    @property
    def family(self) -> str | None: ...
    @property
    def done_marker(self) -> str | None: ...
    @property
    def settle_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights on storage that are finished.

    Attributes:
        weights: Folder (links followed, so that a `latest` link names one checkpoint) or GGUF file.
        n_bytes: Size of the files that count for the fingerprint.
        modified_at: When the newest of those files was written.
        note: What a person should know, such as that the folder's name was changed to make the key; or empty.
    """

    model_key: ModelKey
    weights: Path
    layout: Layout
    fingerprint: str
    n_bytes: int
    modified_at: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that may become a checkpoint, and why it is none yet. `whole_as`: its key, if only its hash is missing."""

    name: str
    reason: str
    modified_at: datetime | None = None
    whole_as: ModelKey | None = None


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something that will be no checkpoint until a person acts, and what to do."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """One look at a watched folder."""

    finished: tuple[Checkpoint, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    ignored: tuple[Ignored, ...] = ()


@dataclass(frozen=True, slots=True)
class Due:
    """What to evaluate now.

    Attributes:
        reason: One line for a person: what was found and what of it waits.
        seen: Model key → fingerprint requested, for the next time; deleted checkpoints stay in it.
    """

    due: tuple[Checkpoint, ...]
    reason: str
    seen: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A folder or file that stands where a checkpoint would, with the names its key is made of."""

    path: Path
    name: str
    family: str
    revision: str


def scan(root: Root, *, now: datetime, cache: Path | None = None, hash_for_s: float | None = None) -> Scan:
    """Look at a watched folder once. Raises nothing: what cannot be read waits, and says so.

    Args:
        cache: file with the hashes of unchanged files, see `fingerprint`.
        hash_for_s: seconds after which no further file is hashed; the rest waits for the next look.
    """
    deadline = None if hash_for_s is None else time.monotonic() + hash_for_s
    finished: list[Checkpoint] = []
    waiting: list[Waiting] = []
    ignored: list[Ignored] = []
    try:
        entries = list(_entries(root))
    except OSError as error:
        return Scan(waiting=(Waiting(str(root.path), _in_words(error, "the watched folder")),))
    keys: dict[_Entry, ModelKey] = {}
    for entry in entries:
        if is_temporary(entry.path.name) or entry.path.name.startswith("."):
            waiting.append(Waiting(entry.name, "still being written, by its name", _newest(entry.path)))
            continue
        try:
            keys[entry] = ModelKey(entry.family.lower(), entry.revision.lower())
        except ModelKeyError:
            ignored.append(Ignored(entry.name, _rename(entry)))
    n_named = Counter(keys.values())
    for entry, key in keys.items():
        if n_named[key] > 1:
            others = ", ".join(repr(one.name) for one in keys if keys[one] == key and one != entry)
            ignored.append(Ignored(entry.name, f"would be {key}, and so would {others}: rename one of them"))
            continue
        try:
            finished.append(_finish(entry, key, root, now=now, cache=cache, deadline=deadline))
        except UnusableError as error:
            ignored.append(Ignored(entry.name, str(error)))
        except (UnfinishedError, CheckpointVanished, HashingPaused) as error:
            whole_as = key if isinstance(error, HashingPaused) else None
            waiting.append(Waiting(entry.name, str(error), _newest(entry.path), whole_as))
        except OSError as error:
            waiting.append(Waiting(entry.name, _in_words(error, entry.name), _newest(entry.path)))
    return Scan(tuple(finished), tuple(waiting), tuple(ignored))


def _entries(root: Root) -> Iterator[_Entry]:
    if root.family is not None:
        yield from _entries_of(root.path, root.family, "")
        return
    for folder in sorted(root.path.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            yield from _entries_of(folder, folder.name, f"{folder.name}/")


def _entries_of(folder: Path, family: str, prefix: str) -> Iterator[_Entry]:
    for path in sorted(folder.iterdir()):
        name = path.name
        if path.is_dir() or _is_broken_link(path):
            if not name.startswith(".") or any(path.glob("*.safetensors*")) or any(path.glob("*.gguf*")):
                yield _Entry(path, prefix + name, family, name)
        elif name.endswith(".gguf") or (".gguf." in name and is_temporary(name)):
            yield _Entry(path, prefix + name, family, name.split(".gguf")[0])


def _is_broken_link(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _rename(entry: _Entry) -> str:
    parts = {"revision": entry.revision, "family": entry.family}
    wrong = {what: part for what, part in parts.items() if slug(part) != part.lower()}
    words = " and ".join(f"{part!r} is no usable {what}: rename it to {slug(part)!r}" for what, part in wrong.items())
    return words or "is no usable name: lower-case letters, digits, '.', '_' and '-' make a model key"


def _finish(
    entry: _Entry, key: ModelKey, root: Root, *, now: datetime, cache: Path | None, deadline: float | None
) -> Checkpoint:
    """The finished checkpoint. Raises UnfinishedError, UnusableError, CheckpointVanished, HashingPaused, OSError."""
    if _is_broken_link(entry.path):
        raise UnfinishedError("is a link to something that is not there")
    # A link is followed now: later it may point to another checkpoint.
    path = entry.path.resolve(strict=True) if entry.path.is_dir() else entry.path
    if root.done_marker is not None:
        _check_marker(path, root.done_marker)
    elif path.is_dir() and (temporary := sorted(file.name for file in path.iterdir() if is_temporary(file.name))):
        raise UnfinishedError(f"still being written: holds {temporary[0]}")
    layout = check_whole(path)
    if root.done_marker is None:
        _check_settled(path, root.settle_s, now)
    content = fingerprint(path, cache=cache, deadline=deadline)
    statuses = [file.stat() for file in counted_files(path)]
    renamed = str(key) != f"{entry.family}@{entry.revision}"
    return Checkpoint(
        model_key=key,
        weights=path,
        layout=layout,
        fingerprint=content,
        n_bytes=sum(status.st_size for status in statuses),
        modified_at=datetime.fromtimestamp(max(status.st_mtime for status in statuses), UTC),
        note=f"{entry.name!r} is called {key} here: model keys are lower case" if renamed else "",
    )


def _check_marker(path: Path, marker: str) -> None:
    if path.is_dir():
        if not (path / marker).exists():
            raise UnfinishedError(f"no {marker} marker yet")
    elif not path.with_name(beside := f"{path.name}.{marker.lstrip('.')}").exists():
        raise UnfinishedError(f"no {beside} marker beside it yet")


def _check_settled(path: Path, settle_s: float, now: datetime) -> None:
    newest = _newest(path)
    age_s = (now - newest).total_seconds() if newest else 0.0
    if age_s < settle_s:
        raise UnfinishedError(f"still being written: newest file is {age_s:.0f} s old, settle_s is {settle_s:g}")


def _newest(path: Path) -> datetime | None:
    """When the newest file at or below `path` was written; None if that cannot be told."""
    files = [path] if not path.is_dir() else (Path(top) / name for top, _, names in os.walk(path) for name in names)
    times: list[float] = []
    for file in files:
        try:
            times.append(file.stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _in_words(error: OSError, fallback: str) -> str:
    name = Path(str(error.filename)).name if error.filename else fallback
    if isinstance(error, FileNotFoundError):
        return f"{name} is not there"
    return f"{name} cannot be read: {(error.strerror or str(error)).lower()}"


def what_is_due(
    *,
    seen: Mapping[str, str],
    found: Sequence[Checkpoint],
    waiting: Sequence[Waiting] = (),
    limit: int,
    now: datetime,
) -> Due:
    """Choose what to evaluate now: new or changed checkpoints, earliest training step first, at most `limit`.

    Args:
        seen: model key → fingerprint already requested. A checkpoint that went away stays in it, so that it is
            not evaluated again when it reappears unchanged.
        now: to say of a waiting checkpoint how long nothing was written to it.
    """
    by_key = {str(checkpoint.model_key): checkpoint for checkpoint in reversed(found)}
    fresh = [one for key, one in by_key.items() if seen.get(key) != one.fingerprint]
    fresh.sort(key=lambda one: (one.model_key.step is None, one.model_key.step or 0, str(one.model_key)))
    due = tuple(fresh[: max(limit, 0)])
    n_changed = sum(str(one.model_key) in seen for one in fresh)
    counts = f"{len(fresh) - n_changed} new, {n_changed} changed" if fresh else "none new or changed"
    parts = [f"{len(by_key)} finished, {counts}"]
    if len(due) < len(fresh):
        parts.append(f"{len(fresh) - len(due)} left for the next time")
    if waiting:
        parts.append(
            f"{len(waiting)} still being written: " + ", ".join(_waiting_in_words(one, now) for one in waiting)
        )
    return Due(due, "; ".join(parts), {**seen, **{str(one.model_key): one.fingerprint for one in due}})


def _waiting_in_words(one: Waiting, now: datetime) -> str:
    idle_s = (now - one.modified_at).total_seconds() if one.modified_at else 0.0
    idle = f"; nothing written for {idle_s / 3600:.0f} h" if idle_s >= _STALE_S else ""
    return f"{one.name} ({one.reason}{idle})"
