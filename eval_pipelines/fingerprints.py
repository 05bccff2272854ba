"""Fingerprints: same bytes, same fingerprint; overwritten bytes, a new one.

Weights and whatever else changes what a model answers (config, tokenizer, chat template) are hashed;
optimizer states, logs and READMEs are not. A cache keeps the hash of each file by path, size, time and inode.
"""

import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from eval_pipelines.errors import EvalPipelinesError
from eval_pipelines.keys import digest

_COUNTED = re.compile(
    r".+\.(safetensors|gguf|model|tiktoken|jinja|py)|(pytorch|adapter)_model.*\.bin|.+\.index\.json"
    r"|(.+_)?config\.json|tokenizer.*\.json|chat_template\..+|(special_tokens_map|added_tokens|vocab)\.json"
    r"|(vocab|merges)\.txt"
)
# Files, not checkpoints: of which there are thousands, with some ten files each. Fewer, and each look would hash them all.
_N_REMEMBERED = 65_536
# A file changed within the clock's grain of being hashed would look unchanged: too young to be remembered.
_SETTLED_NS = 2_000_000_000

_Known = dict[str, tuple[int, int, int, str]]


class CheckpointVanished(EvalPipelinesError):
    """A file went away or changed while it was being hashed: look again later."""


class HashingPaused(EvalPipelinesError):
    """The time for hashing is up; what was hashed is remembered, and the next call goes on from there."""


def fingerprint(path: Path, *, cache: Path | None, deadline: float | None = None) -> str:
    """Content hash of a checkpoint: of its counted files, by relative name and bytes; 32 hex digits.

    Args:
        path: a folder, or a single weight file (whose own name does not count).
        cache: JSON file of hashes by path, size, mtime and inode; a missing or corrupt one costs only time.
        deadline: a moment of `time.monotonic()` after which no further file is hashed.

    Raises:
        CheckpointVanished: a file went away or changed meanwhile, or there is none.
        HashingPaused: the deadline passed; with a cache, the next call goes on from here.
        OSError: a file cannot be read.
    """
    remembered = _Hashes(cache)
    parts: list[tuple[str, int, str]] = []
    try:
        files = counted_files(path)
        for n_done, file in enumerate(files):
            if deadline is not None and time.monotonic() > deadline and not remembered.holds(file):
                raise HashingPaused(f"{n_done} of {len(files)} files hashed so far; going on at the next look")
            size, hashed = remembered.hash(file)
            parts.append((file.relative_to(path).as_posix() if file != path else path.suffix, size, hashed))
    except FileNotFoundError as error:
        raise CheckpointVanished(f"{Path(str(error.filename)).name} went away while it was read") from None
    finally:
        remembered.save()
    if not parts:
        raise CheckpointVanished(f"{path.name} holds no files to hash")
    return digest(parts)


def hosted_fingerprint(base_url: str, served_name: str, revision: str, *, left_out: Sequence[str] = ()) -> str:
    """Stands in for the bytes of a model that someone else serves; credentials in the URL do not count.

    Args:
        left_out: Parameters of requests that are never sent there.
    """
    url = urlsplit(base_url)
    parts = ["hosted", f"{url.hostname}:{url.port}{url.path.rstrip('/')}", served_name, revision]
    return digest([*parts, sorted(left_out)] if left_out else parts)


def counted_files(path: Path) -> list[Path]:
    """The files whose bytes make the fingerprint, sorted. All visible files, where none is of a known kind."""
    if not path.is_dir():
        return [path]
    top = sorted(file for file in path.iterdir() if not file.name.startswith(".") and file.is_file())
    counted = [file for file in top if _COUNTED.fullmatch(file.name)]
    if counted:
        return counted
    everything = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sorted(file for file in everything if not file.name.startswith("."))


class _Hashes:
    """Hashes of single files, remembered across processes."""

    def __init__(self, cache: Path | None) -> None:
        self._cache = cache
        self._known = _load(cache)
        self._new: _Known = {}

    def holds(self, file: Path) -> bool:
        """Whether the file is unchanged since it was hashed."""
        return self._known.get(_name(file), (None,))[:3] == _identity(file.stat())

    def hash(self, file: Path) -> tuple[int, str]:
        """Size in bytes, and hash of the contents. Raises CheckpointVanished if the file changes meanwhile."""
        before = file.stat()
        if not stat.S_ISREG(before.st_mode):
            raise CheckpointVanished(f"{file.name} is no regular file")
        if self.holds(file):
            return before.st_size, self._known[_name(file)][3]
        with file.open("rb") as opened:
            hashed = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        after = file.stat()
        if _identity(before) != _identity(after):
            raise CheckpointVanished(f"{file.name} changed while it was read")
        if abs(time.time_ns() - after.st_mtime_ns) > _SETTLED_NS:
            self._new[_name(file)] = (*_identity(after), hashed)
        return after.st_size, hashed

    def save(self) -> None:
        """Write aside and rename. Another process may have written meanwhile: what it learned is kept."""
        if self._cache is None or not self._new:
            return
        merged = {name: entry for name, entry in _load(self._cache).items() if name not in self._new} | self._new
        newest = dict(list(merged.items())[-_N_REMEMBERED:])
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            descriptor, aside = tempfile.mkstemp(dir=self._cache.parent, prefix=f".{self._cache.name}.")
            with os.fdopen(descriptor, "w") as file:
                json.dump(newest, file)
            Path(aside).replace(self._cache)
        except OSError:
            # A cache that cannot be written costs time, never a result.
            return


def _name(file: Path) -> str:
    return str(file.absolute())


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _load(cache: Path | None) -> _Known:
    if cache is None:
        return {}
    try:
        return _parsed(cache, _identity(cache.stat()))
    except OSError:
        return {}


@lru_cache(maxsize=1)
def _parsed(cache: Path, _seen: tuple[int, int, int]) -> _Known:
    """Read once for all checkpoints: it is replaced, never written in place. Not to be changed by who gets it."""
    try:
        found = json.loads(cache.read_bytes())
        return {str(name): (int(a), int(b), int(c), str(hashed)) for name, (a, b, c, hashed) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
