"""Why a server ended, read from its own words. The excerpts are what vLLM 0.32 printed when each was provoked."""

import pytest

from eval_pipelines.serving.backends import Cause, likely_cause
from eval_pipelines.serving.backends._vllm_words import CAUSES

pytestmark = pytest.mark.unit

HEAD = [
    "(APIServer pid=8966) INFO 11-21 09:18:04 [api_utils.py:286] non-default args: {'model': '/ckpt', 'port': 8000}",
    "(APIServer pid=8966) WARNING 11-21 09:18:04 [system_utils.py:255] Found ulimit of 20000 and failed to "
    "automatically increase. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`.",
    "(EngineCore pid=9) INFO 11-21 09:18:05 [importing.py:68] Triton not found. Address already in use is no news.",
]
# a worker's failure drags the engine down, and that the API server; each tells only that
TAIL = [
    "(EngineCore pid=10450) ERROR 11-21 09:20:07 [core.py:1510] EngineCore failed to start.",
    "(EngineCore pid=10450) ERROR 11-21 09:20:07 [core.py:1510] Traceback (most recent call last):",
    '(EngineCore pid=10450) ERROR 11-21 09:20:07 [core.py:1510]   File "/vllm/tracing/otel.py", line 175, in f',
    "(EngineCore pid=10450) ERROR 11-21 09:20:07 [core.py:1510] Exception: WorkerProc initialization failed due to "
    "an exception in a background process. See stack trace for root cause.",
    "nanobind: leaked 3 instances!",
    "    raise RuntimeError(",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
]
WORKER = "(Worker pid=11220) ERROR 11-21 09:20:02 [multiproc_executor.py:953] "
ENGINE = "(EngineCore pid=15248) ERROR 11-21 09:23:16 [core.py:1510] "
SAID = [
    ("vllm: error: unrecognized arguments: --no-such-flag", "look at `extra_args`"),
    (
        "  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len "
        "(max_position_embeddings=8192.0 or model_max_length=None in model's config.json).",
        "lower `max_model_len`",
    ),
    (
        "  Value error, The checkpoint you are trying to load has model type `nosuch` but Transformers does not "
        "recognize this architecture.",
        "does not know the model's architecture",
    ),
    (WORKER + "RuntimeError: Cannot find any model weights with `/ckpt`", "the folder holds no weights"),
    (
        WORKER + "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete "
        "metadata, file not fully covered",
        "cut short or damaged",
    ),
    (
        ENGINE + "ValueError: To serve at least one request with the model's max seq len (8192), (0.18 GiB KV cache "
        "is needed, which is larger than the available KV cache memory (0.01 GiB). Based on the available memory, "
        "the estimated maximum model length is 256.",
        "raise `kv_cache_memory_bytes`",
    ),
    (
        ENGINE + "ValueError: Available memory on node 0 (15.18/18.21 GiB) on kv cache allocation is less than "
        "requested (200.0 GiB)",
        "lower `kv_cache_memory_bytes`",
    ),
    (
        WORKER + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "lower `gpu_memory_utilization`",
    ),
    ("OSError: [Errno 98] Address already in use", "leave `port` out"),
    (
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder",
        "not on this machine",
    ),
    ("huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name'", "not on this machine"),
    (
        ENGINE + "torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found in "
        "torch._inductor.config.cpp.cxx: (None, 'g++')",
        "install g++",
    ),
    ("cannot start 'vllm': [Errno 2] No such file or directory: 'vllm'", "name its `vllm` in `executable`"),
    ("importlib.metadata.PackageNotFoundError: No package metadata was found for vllm", "install it again"),
]


@pytest.mark.parametrize(("said", "advice"), SAID, ids=[advice for _, advice in SAID])
def test_vllms_own_words_are_understood_wherever_they_stand(said: str, advice: str) -> None:
    for log in ([said], [*HEAD, said], [*HEAD, said, *TAIL]):
        cause = likely_cause(log, CAUSES)
        assert cause is not None
        assert advice in cause


def test_the_words_are_quoted_without_their_prefix() -> None:
    said = WORKER + "RuntimeError: Cannot find any model weights with `/ckpt`"
    cause = likely_cause([*HEAD, said, *TAIL], CAUSES)
    assert cause is not None
    assert cause.endswith("(it said: RuntimeError: Cannot find any model weights with `/ckpt`)")


def test_long_words_are_cut() -> None:
    assert len(likely_cause(["OSError: [Errno 98] Address already in use " + "x" * 5000], ()) or "") < 400


def test_chatter_and_the_frames_of_a_traceback_explain_nothing() -> None:
    assert likely_cause([*HEAD, *TAIL], CAUSES) is None
    assert likely_cause(["the room zoomed in, for lack of a boom"], ()) is None


def test_the_last_error_that_is_understood_counts() -> None:
    log = ["ValueError: one", "ValueError: two", "ValueError: unknown"]
    assert (likely_cause(log, (Cause("one", "first"), Cause("two", "second"))) or "").startswith("second")


def test_the_backends_own_causes_come_before_the_common_ones() -> None:
    log = ["my engine is out of memory", "FileNotFoundError: No such file or directory: '/dev/shm/x'"]
    assert (likely_cause(log, (Cause("my engine", "mine"),)) or "").startswith("mine")


def test_an_error_comes_before_a_line_that_is_none() -> None:
    log = ["ValueError: disk", "disk seen"]
    assert "ValueError" in (likely_cause(log, (Cause("disk", "a disk"),)) or "")


def test_a_line_that_names_no_error_is_used_where_no_error_is_understood() -> None:
    assert "a path does not exist" in (likely_cause(["sh: 1: vllm: command not found"], ()) or "")


def test_a_log_that_says_nothing_known_gives_no_cause() -> None:
    assert likely_cause([], CAUSES) is None
    assert likely_cause(["all is well"], CAUSES) is None
