"""Are the weights in a folder or file whole? Two layouts: Hugging Face (safetensors) and GGUF.

Both formats declare in their header how many bytes follow, so a file that is still being copied is told
from a finished one without a marker. Only headers are read; nothing here imports numpy or a model library.
"""

import json
import os
import re
import stat
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

Layout = Literal["huggingface", "gguf"]

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".incomplete", ".download", ".crdownload")
# rsync writes `.model.safetensors.x1Y2z3`; other hidden files (.gitattributes, .DS_Store) mean nothing
_HIDDEN_COPY = re.compile(r"\..+\.(safetensors|gguf|json|txt|model|jinja)\b.*")
_MAX_HEADER_BYTES = 100_000_000


class UnfinishedError(Exception):
    """The files are not whole yet; the text says which and why."""


class UnusableError(Exception):
    """The files will never be a checkpoint as they are; the text says what to do."""


def is_temporary(name: str) -> bool:
    """Whether a file of that name is still being written, by the habits of rsync, curl, browsers and hub clients."""
    return name.lower().endswith(_TEMPORARY) or bool(_HIDDEN_COPY.fullmatch(name))


def check_whole(path: Path) -> Layout:
    """The layout of a checkpoint whose weights are all there.

    Raises:
        UnfinishedError: something is missing or ends early, and may still come.
        UnusableError: no layout that is read here.
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        _check_file(path)
        return "gguf"
    names = sorted(entry.name for entry in path.iterdir())
    tensors = [name for name in names if name.endswith(".safetensors") and not is_temporary(name)]
    ggufs = [name for name in names if name.endswith(".gguf") and not is_temporary(name)]
    index = "model.safetensors.index.json" in names
    if "config.json" in names and (tensors or index or not ggufs):
        _check_huggingface(path, names, tensors)
        return "huggingface"
    if len(ggufs) == 1:
        _check_file(path / ggufs[0])
        return "gguf"
    if ggufs:
        raise UnusableError(f"holds {len(ggufs)} .gguf files: keep one, or give each a revision of its own")
    if "adapter_config.json" in names:
        raise UnusableError("is an adapter, not a whole model: merge it into its base model first")
    if tensors or index:
        raise UnfinishedError("config.json is not there yet")
    raise UnfinishedError("no weights yet: neither config.json with *.safetensors, nor one *.gguf")


def _check_huggingface(folder: Path, names: list[str], tensors: list[str]) -> None:
    _check_json(folder / "config.json")
    wanted: dict[str, str] = {}
    if "model.safetensors.index.json" in names:
        index = _check_json(folder / "model.safetensors.index.json")
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise UnusableError("model.safetensors.index.json has no weight_map")
        wanted = {str(name): "model.safetensors.index.json names" for name in shards.values()}
    for name in tensors:
        if shard := _SHARD.fullmatch(name):
            stem, _, n_shards = shard.groups()
            every = (f"{stem}-{i:05d}-of-{n_shards}.safetensors" for i in range(1, min(int(n_shards), 10_000) + 1))
            wanted = dict.fromkeys(every, f"{name} implies") | wanted
    for name in sorted(wanted):
        if name not in names:
            raise UnfinishedError(f"{wanted[name]} {name}, which is not there")
    if not tensors:
        if "pytorch_model.bin" in names or "pytorch_model.bin.index.json" in names:
            raise UnusableError("holds pytorch_model.bin only: save it as safetensors")
        raise UnfinishedError("config.json is there, but no *.safetensors yet")
    for name in tensors:
        _check_file(folder / name)


def _check_json(path: Path) -> object:
    try:
        value: object = json.loads(path.read_bytes())
    except ValueError:
        raise UnfinishedError(f"{path.name} ends early or is no JSON") from None
    return value


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnusableError(f"{path.name} is no regular file")
    shortfall = _shortfall(str(path), status.st_size, status.st_mtime_ns, status.st_ino)
    if shortfall:
        raise UnfinishedError(f"{path.name} {shortfall}")


@lru_cache(maxsize=4096)
def _shortfall(path: str, size: int, _mtime_ns: int, _inode: int) -> str | None:
    """What the file lacks; remembered while its size, time and inode stay, as a sensor asks every minute."""
    with open(path, "rb") as file:
        try:
            declared = _gguf_size(file, size) if path.endswith(".gguf") else _safetensors_size(file, size)
        except _EndsEarlyError:
            return f"ends early (within its header, after {format_bytes(size)})"
        except _GarbledError as error:
            return str(error)
    if size < declared:
        return f"ends early (declares {format_bytes(declared)}, holds {format_bytes(size)})"
    if size > declared and path.endswith(".safetensors"):
        return f"is longer than it declares ({format_bytes(declared)}, holds {format_bytes(size)})"
    return None


class _EndsEarlyError(Exception):
    """The header points behind the end of the file."""


class _GarbledError(Exception):
    """The header is none."""


def _safetensors_size(file: BinaryIO, size: int) -> int:
    """Bytes a safetensors file declares: 8 of length, the JSON header, and the furthest tensor."""
    if size < 8:
        raise _EndsEarlyError
    (n_header,) = struct.unpack("<Q", file.read(8))
    if n_header > _MAX_HEADER_BYTES:
        raise _GarbledError("does not start with a safetensors header")
    if 8 + n_header > size:
        raise _EndsEarlyError
    try:
        tensors = json.loads(file.read(n_header))
        ends = [int(entry["data_offsets"][1]) for name, entry in tensors.items() if name != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _GarbledError("has a garbled safetensors header") from None
    return 8 + int(n_header) + max(ends, default=0)


# ggml's tensor types: number → (values per block, bytes per block)
_GGML = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1),
    25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66),
    39: (32, 17),
}  # fmt: skip
_FIXED_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


def _gguf_size(file: BinaryIO, size: int) -> int:
    """Bytes a GGUF file (version 2 or 3) declares, without the padding after its last tensor."""
    reader = _Gguf(file, size)
    if reader.take(4) != b"GGUF":
        raise _GarbledError("is no GGUF file")
    version = reader.u32()
    if version not in (2, 3):
        raise _GarbledError(f"has GGUF version {version}; 2 and 3 are read (little-endian)")
    n_tensors, n_values = reader.u64(), reader.u64()
    alignment = 32
    for _ in range(n_values):
        key, kind = reader.string(), reader.u32()
        if key == b"general.alignment" and kind == 4:
            alignment = reader.u32() or 32
        else:
            reader.skip_value(kind)
    end = max(reader.tensor_ends(n_tensors), default=0)
    return -(-reader.at // alignment) * alignment + end


class _Gguf:
    """Reads a GGUF header; never further than the file is long."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self.at = file, size, 0

    def take(self, n: int) -> bytes:
        self._reach(n)
        taken = self._file.read(n)
        if len(taken) < n:
            raise _EndsEarlyError
        return taken

    def _reach(self, n: int) -> None:
        self.at += n
        if self.at > self._size:
            raise _EndsEarlyError

    def _skip(self, n: int) -> None:
        self._reach(n)
        self._file.seek(n, os.SEEK_CUR)

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def string(self) -> bytes:
        return self.take(self.u64())

    def skip_value(self, kind: int) -> None:
        if kind in _FIXED_BYTES:
            self._skip(_FIXED_BYTES[kind])
        elif kind == _STRING:
            self._skip(self.u64())
        elif kind == _ARRAY:
            inner, n = self.u32(), self.u64()
            if inner in _FIXED_BYTES:
                self._skip(n * _FIXED_BYTES[inner])
                return
            for _ in range(n):
                self.skip_value(inner)
        else:
            self._unknown(kind)

    def _unknown(self, kind: int) -> NoReturn:
        raise _GarbledError(f"has a garbled GGUF header (value type {kind})")

    def tensor_ends(self, n_tensors: int) -> Iterator[int]:
        """Where each tensor ends, counted from the start of the data; its start for a type not known here."""
        for _ in range(n_tensors):
            self.string()
            n_values = 1
            for _ in range(self.u32()):
                n_values *= self.u64()
            per_block, block_bytes = _GGML.get(self.u32(), (1, 0))
            yield self.u64() + n_values // per_block * block_bytes


def format_bytes(n: int) -> str:
    """`270 MB`: decimal units, at most three digits."""
    size, units = float(n), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"
