"""An engine process without a model: says the prompt again, token by token. Certain tokens make trouble.

python fake_engine.py FD
"""

import os
import sys
from multiprocessing.connection import Connection

from eval_pipelines.embedded.messages import Delta, EngineSettings, Work
from eval_pipelines.embedded.worker import serve

BREAK, DIE, REFUSE, FOREVER = 250, 251, 252, 253


class FakeHandle:
    def __init__(self, work: Work) -> None:
        self.work, self.n_new, self.is_over = work, 0, False

    def advance(self) -> None:
        if self.work.prompt[0] == BREAK:
            raise RuntimeError("check failed at file.cpp\nout of luck")
        if self.work.prompt[0] == DIE:
            os._exit(3)
        self.n_new += 1

    def read(self) -> Delta | None:
        is_last = self.n_new >= min(self.work.max_new_tokens, len(self.work.prompt))
        is_last &= self.work.prompt[0] != FOREVER
        token = self.work.prompt[(self.n_new - 1) % len(self.work.prompt)]
        self.is_over = is_last
        return Delta(self.work.id, [token], [-0.5], "length" if is_last else None)

    def cancel(self) -> None:
        self.is_over = True


class FakePipeline:
    name, kv_tokens = "fake", 100

    def __init__(self, settings: EngineSettings) -> None:
        if settings.threads == 99:
            raise RuntimeError("no such machine")
        self.handles: list[FakeHandle] = []

    def add(self, work: Work) -> FakeHandle:
        if work.prompt[0] == REFUSE:
            raise RuntimeError("not this one")
        self.handles.append(FakeHandle(work))
        return self.handles[-1]

    def step(self) -> None:
        self.handles = [handle for handle in self.handles if not handle.is_over]
        for handle in self.handles:
            handle.advance()

    def has_work(self) -> bool:
        return any(not handle.is_over for handle in self.handles)

    def kv_cache_share(self) -> float:
        return sum(not handle.is_over for handle in self.handles) / 10


if __name__ == "__main__":
    pipe = Connection(int(sys.argv[1]))
    serve(pipe, pipe.recv(), FakePipeline)
