"""Compute tiny random models alone, in batches and in pieces: `TORCH_PYTHON tiny_models.py SERVERS TOKENIZER SCRATCH`.

Prints one JSON object: architecture → what differs from each row computed alone (nothing, if all is well), or `error`.
"""

import json
import random
import shutil
import sys
import threading
import types
from pathlib import Path
from typing import Any

servers, tokenizer, scratch = sys.argv[1:]
sys.modules["servers"] = types.ModuleType("servers")
sys.modules["servers"].__path__ = [servers]

import torch  # noqa: E402
import transformers  # noqa: E402
from servers._transformers_engine import Engine, Row  # noqa: E402
from servers._transformers_model import CausalModel, LoadError, Settings  # noqa: E402
from servers._transformers_text import Answer, Speller  # noqa: E402

V = 49152
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
SIZES = {"vocab_size": V, "hidden_size": 64, "num_attention_heads": 4, **ENDS}
LLAMA = {**SIZES, "intermediate_size": 128, "num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 16}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
CONFIGS = {
    "learned positions": ("GPT2Config", {"vocab_size": V, "n_embd": 64, "n_layer": 3, "n_head": 4, **ENDS}),
    "alibi": ("BloomConfig", {"vocab_size": V, "hidden_size": 64, "n_layer": 3, "n_head": 4, **ENDS}),
    "sliding window": ("Gemma3TextConfig", {**LLAMA, "sliding_window": 16}),
    "experts": ("MixtralConfig", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "linear attention": ("Qwen3NextConfig", {**LLAMA, **LINEAR, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "state space": (
        "MambaConfig",
        {"vocab_size": V, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, **ENDS},
    ),
}


def save(kind: str, sizes: dict[str, Any], folder: Path) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**sizes))
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3 if weights.dim() > 1 else 1)  # so that the most likely token stands out
    model.save_pretrained(folder)
    for path in Path(tokenizer).glob("tok*"):
        shutil.copy(path, folder)


def computed(model: Any, max_batch_size: int, piece: int) -> list[Any]:
    """Nine rows of unequal lengths, every third scored."""
    model._max_batch_tokens = piece
    engine = Engine(model, max_batch_size=max_batch_size, max_batch_tokens=10**6, max_waiting=100)
    left = list(range(9))

    def done(refused: Any) -> None:
        assert refused is None, refused
        left.pop()
        if not left:
            engine.close()

    dice = random.Random(1)
    rows = [
        Row(
            [dice.randrange(3, V) for _ in range(dice.choice([1, 2, 7, 20, 33, 60]))],
            Answer(Speller(model.tokens.tokenizer)), dice.choice([1, 3, 9, 30]), frozenset(), done,
            n_top=1, is_echo=i % 3 == 0,
        )
        for i in left
    ]  # fmt: skip
    engine.submit(rows)
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    thread.join(120)
    assert not left, f"{len(left)} rows have no end"
    return rows


def differences(alone: list[Any], rows: list[Any]) -> list[str]:
    found = []
    for i, (one, other) in enumerate(zip(alone, rows, strict=True)):
        if [token.id for token in one.tokens] != [token.id for token in other.tokens]:
            found.append(f"row {i}: other tokens")
        pairs = zip(one.scores[1:], other.scores[1:], strict=True)
        if any(abs(a.logprob - b.logprob) > 1e-4 for a, b in pairs):
            found.append(f"row {i}: other log-probabilities")
        if len(other.scores) != (len(other.ids) if other.is_echo else 0):
            found.append(f"row {i}: {len(other.scores)} scores of {len(other.ids)} tokens")
    return found


def main() -> None:
    torch.set_num_threads(1)
    told: dict[str, Any] = {}
    for name, (kind, sizes) in CONFIGS.items():
        folder = Path(scratch) / kind
        save(kind, sizes, folder)
        try:
            model = CausalModel(Settings(str(folder), "cpu", 1, "float32", 4096, max_model_len=400))
        except LoadError as error:
            told[name] = {"error": str(error)}
            continue
        alone = computed(model, 1, 4096)
        told[name] = {
            "in batches": differences(alone, computed(model, 6, 4096)),
            "in pieces": differences(alone, computed(model, 1, 8)),
        }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
