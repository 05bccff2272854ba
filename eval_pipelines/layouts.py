"""How weights lie on disk, told by the names of the files, and the way from one layout to another.

    huggingface       config.json and *.safetensors        gguf                one .gguf file, or a folder with some
    lora              an adapter as PEFT saves it          megatron            Megatron-LM and NeMo (a folder or .nemo)
    mistral           params.json and *.safetensors        torch_distributed   torch.distributed.checkpoint's shards
    trtllm_engine     engines TensorRT-LLM built           trtllm_checkpoint   what it builds engines from
    pickle            *.bin or *.pt, which run code when read

No file is opened, so a layout is known at once, also of a terabyte on a network drive. Whether the weights are whole
is another question (see checkpoint_files.py).
"""

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

Layout = Literal[
    "huggingface",
    "gguf",
    "lora",
    "megatron",
    "mistral",
    "torch_distributed",
    "trtllm_engine",
    "trtllm_checkpoint",
    "pickle",
    "unknown",
]
LAYOUTS: frozenset[str] = frozenset(get_args(Layout))

_WORDS: dict[Layout, str] = {
    "huggingface": "is a Hugging Face folder",
    "gguf": "is a GGUF file",
    "lora": "is a LoRA adapter",
    "megatron": "is a NeMo or Megatron checkpoint",
    "mistral": "is in Mistral's own layout",
    "torch_distributed": "is a torch.distributed checkpoint",
    "trtllm_engine": "holds TensorRT-LLM engines",
    "trtllm_checkpoint": "is a TensorRT-LLM checkpoint",
    "pickle": "holds pickles only, which run code when read",
    "unknown": "is in no layout known here",
}
_MEGATRON = {"latest_checkpointed_iteration.txt", "run_config.yaml", "common.pt", "model_weights"}
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")


def layout(path: Path) -> Layout:
    """The layout of a file or folder; `unknown` also for one that is not there or cannot be listed."""
    if path.is_file():
        return _of_file(path)
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:
        return "unknown"
    tensors = {name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))}
    whole = {name for name in tensors if not name.startswith("adapter_")}
    if any(name.endswith(".engine") for name in names):
        return "trtllm_engine"
    if "rank0.safetensors" in names and "config.json" in names:
        return "trtllm_checkpoint"
    if "adapter_config.json" in names and not whole:
        return "lora"
    if "config.json" in names and whole:
        return "huggingface"
    if _is_megatron(names):
        return "megatron"
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        return "torch_distributed"
    if "params.json" in names and whole:
        return "mistral"
    if any(name.endswith(".gguf") for name in names):
        return "gguf"
    return "pickle" if any(_is_pickle(name) for name in names) else "unknown"


def in_words(path: Path) -> str:
    """`is a GGUF file`: what to say of the weights at a path."""
    return _WORDS[layout(path)] if path.exists() else "is not there"


def conversion(path: Path, into: Collection[str]) -> str | None:
    """The command that turns the weights at `path` into one of the layouts; None if there is no way known here.

    Args:
        into: The layouts that would do.
    """
    found = layout(path)
    if found in into:
        return None
    if "huggingface" in into:
        return _to_huggingface(path, found)
    if "gguf" in into:
        if found == "huggingface":
            return _to_gguf(shlex.quote(str(path)))
        before = _to_huggingface(path, found)
        return f"{before}; then {_to_gguf('OUT')}" if before else None
    return None


def _of_file(path: Path) -> Layout:
    if path.suffix == ".gguf":
        return "gguf"
    if path.suffix == ".nemo":
        return "megatron"
    return "pickle" if _is_pickle(path.name) else "unknown"


def _is_megatron(names: Collection[str]) -> bool:
    is_rank = any(name.startswith(("iter_", "mp_rank_", "tp_rank_")) for name in names)
    return bool(_MEGATRON & {*names}) or {"weights", "context"} <= {*names} or is_rank


def _is_pickle(name: str) -> bool:
    return name.endswith((".bin", ".pt", ".pth")) and not name.startswith(_NO_WEIGHTS)


_SAVE = (
    'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; import sys; '
    "a, out, more = sys.argv[1], sys.argv[2], dict(x.split('=') for x in sys.argv[3:]); "
    'M.from_pretrained(a, **more).save_pretrained(out); T.from_pretrained(a, **more).save_pretrained(out)"'
)
_MERGE = (
    'python -c "from peft import AutoPeftModelForCausalLM as P; from transformers import AutoTokenizer as T; '
    "import sys; a, out = sys.argv[1:]; m = P.from_pretrained(a); m.merge_and_unload().save_pretrained(out); "
    "T.from_pretrained(m.peft_config['default'].base_model_name_or_path).save_pretrained(out)\""
)


def _to_huggingface(path: Path, found: Layout) -> str | None:
    where = shlex.quote(str(path))
    if found == "gguf":
        folder = path.parent if path.is_file() else path
        file = path.name if path.is_file() else next((one.name for one in sorted(path.glob("*.gguf"))), "FILE.gguf")
        return f"{_SAVE} {shlex.quote(str(folder))} OUT gguf_file={shlex.quote(file)}"
    if found == "lora":
        return f"{_MERGE} {where} OUT"
    if found == "pickle":
        return f"{_SAVE} {where} OUT"
    if found == "megatron":
        return (
            'python -c "from megatron.bridge import AutoBridge; import sys; base, a, out = sys.argv[1:]; '
            'AutoBridge.from_hf_pretrained(base).export_ckpt(megatron_path=a, hf_path=out)" '
            f"BASE {where} OUT (BASE: the Hugging Face folder it was trained from)"
        )
    if found == "torch_distributed":
        return (
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {where} OUT.pt, "
            "then load that state dict into the model and save_pretrained() it"
        )
    return None


def _to_gguf(where: str) -> str:
    return f"python convert_hf_to_gguf.py {where} --outtype f16 --outfile OUT.gguf (in a checkout of llama.cpp)"
