"""The header of a GGUF file: metadata, tensor table, and whether the file is whole.

Read by hand, because the gguf package needs three seconds for the 100,000 strings of a vocabulary; this needs 0.1 s.
Source: the GGUF specification, versions 2 and 3, little-endian.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eval_pipelines.embedded.errors import GgufError

# The numbers of GGUF value types and of the tensor types OpenVINO reads without loss.
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
F32, F16, BF16 = 0, 1, 30
EXACT_TYPES: Final = frozenset({F32, F16, BF16})
DEFAULT_ALIGNMENT: Final = 32


@dataclass(frozen=True)
class TensorInfo:
    """One row of the tensor table. `dims` is innermost first; `offset` is in bytes from the start of the data."""

    name: str
    dims: tuple[int, ...]
    kind: int
    offset: int

    @property
    def n_elements(self) -> int:
        """Number of weights."""
        return math.prod(self.dims)


@dataclass(frozen=True)
class GgufHeader:
    """Everything before the weights. `file_type_at` is where the value of general.file_type is, if the file has it."""

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    n_metadata: int
    metadata_span: tuple[int, int]
    file_type_at: int | None
    data_start: int
    alignment: int

    @property
    def architecture(self) -> str:
        """For example `llama`; the prefix of the model's own metadata keys."""
        return str(self.metadata.get("general.architecture", ""))

    def setting(self, name: str) -> Any:
        """A value of the model's own metadata, for example `context_length`; None if the file does not say."""
        return self.metadata.get(f"{self.architecture}.{name}")

    @property
    def is_exact(self) -> bool:
        """Whether every tensor is of a type that OpenVINO's reader keeps as it is."""
        return all(tensor.kind in EXACT_TYPES for tensor in self.tensors)


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of `path`. Raises GgufError if it is missing, no GGUF, or truncated."""
    if not path.is_file():
        raise GgufError(f"no weights file at {path}. Give --weights the path of a .gguf file.")
    if path.stat().st_size < 24:
        raise GgufError(f"{path} is no GGUF file: it has {path.stat().st_size} bytes. Fetch it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        if view[:4] != b"GGUF":
            raise GgufError(f"{path} is no GGUF file: it starts with {bytes(view[:4])!r}, not b'GGUF'.")
        try:
            header = _parse(path, _Cursor(view))
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise GgufError(f"{path} is a truncated or damaged GGUF file: its header ends early. {_AGAIN}") from error
    _check_complete(header, path.stat().st_size)
    return header


_AGAIN: Final = "Copy or download it again."


class _Cursor:
    def __init__(self, view: mmap.mmap) -> None:
        self.view, self.at = view, 0

    def unpack(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.view, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        (length,) = struct.unpack_from("<Q", self.view, self.at)
        start = self.at + 8
        if start + length > len(self.view):
            raise IndexError("string beyond the end of the file")
        self.at = start + length
        return self.view[start : self.at].decode("utf-8", errors="surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            item, count = self.unpack("I"), self.unpack("Q")
            if item in _SCALARS:
                values = struct.unpack_from(f"<{count}{_SCALARS[item]}", self.view, self.at)
                self.at += struct.calcsize(f"<{count}{_SCALARS[item]}")
                return list(values)
            return [self.value(item) for _ in range(count)]
        if kind not in _SCALARS:
            raise IndexError(f"unknown value type {kind}")
        return self.unpack(_SCALARS[kind])


def _parse(path: Path, cursor: _Cursor) -> GgufHeader:
    cursor.at = 4
    version = cursor.unpack("I")
    if version not in (2, 3):
        raise GgufError(f"{path} is GGUF version {version}; this server reads versions 2 and 3 (little-endian).")
    n_tensors, n_metadata = cursor.unpack("Q"), cursor.unpack("Q")
    start, metadata, file_type_at = cursor.at, {}, None
    for _ in range(n_metadata):
        key, kind = cursor.string(), cursor.unpack("I")
        if key == "general.file_type":
            file_type_at = cursor.at
        metadata[key] = cursor.value(kind)
    end = cursor.at
    tensors = []
    for _ in range(n_tensors):
        name, n_dims = cursor.string(), cursor.unpack("I")
        dims = tuple(cursor.unpack("Q") for _ in range(n_dims))
        tensors.append(TensorInfo(name, dims, cursor.unpack("I"), cursor.unpack("Q")))
    alignment = int(metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    data_start = -(-cursor.at // alignment) * alignment
    return GgufHeader(
        path, version, metadata, tuple(tensors), n_metadata, (start, end), file_type_at, data_start, alignment
    )


def _check_complete(header: GgufHeader, size_bytes: int) -> None:
    if not header.tensors:
        raise GgufError(f"{header.path} holds no tensors: it is a vocabulary or an empty file, not a model.")
    end = max(header.data_start + tensor.offset + n_bytes(tensor) for tensor in header.tensors)
    if end > size_bytes:
        raise GgufError(f"{header.path} is truncated: it has {size_bytes:,} bytes and needs {end:,}. {_AGAIN}")


def n_bytes(tensor: TensorInfo) -> int:
    """Size of a tensor in the file. Raises GgufError for a type this version of the gguf package does not know."""
    import gguf

    try:
        block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.kind)]
    except (ValueError, KeyError):
        raise GgufError(
            f"tensor {tensor.name} is of the unknown type {tensor.kind}: update the gguf package."
        ) from None
    return tensor.n_elements // int(block) * int(block_bytes)
