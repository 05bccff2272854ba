"""The openvino-genai pipeline with settings fit for scoring. Imported only in the engine process.

Source: openvino-genai, "Continuous batching"; every claim in the comments below was measured on 2026.4.1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from eval_pipelines.embedded.gguf_file import read_header
from eval_pipelines.embedded.messages import Delta, EngineSettings, FinishReason, Work
from eval_pipelines.embedded.rewrite import rewrite

MAX_SEQUENCES = 64
BATCHED_TOKENS = 512


class Handle(Protocol):
    """One work inside the pipeline."""

    def read(self) -> Delta | None:
        """What is new since the last read; None if nothing is."""

    def cancel(self) -> None:
        """Free its memory at the next step."""


class Pipeline(Protocol):
    """What the worker needs of an engine; tests put a fake here."""

    name: str
    kv_tokens: int

    def add(self, work: Work) -> Handle:
        """Take on one work. Raises RuntimeError if the engine refuses it."""

    def step(self) -> None:
        """Advance every work it has by one step. Raises RuntimeError if the engine broke."""

    def has_work(self) -> bool:
        """Whether another step would do anything."""

    def kv_cache_share(self) -> float:
        """What the last step used of the memory for keys and values, 0..1."""


class OpenVinoPipeline:
    """ContinuousBatchingPipeline in float32, so that log-probabilities can be compared between machines."""

    def __init__(self, settings: EngineSettings) -> None:
        import openvino as ov
        import openvino_genai as genai

        self._ov, self._genai = ov, genai
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = settings.kv_cache_gb
        scheduler.max_num_seqs = MAX_SEQUENCES
        scheduler.max_num_batched_tokens = BATCHED_TOKENS
        scheduler.dynamic_split_fuse = True
        # With prefix caching, a prompt seen before comes back from echo with one log-probability instead of all.
        scheduler.enable_prefix_caching = False
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": ov.Type.f32,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }
        if settings.threads:
            properties["INFERENCE_NUM_THREADS"] = settings.threads
        with readable(settings) as path:
            self._pipeline = genai.ContinuousBatchingPipeline(path, scheduler, "CPU", properties)
        self.name = f"openvino-genai {genai.__version__.split('-')[0]}"
        self.kv_tokens = settings.kv_cache_gb * 2**30 // kv_bytes_per_token(settings)

    def add(self, work: Work) -> Handle:
        """Take on one work. Raises RuntimeError if openvino refuses it."""
        import numpy as np

        tokens = self._ov.Tensor(np.array([work.prompt], dtype=np.int64))
        return _OpenVinoHandle(work, self._pipeline.add_request(work.id, tokens, self._config(work)), self._genai)

    def step(self) -> None:
        """One step over all running works. Holds the GIL for its whole duration (up to 1.5 s for long prompts)."""
        self._pipeline.step()

    def has_work(self) -> bool:
        """Whether a work is unfinished."""
        return bool(self._pipeline.has_non_finished_requests())

    def kv_cache_share(self) -> float:
        """What the last step used of the memory for keys and values, 0..1."""
        return float(self._pipeline.get_metrics().cache_usage) / 100  # it tells per cent

    def _config(self, work: Work) -> Any:
        config = self._genai.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = work.max_new_tokens
        config.echo = work.is_echo
        config.logprobs = 1 if work.has_logprobs else 0
        config.ignore_eos = work.ignores_eos
        config.do_sample = work.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p, config.rng_seed = work.temperature, work.top_p, work.seed
            if work.top_k:
                config.top_k = work.top_k
        return config


class _OpenVinoHandle:
    def __init__(self, work: Work, handle: Any, genai: Any) -> None:
        self._work, self._handle, self._genai = work, handle, genai

    def read(self) -> Delta | None:
        token_ids: list[int] = []
        logprobs: list[float] = []
        finish: FinishReason | None = None
        while self._handle.can_read():
            for output in self._handle.read().values():
                token_ids.extend(output.generated_ids)
                logprobs.extend(output.generated_log_probs)
                reason = output.finish_reason
                if reason == self._genai.GenerationFinishReason.STOP:
                    finish = "stop"
                elif reason == self._genai.GenerationFinishReason.LENGTH:
                    finish = "length"
        if self._handle.get_status() == self._genai.GenerationStatus.IGNORED:
            return Delta(self._work.id, [], [], failure="the engine ran out of key-value memory for this request")
        return Delta(self._work.id, token_ids, logprobs, finish) if token_ids or finish else None

    def cancel(self) -> None:
        self._handle.cancel()


@contextmanager
def readable(settings: EngineSettings) -> Iterator[str]:
    """A path OpenVINO reads without loss: the weights themselves, or an F16 copy that goes when the block ends."""
    if read_header(settings.weights).is_exact or settings.scratch is None:
        yield str(settings.weights)
        return
    copy = settings.scratch / "weights-f16.gguf"
    try:
        rewrite(settings.weights, copy)
        yield str(copy)
    finally:
        copy.unlink(missing_ok=True)


def kv_bytes_per_token(settings: EngineSettings) -> int:
    """Bytes of float32 key-value cache one token needs, from the weights' own metadata."""
    header = read_header(settings.weights)
    heads = int(header.setting("attention.head_count") or 1)
    kv_heads = int(header.setting("attention.head_count_kv") or heads)
    width = int(header.setting("attention.key_length") or int(header.setting("embedding_length") or 1) // heads)
    return max(1, 2 * 4 * int(header.setting("block_count") or 1) * kv_heads * width)
