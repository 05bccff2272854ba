"""Does a warm vLLM compute with the weights that lie in a folder? What its workers tell against what the files say."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from eval_pipelines.serving.safetensors import Tensor, rounded

_Files = Mapping[str, Tensor]


def differences(files: _Files, workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of that which the workers hold is not what the files hold, one sentence each; empty if all of it is.

    A part that several workers share is compared only where each has it whole: norms, the router of experts,
    unsharded layers. That all of it was loaded anew is told by `unset` in any case.

    Args:
        workers: One per worker: `vectors`, `matrices`, `unset` and `fused`, as eval_pipelines_weights tells them.
    """
    found: list[str] = []
    for worker in workers:
        found += [f"{name} was not loaded" for name in worker["unset"]]
        n_compared = 0
        for name, told in worker["vectors"].items():
            parts = _parts(name, files, worker["fused"])
            if parts is None:
                found.append(f"the files have no {name}")
            elif len(workers) == 1 or told["length"] == sum(part.shape[0] for part in parts):
                found += _vector(name, told, parts)
                n_compared += 1
        for layer, told in worker["matrices"].items():
            parts = _parts(told["tensor"], files, worker["fused"])
            if parts is None:
                found.append(f"the files have no {told['tensor']}")
            elif len(workers) == 1 or told["shape"] == [sum(part.shape[0] for part in parts), parts[0].shape[1]]:
                found += _matrix(layer, told, parts)
                n_compared += 1
        if not n_compared:
            found.append("a worker told nothing that could be compared")
    return found


def _parts(name: str, files: _Files, fused: Mapping[str, Sequence[str]]) -> list[Tensor] | None:
    """The tensors in the files that make this one, in their order; None if they are not there."""
    if name in files:
        return [files[name]]
    layer, _, kind = name.rpartition(".")
    above, _, last = layer.rpartition(".")
    names = [f"{above}.{part}.{kind}" for part in fused.get(last, ())]
    return [files[one] for one in names] if names and all(one in files for one in names) else None


def _vector(name: str, told: Mapping[str, Any], parts: Sequence[Tensor]) -> list[str]:
    import numpy as np

    values = np.concatenate([rounded(part.values(), told["dtype"]) for part in parts])
    is_same = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == told["sha256"]
    return [] if is_same else [f"{name} is not as in the files"]


def _matrix(layer: str, told: Mapping[str, Any], parts: Sequence[Tensor]) -> list[str]:
    """Compares the values where some rows and columns cross; rows beyond the files' are padding."""
    import numpy as np

    n_rows, n_columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
    if told["shape"][1] != n_columns or told["shape"][0] < n_rows:
        return [f"{layer} is {told['shape']}, in the files [{n_rows}, {n_columns}]"]
    seen = np.array([np.nan if one is None else one for one in told["values"]], dtype="<f4")
    seen = seen.reshape(len(told["rows"]), len(told["columns"]))
    first, at = 0, 0
    for part in parts:
        rows = [row - first for row in told["rows"] if first <= row < first + part.shape[0]]
        wanted = rounded(part.values(rows, told["columns"]), told["dtype"])
        if not np.array_equal(seen[at : at + len(rows)], wanted):
            return [f"{layer} does not compute with what is in the files"]
        first, at = first + part.shape[0], at + len(rows)
    return []
