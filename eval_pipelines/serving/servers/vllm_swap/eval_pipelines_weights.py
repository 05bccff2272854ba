"""What every worker of vLLM can do besides: `--worker-extension-cls eval_pipelines_weights.Weights`.

Loads other weights and tells what the worker then computes with. Runs inside vLLM; imports nothing of this project.

Source  vLLM 0.32: model_executor/model_loader/reload/, model_executor/layers/utils.py, v1/worker/gpu_worker.py
"""

# mypy: disable-error-code="import-not-found"

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

_N_ROWS, _N_COLUMNS = 32, 4


class Weights:
    """Mixed into vLLM's worker class: methods of every worker, which `collective_rpc` calls by name."""

    model_runner: Any
    vllm_config: Any
    reload_weights: Callable[..., None]

    def eval_pipelines_load(self, folder: str) -> dict[str, Any]:
        """Replace all weights by those in a folder.

        Returns:
            What this worker holds now, as `_evidence` has it, and `n_changed`: how much of that was different before.
        """
        import torch
        from vllm.config import set_current_vllm_config

        model = self.model_runner.get_model()
        _refuse_what_cannot_be_seen(self.vllm_config, model)
        with torch.inference_mode():
            before = _evidence(model)
            _spoil(model)
        self.reload_weights(weights_path=folder)
        with torch.inference_mode(), set_current_vllm_config(self.vllm_config):
            _pack_again(model)
            after = _evidence(model)
        held = ("vectors", "matrices")
        n_changed = sum(after[kind][name] != before[kind].get(name) for kind in held for name in after[kind])
        return {**after, "n_changed": n_changed}


def _refuse_what_cannot_be_seen(config: Any, model: Any) -> None:
    from vllm.config import CompilationMode
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    if config.compilation_config.mode != CompilationMode.NONE:
        raise RuntimeError("on a CPU, compiled code keeps the packed weights it was compiled with: set enforce_eager")
    if any(one.ndim > 2 for one in model.parameters()):
        raise RuntimeError("on a CPU, experts and convolutions keep packed weights that cannot be compared")


def _spoil(model: Any) -> None:
    """Make every weight unusable, so that what is not loaded again cannot go unnoticed.

    vLLM only warns of weights that the new files do not have, and goes on with the old ones.
    """
    for one in model.parameters():
        if one.is_floating_point():
            one.data.fill_(float("nan"))
    for module in model.modules():
        module.__dict__.pop("cpu_linear", None)


def _pack_again(model: Any) -> None:
    """Pack what `reload_weights` forgets: on a CPU, an output layer that shares the embedding's weights has a copy."""
    for module in model.modules():
        quantised: Any = getattr(module, "quant_method", None)
        if hasattr(quantised, "apply") and "cpu_linear" not in module.__dict__ and _is_matrix(module):
            quantised.process_weights_after_loading(module)


def _is_matrix(module: Any) -> bool:
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    return isinstance(module, LinearBase | VocabParallelEmbedding)


def _evidence(model: Any) -> dict[str, Any]:
    """What the worker computes with.

    vectors   name → type, length, SHA-256 of the values as float32 (norms and biases, whole)
    matrices  name → type, shape, values at some rows and columns, seen through the layer's own product with a vector
              that is 1 in one place: the numbers that answers are made of, also where the layer packed a copy
    unset     parameters that were not loaded
    fused     name of a layer → names of those that vLLM stacked to make it
    """
    import torch

    vectors = {}
    names = {id(one): name for name, one in model.named_parameters()}
    for name, one in model.named_parameters():
        if one.ndim == 1 and one.numel():
            values = one.detach().to("cpu", torch.float32).contiguous().numpy()
            digest = hashlib.sha256(values.tobytes()).hexdigest()
            vectors[name] = {"dtype": _dtype(one), "length": one.numel(), "sha256": digest}
    matrices = dict(_matrices(model, names))
    unset = [name for name, one in model.named_parameters() if one.is_floating_point() and bool(one.isnan().any())]
    fused = {name: list(parts) for name, parts in (getattr(model, "packed_modules_mapping", None) or {}).items()}
    return {"vectors": vectors, "matrices": matrices, "unset": unset, "fused": fused}


def _matrices(model: Any, names: dict[int, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import torch
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    for path, module in model.named_modules():
        if not _is_matrix(module):
            continue
        name = names.get(id(module.weight), f"{path}.weight") if module.weight.numel() else f"{path}.weight"
        is_embedding = isinstance(module, VocabParallelEmbedding)
        if is_embedding:
            n_rows, n_columns = module.num_embeddings_per_partition, module.embedding_dim
        else:
            n_columns = getattr(module, "input_size_per_partition", module.input_size)
            n_rows = getattr(module, "output_size_per_partition", module.output_size)
        rows, columns = _spread(n_rows, _N_ROWS), _spread(n_columns, _N_COLUMNS)
        device = next(one.device for one in model.parameters())
        at = torch.tensor(rows, device=device)
        if is_embedding and not isinstance(module, ParallelLMHead):
            seen = module.quant_method.embedding(module, at)[:, columns]
        else:
            dtype = module.weight.dtype
            ones = torch.zeros(len(columns), n_columns, dtype=dtype, device=device)
            ones[range(len(columns)), columns] = 1
            seen = module.quant_method.apply(module, ones, None)[:, at].T
        values = [None if value != value else value for value in seen.float().flatten().tolist()]
        told = {"tensor": name, "dtype": _dtype(seen), "shape": [n_rows, n_columns]}
        yield path, {**told, "rows": rows, "columns": columns, "values": values}


def _spread(n: int, n_wanted: int) -> list[int]:
    """Indices from the first to the last of n, evenly spread."""
    if n <= n_wanted:
        return list(range(n))
    return [i * (n - 1) // (n_wanted - 1) for i in range(n_wanted)]


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
