"""Checkpoints made out of another one, without a model library: with noise in every weight, cut short, as an adapter."""

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eval_pipelines.serving.safetensors import rounded, tensors


def write_safetensors(path: Path, named: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Name → type as the format spells it (F32, BF16), float32 values."""
    header, data, n_bytes = {}, [], 0
    for name, (dtype, values) in named.items():
        plain = np.ascontiguousarray(values, dtype="<f4")
        raw = plain if dtype == "F32" else (rounded(plain, "bfloat16").view("<u4") >> 16).astype("<u2")
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [n_bytes, n_bytes + raw.nbytes]}
        data.append(raw.tobytes())
        n_bytes += raw.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *data]))


def with_noise(source: Path, target: Path, *, noise: float, seed: int, without: str = "") -> Path:
    """The same model with noise in every tensor, norms too: a share of the tensor's spread, or of its mean size.

    Args:
        without: Name of a tensor to leave out.
    """
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, target)
    random = np.random.default_rng(seed)
    named = {}
    for name, tensor in tensors(source).items():
        values = tensor.values()
        spread = noise * (values.std() if values.ndim > 1 else np.abs(values).mean())
        values += random.standard_normal(values.shape, dtype="<f4") * np.float32(spread)
        named[name] = (tensor.dtype, values)
    named.pop(without, None)
    write_safetensors(target / "model.safetensors", named)
    return target


def narrower(source: Path, target: Path) -> Path:
    """Another architecture under the same names: the last half of each MLP is missing."""
    with_noise(source, target, noise=0.0, seed=0)
    config = json.loads((source / "config.json").read_text())
    half = config["intermediate_size"] // 2
    (target / "config.json").write_text(json.dumps(config | {"intermediate_size": half}))
    named = {}
    for name, tensor in tensors(source).items():
        values = tensor.values()
        if "gate_proj" in name or "up_proj" in name:
            values = values[:half]
        named[name] = (tensor.dtype, values[:, :half] if "down_proj" in name else values)
    write_safetensors(target / "model.safetensors", named)
    return target


def lora_adapter(base: Path, target: Path, *, seed: int, size: float) -> Path:
    """A LoRA adapter of rank 4 on queries and values, as PEFT saves it; `size` 0 changes nothing."""
    target.mkdir(parents=True)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    config |= {"bias": "none", "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": str(base)}
    (target / "adapter_config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)
    named = {}
    for name, tensor in tensors(base).items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            n_out, n_in = tensor.shape
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            named[f"{stem}.lora_A.weight"] = ("F32", random.standard_normal((4, n_in)) / n_in**0.5)
            named[f"{stem}.lora_B.weight"] = ("F32", random.standard_normal((n_out, 4)) * size)
    write_safetensors(target / "adapter_model.safetensors", named)
    return target
