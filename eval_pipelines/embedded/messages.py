"""What the server and its engine process say to each other, over one pipe.

to the engine    Work: answer this · Cancel: forget that one. Closing the pipe ends the engine
from the engine  Ready, or LoadFailed · Step: what one step gave · Lost: the engine broke and will exit
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class EngineSettings:
    """What the engine process needs to load the model. `threads` 0 leaves the number to OpenVINO."""

    weights: Path
    max_model_len: int
    threads: int = 0
    kv_cache_gb: int = 1
    scratch: Path | None = None
    """Where to put the F16 copy if the weights need one; deleted once loaded."""


@dataclass(frozen=True)
class Work:
    """One prompt to be continued once. `temperature` 0 is greedy; `seed` must be in [0, 2**32)."""

    id: int
    prompt: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    is_echo: bool = False
    has_logprobs: bool = False
    ignores_eos: bool = False


@dataclass(frozen=True)
class Cancel:
    """Forget the work with this id; nothing more is said about it."""

    id: int


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""

    engine: str


@dataclass(frozen=True)
class LoadFailed:
    """The model could not be loaded; the engine process ends."""

    reason: str


@dataclass(frozen=True)
class Delta:
    """New tokens of one work. With echo, the first delta starts with the prompt's tokens.

    `logprobs` is as long as `token_ids` (natural logarithm; meaningless unless asked for).
    `failure` is set if the engine refused this one work; then nothing follows.
    """

    id: int
    token_ids: list[int]
    logprobs: list[float]
    finish: FinishReason | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Step:
    """What one step of the engine gave, how many works are in it and wait for it, and how full its memory is, 0..1."""

    deltas: list[Delta] = field(default_factory=list)
    n_running: int = 0
    n_waiting: int = 0
    kv_cache_share: float = 0.0


@dataclass(frozen=True)
class Lost:
    """The engine broke; every work it had is lost."""

    reason: str


ToEngine = Work | Cancel
FromEngine = Ready | LoadFailed | Step | Lost
