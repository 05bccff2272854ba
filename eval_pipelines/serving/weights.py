"""What lies in a checkpoint's folder, and what to do where a server cannot load it as it lies."""

from collections.abc import Iterable
from pathlib import Path

from eval_pipelines.errors import ConfigError
from eval_pipelines.models import Model

_TO_SAFETENSORS = (
    'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; import sys; '
    "a, out, more = sys.argv[1], sys.argv[2], dict(x.split('=') for x in sys.argv[3:]); "
    'M.from_pretrained(a, **more).save_pretrained(out); T.from_pretrained(a, **more).save_pretrained(out)"'
)


def huggingface_folder(
    model: Model, *, server: str, config: str = "config.json", weights_as: Iterable[str] = ("*.safetensors",)
) -> Path:
    """The model's folder, if it is one in Hugging Face's layout.

    Args:
        config: Name of the file that describes the model.
        weights_as: Patterns of the files that hold the weights; one must be there. None given: none is needed.

    Raises:
        ConfigError: another layout; says which, and how to convert it.
    """
    folder = model.weights
    if folder is None:
        raise ConfigError(f"{model.key}: {server} needs `weights`, a folder with {config} and *.safetensors")
    names = _names(folder)
    problem = _other_layout(folder, names)
    if problem is None and config not in names:
        problem = f"has no {config}: copy it, and the tokenizer's files, from the model it was trained from"
    if problem is None and weights_as and not any(next(folder.glob(one), None) for one in weights_as):
        problem = f"holds no weights ({', '.join(weights_as)})"
        if next(folder.glob("*.bin"), None):
            problem += f"; *.bin are pickles, which run code when read. Save them as safetensors: {_TO_SAFETENSORS} {folder} OUT"
    if problem:
        raise ConfigError(
            f"{model.key}: {folder} {problem}. {server} reads a Hugging Face folder; "
            f"otherwise give the model a deployment whose backend reads this layout."
        )
    return folder


def is_adapter(folder: Path) -> bool:
    """True for a LoRA adapter as PEFT saves it."""
    return (folder / "adapter_config.json").is_file()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _other_layout(folder: Path, names: set[str]) -> str | None:
    """Why a known layout is not Hugging Face's, and the conversion; None for a layout nobody knows."""
    gguf = [folder.name] if folder.is_file() else sorted(name for name in names if name.endswith(".gguf"))
    if gguf and gguf[0].endswith(".gguf") and "config.json" not in names:
        where = folder.parent if folder.is_file() else folder
        return (
            f"is a GGUF file, which the `embedded` backend reads. To convert it: "
            f"{_TO_SAFETENSORS} {where} OUT gguf_file={gguf[0]}"
        )
    if folder.is_file():
        return "is a file"
    if "adapter_config.json" in names and "config.json" not in names:
        return "is a LoRA adapter. Merge it into its base (PEFT: merge_and_unload(), then save_pretrained())"
    if names & {"latest_checkpointed_iteration.txt", "run_config.yaml"} or {"weights", "context"} <= names:
        return (
            "is a NeMo or Megatron checkpoint. To convert it, with Megatron Bridge: "
            f"AutoBridge.from_hf_pretrained(BASE).export_ckpt(megatron_path={str(folder)!r}, hf_path=OUT)"
        )
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        return (
            "is a torch.distributed checkpoint. To convert it: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} OUT.pt, "
            "then load that state dict into the model and save_pretrained() it"
        )
    return None
