"""A causal model of Hugging Face, computed in batches. The only file here that needs torch.

Prompts of unequal length get padding on their left, which is masked, and positions of their own, so that each row is
computed as if it were alone. A prompt of many tokens is read in pieces, which bounds the memory its logits take.

Source  transformers' documentation, "Auto Classes", "Caching", "Attention masks"
"""

import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ._transformers_engine import Row, Scored
from ._transformers_text import Answer, Speller, Tokens

_SLICE = 256  # positions whose logits are widened to float32 at once
_NEVER = -9999.0  # JSON has no infinity


@dataclass(frozen=True)
class Settings:
    """What is loaded, and how. The meaning of each is the help of the command line."""

    folder: str
    device: str
    gpus: int
    dtype: str
    max_batch_tokens: int
    max_model_len: int | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    chat_template: str | None = None


@dataclass(eq=False)
class Rows:
    """Rows that are computed together: `mask` (row, position) is 0 for padding; `lengths` (row) counts the others."""

    rows: list[Row]
    cache: Any
    mask: torch.Tensor
    lengths: torch.Tensor


class LoadError(Exception):
    """The model cannot be served as asked."""


class CausalModel:
    """A model and its tokenizer."""

    def __init__(self, settings: Settings) -> None:
        self._max_batch_tokens = settings.max_batch_tokens
        shared = {"trust_remote_code": settings.trust_remote_code}
        config = AutoConfig.from_pretrained(settings.folder, **shared)
        own = getattr(config.get_text_config(), "max_position_embeddings", None)
        if settings.max_model_len and own and settings.max_model_len > own:
            raise LoadError(f"max_model_len = {settings.max_model_len} is greater than the model's own {own}")
        self.max_model_len: int = settings.max_model_len or own or 2048
        self.tokens = Tokens(AutoTokenizer.from_pretrained(settings.folder, **shared))
        if settings.chat_template:
            self.tokens.tokenizer.chat_template = settings.chat_template
        self._model = _loaded(settings)
        self._takes = inspect.signature(self._model.forward).parameters
        self._device = self._model.get_input_embeddings().weight.device
        self.n_vocabulary = int(self._model.get_input_embeddings().weight.shape[0])
        self.pads = not getattr(self._model, "_is_stateful", False)
        self.ends = _ends(self._model, self.tokens.tokenizer)
        self.name = (
            f"torch {torch.__version__}, {str(self._model.dtype).removeprefix('torch.')}, "
            f"{self._model.config._attn_implementation}, {_device_name(self._device)}"
        )
        self.version = f"transformers {transformers.__version__}"
        self._try()

    def prefill(self, rows: Sequence[Row]) -> Rows:
        """Read the prompts (row, position), score them where asked, and give each row its first token."""
        width = max(len(row.ids) for row in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, width - len(row.ids) :] = torch.tensor(row.ids)
            mask[i, width - len(row.ids) :] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        is_echo = rows[0].is_echo
        piece = max(1, self._max_batch_tokens // len(rows))
        wants_cache = width > piece or any(row.max_new_tokens > 1 for row in rows)
        cache, last = None, torch.empty(0)
        for start in range(0, width, piece):
            end = min(start + piece, width)
            logits, cache = self._forward(ids[:, start:end], mask[:, :end], cache, wants_cache, only_last=not is_echo)
            if is_echo:
                _score(rows, logits, ids[:, start + 1 : end + 1], first=start + 1, width=width)
            last = logits[:, -1]
        batch = Rows([*rows], cache, mask, mask.sum(-1))
        for row in rows:
            if row.max_new_tokens == 0:
                row.finish("length")
        _choose(rows, last)
        return batch

    def step(self, batch: Rows) -> None:
        """Give each row its next token."""
        # a row that is over may have no token at all; what it is given does not matter
        ids = torch.tensor([[row.tokens[-1].id if row.tokens else 0] for row in batch.rows], device=self._device)
        batch.mask = torch.cat([batch.mask, torch.ones_like(batch.mask[:, :1])], dim=-1)
        batch.lengths = batch.lengths + 1
        logits, batch.cache = self._forward(ids, batch.mask, batch.cache, True, only_last=True)
        _choose(batch.rows, logits[:, -1])

    def keep(self, batch: Rows) -> Rows | None:
        """The batch without the rows that are over, and without the padding nobody needs any more."""
        left = [i for i, row in enumerate(batch.rows) if not row.is_over]
        if not left:
            return None
        kinds = {type(layer) for layer in getattr(batch.cache, "layers", [None])}
        if len(left) == len(batch.rows) or not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
            return batch
        batch.cache.batch_select_indices(torch.tensor(left))  # layers may lie on several devices
        mask, lengths = batch.mask[left], batch.lengths[left]
        if kinds == {DynamicLayer} and (unused := mask.shape[1] - int(lengths.max())):
            mask = mask[:, unused:]
            for layer in batch.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]
        return Rows([batch.rows[i] for i in left], batch.cache, mask, lengths)

    def merge(self, one: Rows, other: Rows) -> Rows | None:
        """Both as one; None for a state that cannot be padded."""
        layers = [*getattr(one.cache, "layers", [None]), *getattr(other.cache, "layers", [None])]
        if {type(layer) for layer in layers} != {DynamicLayer}:
            return None
        width = max(one.mask.shape[1], other.mask.shape[1])
        for mine, theirs in zip(one.cache.layers, other.cache.layers, strict=True):
            mine.keys = torch.cat([_widened(mine.keys, width), _widened(theirs.keys, width)])
            mine.values = torch.cat([_widened(mine.values, width), _widened(theirs.values, width)])
        masks = [torch.nn.functional.pad(batch.mask, (width - batch.mask.shape[1], 0)) for batch in (one, other)]
        return Rows(one.rows + other.rows, one.cache, torch.cat(masks), torch.cat([one.lengths, other.lengths]))

    def blame(self, error: Exception) -> tuple[str, bool]:
        """What an error means to those whose rows it ended, and whether the model is beyond repair."""
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return "out of memory: lower max_batch_size, max_batch_tokens or max_model_len", False
        # after an error of a kernel every further call fails
        return f"{type(error).__name__}: {error}", "CUDA error" in str(error)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, wants_cache: bool, *, only_last: bool
    ) -> tuple[torch.Tensor, Any]:
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": wants_cache}
        if cache is not None:
            given["past_key_values"] = cache
        if "position_ids" in self._takes:
            given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if only_last and "logits_to_keep" in self._takes:
            given["logits_to_keep"] = 1
        with torch.inference_mode():
            told = self._model(**given)
        return told.logits, getattr(told, "past_key_values", None)

    def _try(self) -> None:
        """Compute a little. Raises LoadError for a model whose state is not where this server looks for it."""
        row = Row([0, 1], Answer(Speller(self.tokens.tokenizer)), 2, frozenset(), done=lambda _: None)
        batch = self.prefill([row])
        if batch.cache is None:
            raise LoadError(
                f"{type(self._model).__name__} keeps no past_key_values: this server cannot continue a text"
            )
        self.step(batch)


def _loaded(settings: Settings) -> Any:
    transformers.utils.logging.disable_progress_bar()
    place = _place(settings)
    model, report = AutoModelForCausalLM.from_pretrained(
        settings.folder,
        dtype=settings.dtype,
        use_safetensors=True,
        attn_implementation=settings.attn_implementation,
        trust_remote_code=settings.trust_remote_code,
        output_loading_info=True,
        **place,
    )
    # transformers fills in what is missing at random, and merely mentions it
    if missing := sorted(report["missing_keys"]):
        raise LoadError(f"the weights lack {len(missing)} tensors of the model: {', '.join(missing[:3])} …")
    if settings.device != "cpu" and not place:
        model.to("cuda:0")
    return model.eval()


def _place(settings: Settings) -> dict[str, Any]:
    if settings.device == "cpu":
        return {}
    if not torch.cuda.is_available():
        raise LoadError("device 'cuda' was asked for, and torch finds no CUDA device here")
    if torch.cuda.device_count() < settings.gpus:
        raise LoadError(f"{settings.gpus} GPUs were asked for, and torch finds {torch.cuda.device_count()}")
    if settings.gpus == 1:
        # without accelerate the weights take their way through the machine's memory
        return {"device_map": {"": 0}} if importlib.util.find_spec("accelerate") else {}
    memory = {i: torch.cuda.get_device_properties(i).total_memory for i in range(settings.gpus)}
    return {"device_map": "balanced", "max_memory": {i: int(0.9 * total) for i, total in memory.items()}}


def _device_name(device: torch.device) -> str:
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else device.type


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    told = [getattr(model.generation_config, "eos_token_id", None), model.config.get_text_config().eos_token_id]
    ids = [id_ for one in [*told, tokenizer.eos_token_id] for id_ in (one if isinstance(one, list) else [one])]
    return frozenset(id_ for id_ in ids if id_ is not None)


def _widened(state: torch.Tensor, width: int) -> torch.Tensor:
    """Keys or values (row, head, position, feature) with room on their left."""
    return torch.nn.functional.pad(state, (0, 0, width - state.shape[2], 0))


def _score(rows: Sequence[Row], logits: torch.Tensor, targets: torch.Tensor, *, first: int, width: int) -> None:
    """Add what `logits` (row, position, token) say of `targets` (row, position), which begin at column `first`."""
    for i, row in enumerate(rows):
        n_padding = width - len(row.ids)
        if first - 1 <= n_padding < first - 1 + logits.shape[1]:
            row.scores.append(Scored(row.ids[0]))  # nothing precedes it
        begin = max(0, n_padding + 1 - first)
        for start in range(begin, targets.shape[1], _SLICE):
            wanted = targets[i, start : start + _SLICE]
            row.scores += _scored(logits[i, start : start + len(wanted)], wanted, row.n_top or 0)


def _scored(logits: torch.Tensor, chosen: torch.Tensor, n_top: int) -> list[Scored]:
    """Log-probabilities of `chosen` (position) and of the `n_top` likeliest under `logits` (position, token)."""
    wide = logits.float()
    total = wide.logsumexp(-1, keepdim=True)
    if bool(total.isnan().any()):
        raise ValueError("the model computed NaN: try another dtype")
    mine = (wide.gather(-1, chosen[:, None].to(wide.device)) - total)[:, 0].clamp(min=_NEVER).tolist()
    if not n_top:
        return [Scored(id_, logprob) for id_, logprob in zip(chosen.tolist(), mine, strict=True)]
    best = wide.topk(n_top, dim=-1)
    values, ids = (best.values - total).clamp(min=_NEVER).tolist(), best.indices.tolist()
    tops = [tuple(zip(*one, strict=True)) for one in zip(ids, values, strict=True)]
    return [Scored(*one) for one in zip(chosen.tolist(), mine, tops, strict=True)]


def _choose(rows: Sequence[Row], logits: torch.Tensor) -> None:
    """Give each row that goes on its next token, from `logits` (row, token)."""
    going = [i for i, row in enumerate(rows) if not row.is_over]
    if not going:
        return
    chosen = logits.argmax(-1).tolist()
    for i in going:
        row = rows[i]
        id_ = chosen[i] if row.temperature < 1e-5 else _sampled(row, logits[i])
        if row.n_top is None:
            row.take(Scored(id_))
        else:
            row.take(_scored(logits[i : i + 1], torch.tensor([id_], device=logits.device), row.n_top)[0])


def _sampled(row: Row, logits: torch.Tensor) -> int:
    """A token by chance: with a generator of the row's own, on the CPU, so that a seed means the same everywhere."""
    if row.sampler is None:
        row.sampler = torch.Generator().manual_seed(row.seed % 2**63)
    odds = (logits.float().cpu() / row.temperature).softmax(-1)
    odds, ids = odds.sort(descending=True)
    if row.top_k > 0:
        odds[row.top_k :] = 0
    odds[odds.cumsum(-1) - odds >= row.top_p] = 0
    return int(ids[torch.multinomial(odds, 1, generator=row.sampler)])
