"""What lies in a checkpoint's folder, and what to do where a server cannot load it as it lies."""

from collections.abc import Iterable
from pathlib import Path

from eval_pipelines.errors import ConfigError
from eval_pipelines.layouts import Layout, conversion, in_words, layout
from eval_pipelines.models import Model

__all__ = ["Layout", "gguf_file", "huggingface_folder", "is_adapter", "layout", "some_weights"]

_READ_GGUF = ", which the `embedded` and `llama_cpp` backends read"
# a folder in one of these may still have been meant as one of Hugging Face's
_MAY_BE_HUGGINGFACE = ("huggingface", "mistral", "pickle", "unknown")


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
    problem = None
    if layout(folder) not in _MAY_BE_HUGGINGFACE:
        problem = in_words(folder) + (_READ_GGUF if layout(folder) == "gguf" else "")
    elif not folder.is_dir():
        problem = "is a file" if folder.is_file() else "is not there"
    elif not (folder / config).is_file():
        problem = f"has no {config}: copy it, and the tokenizer's files, from the model it was trained from"
    elif weights_as and not any(next(folder.glob(one), None) for one in weights_as):
        problem = f"holds no weights ({', '.join(weights_as)})"
        if layout(folder) == "pickle":
            problem += "; *.bin are pickles, which run code when read"
    if problem:
        raise _refused(model, folder, problem, server=server, reads="a Hugging Face folder", into=("huggingface",))
    return folder


def gguf_file(model: Model, *, server: str, may_be_split: bool = False) -> Path:
    """The model's one GGUF file, or the first part of a split one. Raises ConfigError, with the conversion."""
    where = model.weights
    if where is None:
        raise ConfigError(f"{model.key}: {server} needs `weights`, a .gguf file or a folder that holds one")
    files = [where] if where.is_file() else sorted(where.glob("*.gguf"))
    stems = {_stem(file) if may_be_split else file.stem for file in files}
    if len(stems) == 1 and all(file.suffix == ".gguf" for file in files):
        return files[0]
    problem = f"holds {len(files)} .gguf files" if layout(where) == "gguf" else in_words(where)
    raise _refused(model, where, problem, server=server, reads="one GGUF file", into=("gguf",))


def some_weights(model: Model, *, server: str, reads: Iterable[str]) -> Path:
    """The model's weights, if they are in one of these layouts. Raises ConfigError, with the conversion."""
    where, known = model.weights, sorted(reads)
    if where is None:
        raise ConfigError(f"{model.key}: {server} needs `weights` ({', '.join(known)})")
    if layout(where) not in known:
        raise _refused(model, where, in_words(where), server=server, reads=" or ".join(known), into=known)
    return where


def is_adapter(folder: Path) -> bool:
    """True for a LoRA adapter as PEFT saves it."""
    return layout(folder) == "lora"


def _stem(file: Path) -> str:
    """`m-00001-of-00003.gguf` → `m`: the parts of one model have the same."""
    stem, _, n_parts = file.stem.rpartition("-of-")
    return stem.rpartition("-")[0] if n_parts.isdecimal() else file.stem


def _refused(model: Model, where: Path, problem: str, *, server: str, reads: str, into: Iterable[str]) -> ConfigError:
    line = conversion(where, [*into])
    return ConfigError(
        f"{model.key}: {where} {problem}. {f'To convert it: {line}. ' if line else ''}"
        f"{server[:1].upper()}{server[1:]} reads {reads}; otherwise give the model a deployment whose backend reads this layout."
    )
