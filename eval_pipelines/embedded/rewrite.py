"""Any GGUF file as F16: the same weights in a form OpenVINO reads without loss.

Why: OpenVINO's own reader repacks quantised tensors (Q4_1 comes out visibly wrong: log-probabilities off by 0.3 to 1).
Dequantising follows the gguf package, which agrees with llama.cpp.
"""

import os
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from eval_pipelines.embedded.errors import GgufError
from eval_pipelines.embedded.gguf_file import F16, F32, GgufHeader, TensorInfo, n_bytes, read_header

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MOSTLY_F16: Final = 1


def rewrite(source: Path, target: Path, *, noise: float = 0.0, seed: int = 0) -> None:
    """Write `source` as F16 (matrices) and F32 (vectors) to `target`, which appears only when it is whole.

    Args:
        noise: standard deviation of the gaussian noise added to each matrix, as a share of that matrix's own.
            0 adds none. 0.06 is felt in log-probabilities; 0.15 breaks a small model.
        seed: the same seed damages the same file in the same way.

    Raises:
        GgufError: the source is missing, no GGUF, truncated, or of a type that cannot be dequantised;
            or noise is negative.
    """
    if noise < 0:
        raise GgufError(f"--noise is a share of each matrix's standard deviation: it cannot be negative ({noise}).")
    header = read_header(source)
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with source.open("rb") as reader, aside.open("wb") as writer:
            _write_header(header, reader, writer)
            _write_tensors(header, reader, writer, noise=noise, seed=seed)
            writer.flush()
            os.fsync(writer.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _write_header(header: GgufHeader, reader: IO[bytes], writer: IO[bytes]) -> None:
    start, end = header.metadata_span
    reader.seek(start)
    metadata = bytearray(reader.read(end - start))
    if header.file_type_at is not None:
        struct.pack_into("<I", metadata, header.file_type_at - start, _MOSTLY_F16)
    writer.write(b"GGUF" + struct.pack("<IQQ", header.version, len(header.tensors), header.n_metadata))
    writer.write(metadata)
    offset = 0
    for tensor in header.tensors:
        name = tensor.name.encode("utf-8", errors="surrogateescape")
        writer.write(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor.dims)))
        writer.write(struct.pack(f"<{len(tensor.dims)}QIQ", *tensor.dims, _kind_after(tensor), offset))
        offset = _aligned(offset + tensor.n_elements * _width(tensor), header.alignment)
    _pad(writer, header.alignment)


def _write_tensors(header: GgufHeader, reader: IO[bytes], writer: IO[bytes], *, noise: float, seed: int) -> None:
    import numpy as np

    random = np.random.default_rng(seed)
    # In the order of the table, one at a time: memory stays at one matrix, and the seed means the same everywhere.
    for tensor in header.tensors:
        reader.seek(header.data_start + tensor.offset)
        weights = _dequantise(tensor, reader.read(n_bytes(tensor)))
        if noise and len(tensor.dims) > 1:
            spread = np.float32(noise * float(weights.std()))
            weights = weights + random.standard_normal(weights.shape, dtype=np.float32) * spread
        writer.write(weights.astype(np.float16 if _kind_after(tensor) == F16 else np.float32).tobytes())
        _pad(writer, header.alignment)


def _dequantise(tensor: TensorInfo, raw: bytes) -> "npt.NDArray[np.float32]":
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType(tensor.kind)
    exact: dict[int, Any] = {F32: np.float32, F16: np.float16}
    if tensor.kind in exact:
        return np.frombuffer(raw, dtype=exact[tensor.kind]).astype(np.float32)
    try:
        # Quantisation works on rows: the shape only has to keep them whole.
        rows = np.frombuffer(raw, dtype=np.uint8).reshape(tensor.n_elements // tensor.dims[0], -1)
        return np.asarray(gguf.dequantize(rows, kind), dtype=np.float32).reshape(-1)
    except NotImplementedError:
        raise GgufError(f"tensor {tensor.name} is {kind.name}, which cannot be dequantised here.") from None


def _kind_after(tensor: TensorInfo) -> int:
    return F16 if len(tensor.dims) > 1 else F32


def _width(tensor: TensorInfo) -> int:
    return 2 if _kind_after(tensor) == F16 else 4


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _pad(writer: IO[bytes], alignment: int) -> None:
    writer.write(b"\0" * (_aligned(writer.tell(), alignment) - writer.tell()))
