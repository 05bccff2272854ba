"""The engine process: one loop that owns the pipeline.

Why a process and not a thread: a step of openvino holds the GIL from start to end (measured: up to 1.2 s with long
prompts), so in one process no HTTP request would be read and no health question answered meanwhile. It also means
that a crash inside the engine is an answer (500, /health 503) and not the end of the server.
"""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection

from eval_pipelines.embedded.messages import (
    Cancel,
    Delta,
    EngineSettings,
    FromEngine,
    LoadFailed,
    Lost,
    Ready,
    Step,
    ToEngine,
    Work,
)
from eval_pipelines.embedded.pipeline import MAX_SEQUENCES, Handle, OpenVinoPipeline, Pipeline

# What a work is expected to generate at most when room is made for it. Works that generate more are preempted and
# recomputed by the engine if memory runs out: correct (measured), only slower.
_EXPECTED_NEW_TOKENS = 256


class Worker:
    """Moves works from the pipe into the pipeline and tokens back, until the pipe closes."""

    def __init__(self, pipeline: Pipeline, pipe: "Connection[FromEngine, ToEngine]") -> None:
        self._pipeline, self._pipe = pipeline, pipe
        self._waiting: deque[Work] = deque()
        self._running: dict[int, tuple[Work, Handle]] = {}
        self._reserved_tokens = 0

    def run(self) -> None:
        """Work until the other side closes the pipe. Raises RuntimeError if the pipeline breaks."""
        while True:
            try:
                self._listen()
                deltas = self._admit()
                if self._pipeline.has_work():
                    self._pipeline.step()
                    deltas += self._collect()
                # what the last step used stays in the pipeline's books until the next one
                share = self._pipeline.kv_cache_share() if self._running else 0.0
                self._pipe.send(Step(deltas, len(self._running), len(self._waiting), share))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return

    def _listen(self) -> None:
        # Blocks only when there is nothing to do: otherwise takes what is there and goes on.
        is_idle = not self._waiting and not self._running and not self._pipeline.has_work()
        while is_idle or self._pipe.poll():
            message = self._pipe.recv()
            is_idle = False
            if isinstance(message, Work):
                self._waiting.append(message)
            else:
                self._forget(message)

    def _forget(self, message: Cancel) -> None:
        if message.id in self._running:
            self._drop(message.id).cancel()
        else:
            self._waiting = deque(work for work in self._waiting if work.id != message.id)

    def _admit(self) -> list[Delta]:
        refused = []
        while self._waiting and len(self._running) < MAX_SEQUENCES:
            work = self._waiting[0]
            if self._running and self._reserved_tokens + _reserve(work) > self._pipeline.kv_tokens:
                break
            self._waiting.popleft()
            try:
                self._running[work.id] = (work, self._pipeline.add(work))
                self._reserved_tokens += _reserve(work)
            except RuntimeError as error:
                refused.append(Delta(work.id, [], [], failure=_first_line(error)))
        return refused

    def _collect(self) -> list[Delta]:
        deltas = []
        for id_, (_, handle) in list(self._running.items()):
            delta = handle.read()
            if delta is None:
                continue
            deltas.append(delta)
            if delta.finish or delta.failure:
                self._drop(id_)
        return deltas

    def _drop(self, id_: int) -> Handle:
        work, handle = self._running.pop(id_)
        self._reserved_tokens -= _reserve(work)
        return handle


def _reserve(work: Work) -> int:
    return len(work.prompt) + min(work.max_new_tokens, _EXPECTED_NEW_TOKENS)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO opens with the source line of the check and ends with the reason.
    return lines[-1] if lines else type(error).__name__


def serve(
    pipe: "Connection[FromEngine, ToEngine]",
    settings: EngineSettings,
    load: Callable[[EngineSettings], Pipeline] = OpenVinoPipeline,
) -> Pipeline | None:
    """Load the model, say so, and work until the pipe closes. A failure is said before it ends the process.

    Returns the pipeline, so that the caller decides when it is destroyed.
    """
    try:
        pipeline = load(settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, the operator must read it, not the pipe's end
        pipe.send(LoadFailed(_first_line(error)))
        return None
    try:
        pipe.send(Ready(pipeline.name))
        Worker(pipeline, pipe).run()
    except BrokenPipeError:
        pass
    except Exception as error:  # noqa: BLE001 - as above: the requests in flight are told why
        pipe.send(Lost(_first_line(error)))
    return pipeline


def main() -> None:
    """Entry of the engine process: `python -m eval_pipelines.embedded.worker FD`; the settings come over the pipe."""
    # A terminal's Ctrl-C and a launcher's TERM reach the whole group: the server decides when the engine ends, and
    # its death closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe: Connection[FromEngine, ToEngine] = Connection(int(sys.argv[1]))
    settings = pipe.recv()
    assert isinstance(settings, EngineSettings)
    kept = serve(pipe, settings)
    # The pipeline's destructor takes seconds, complains about unfinished requests, and has nothing to save.
    os._exit(0 if kept else 1)


if __name__ == "__main__":
    main()
