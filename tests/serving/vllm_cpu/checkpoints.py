"""Checkpoints made out of another one, without a model library: with noise, of another shape, as an adapter, from GGUF."""

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eval_pipelines.embedded.gguf_file import F16, read_header
from eval_pipelines.serving.safetensors import rounded, tensors


def write_safetensors(path: Path, named: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Name → type as the format spells it (F32, F16, BF16), float32 values."""
    header, data, n_bytes = {}, [], 0
    for name, (dtype, values) in named.items():
        plain = np.ascontiguousarray(values, dtype="<f4")
        raw = plain.astype("<f2") if dtype == "F16" else plain
        if dtype == "BF16":
            raw = (rounded(plain, "bfloat16").view("<u4") >> 16).astype("<u2")
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


def from_gguf(source: Path, like: Path, target: Path) -> Path:
    """The weights of an F16 file of llama.cpp, bit by bit, with config and tokenizer of the folder `like`."""
    target.mkdir(parents=True)
    for file in like.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, target)
    config = json.loads((like / "config.json").read_text())
    n_heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    header, named = read_header(source), {}
    for tensor in header.tensors:
        kind = "F16" if tensor.kind == F16 else "F32"
        at = header.data_start + tensor.offset
        shape = tuple(reversed(tensor.dims))
        values = np.array(np.memmap(source, dtype="<f2" if kind == "F16" else "<f4", mode="r", offset=at, shape=shape))
        name = tensor.name.split(".")[-2]
        if name in n_heads:  # llama.cpp keeps the two halves of each rotated pair side by side
            values = values.reshape(n_heads[name], -1, 2, shape[1]).swapaxes(1, 2).reshape(shape)
        named[_huggingface_name(tensor.name)] = (kind, values.astype("<f4"))
    write_safetensors(target / "model.safetensors", named)
    return target


def _huggingface_name(name: str) -> str:
    outside = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    inside = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj",
        **{f"attn_{one}": f"self_attn.{one}_proj" for one in "qkv"},
        **{f"ffn_{one}": f"mlp.{one}_proj" for one in ("gate", "up", "down")},
    }  # fmt: skip
    if name in outside:
        return outside[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{inside[part]}.{kind}"
