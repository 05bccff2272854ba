"""Read numbers out of *.safetensors files: a header in JSON, then plain arrays. Needs numpy when a tensor is read.

Source  safetensors README, "Format": 8 bytes length of the header, little endian; the header; the tensors' bytes
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_MAX_HEADER_BYTES = 100_000_000
_N_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class UnreadableError(Exception):
    """A file is cut short, damaged, or of a type that is not read here; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies.

    Attributes:
        dtype: As the header spells it: F32, F16, BF16, F8_E4M3 …
        offset: Bytes from the file's beginning.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def values(self, rows: Sequence[int] | None = None, columns: Sequence[int] | None = None) -> "Array":
        """The numbers as float32: all of them, or those of a matrix where the given rows and columns cross."""
        import numpy as np  # not at the top: every process of a run reads the modules of the backends it names

        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[self.dtype]
        stored = np.memmap(self.path, dtype=kind, mode="r", offset=self.offset, shape=self.shape)
        chosen: Array = np.array(stored if rows is None or columns is None else stored[np.ix_(rows, columns)])
        if self.dtype == "BF16":
            chosen = (chosen.astype("<u4") << 16).view("<f4")
        return chosen.astype("<f4")


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's *.safetensors files, by name.

    Raises:
        UnreadableError: a file ends early, its header is damaged, or a type or a name is not as it should be.
        OSError: a file cannot be read.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in _in_file(path).items():
            if name in found:
                raise UnreadableError(f"{name} is both in {found[name].path.name} and in {path.name}")
            found[name] = tensor
    if not found:
        raise UnreadableError(f"{folder} holds no *.safetensors")
    return found


def rounded(values: "Array", dtype: str) -> "Array":
    """What a server that computes in `bfloat16`, `float16` or `float32` makes of float32 values, as float32."""
    import numpy as np

    if dtype == "float16":
        return values.astype("<f2").astype("<f4")
    if dtype != "bfloat16":
        return values
    bits = np.ascontiguousarray(values).view("<u4")
    nearest_even = bits + 0x7FFF + ((bits >> 16) & 1)
    found: Array = (nearest_even & np.uint32(0xFFFF0000)).view("<f4")
    return found


def _in_file(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        n_bytes = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if 8 + n_bytes > min(size, _MAX_HEADER_BYTES):
            raise UnreadableError(f"{path.name} has no whole header")
        try:
            header: dict[str, dict[str, Any]] = json.loads(file.read(n_bytes))
            named = {name: one for name, one in header.items() if name != "__metadata__"}
            return {name: _placed(path, one, start=8 + n_bytes, size=size) for name, one in named.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableError(f"{path.name} has a damaged header: {error!r}") from error


def _placed(path: Path, told: dict[str, Any], *, start: int, size: int) -> Tensor:
    dtype, shape = str(told["dtype"]), tuple(int(length) for length in told["shape"])
    begin, end = (int(offset) for offset in told["data_offsets"])
    if dtype not in _N_BYTES:
        raise UnreadableError(f"{path.name} holds {dtype}, not only {', '.join(_N_BYTES)}")
    if end - begin != _N_BYTES[dtype] * math.prod(shape):
        raise UnreadableError(f"{path.name}: a tensor of shape {list(shape)} does not take {end - begin} bytes")
    if start + end > size:
        raise UnreadableError(f"{path.name} is cut short: {size} bytes instead of at least {start + end}")
    return Tensor(path, dtype, shape, start + begin)
