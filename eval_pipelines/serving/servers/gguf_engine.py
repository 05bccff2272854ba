"""GGUF models behind Triton: the engine of `eval_pipelines.embedded`, asked from Triton's threads.

Needs   the packages of the extra `embedded` in the environment that runs this
"""

import asyncio
import json
import math
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from eval_pipelines.embedded import errors, generation, protocol
from eval_pipelines.embedded.engine import Engine
from eval_pipelines.embedded.generation import Job
from eval_pipelines.embedded.gguf_file import read_header
from eval_pipelines.embedded.messages import EngineSettings
from eval_pipelines.embedded.pipeline import kv_bytes_per_token
from eval_pipelines.embedded.service import Service
from eval_pipelines.embedded.tokenizer import Tokenizer
from eval_pipelines.serving.servers.questions import Answer, Question, StartError, chosen

_UNKNOWN_CONTEXT = 2048
T = TypeVar("T")


class GgufEngine:
    """One engine process, and the event loop it is spoken to from."""

    def __init__(self, weights: Path, name: str, *, max_context: int | None, threads: int, kv_cache_gb: int) -> None:
        """Load the model. Raises StartError."""
        scratch = Path(tempfile.mkdtemp(prefix="eval-pipelines-gguf-"))
        try:
            header = read_header(weights)
            of_model = int(header.setting("context_length") or _UNKNOWN_CONTEXT)
            settings = EngineSettings(weights.resolve(), of_model, threads, kv_cache_gb, scratch)
            length = min(max_context or of_model, of_model, kv_cache_gb * 2**30 // kv_bytes_per_token(settings))
            if max_context is not None and length < max_context:
                raise StartError(f"--max-context {max_context} is more than the model and its cache hold: {length}")
            self._engine = Engine(settings, command=_worker)
            self._engine.launch()
            self._service = Service(
                engine=self._engine, tokenizer=Tokenizer(weights, header), served_name=name, weights_name=weights.name,
                max_model_len=length, fingerprint="", started_at=int(time.time()),
            )  # fmt: skip
            self._engine.wait_until_ready()
        except errors.StartError as error:
            self._stop_engine()
            raise StartError(str(error)) from error
        except BaseException:
            self._stop_engine()
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self.name = self._engine.name
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True).start()
        self._wait(self._started())

    def answer(self, questions: list[Question]) -> list[Answer]:
        """All questions at once: the engine works on them side by side."""
        return self._wait(self._answer_all(questions))

    def trouble(self) -> str | None:
        """Why the engine process cannot answer; None if it can."""
        return self._engine.trouble()

    def stop(self) -> None:
        """End the engine process; questions it has get an error."""
        self._stop_engine()

    def _stop_engine(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.stop()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _started(self) -> None:
        self._engine.start()

    async def _answer_all(self, questions: list[Question]) -> list[Answer]:
        return list(await asyncio.gather(*(self._answer(one) for one in questions)))

    async def _answer(self, question: Question) -> Answer:
        try:
            job = await self._plan(question)
            await generation.complete(job, self._engine)
            if question.operation == "loglikelihood":
                return self._likelihood(question, job)
        except (errors.ApiError, ValueError) as error:
            return Answer(error=str(error))
        except errors.EngineError as error:
            # "internal" tells the client that asking again may help
            return Answer(error=f"internal error: {error}")
        choice = job.choices[0]
        return Answer(
            text=choice.text,
            finish_reason=choice.finish_reason,
            n_input=job.usage["prompt_tokens"],
            n_output=job.usage["completion_tokens"],
        )

    async def _plan(self, question: Question) -> Job:
        if question.parameters.get("stream") or (question.parameters.get("n") or 1) != 1:
            raise errors.ApiError("sampling_parameters: `stream` and `n` above 1 are not supported here.")
        body = {**question.parameters, "model": self._service.served_name}
        if question.operation == "chat":
            return await self._service.plan_chat(_parse(protocol.ChatRequest, body | {"messages": question.messages}))
        if question.operation == "loglikelihood":
            text = question.text + question.continuation
            # one token is generated and thrown away, as the client asks of servers that speak OpenAI's routes
            body = {"model": body["model"], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, **body}
            return await self._service.plan_completion(_parse(protocol.CompletionRequest, body | {"prompt": text}))
        return await self._service.plan_completion(_parse(protocol.CompletionRequest, body | {"prompt": question.text}))

    def _likelihood(self, question: Question, job: Job) -> Answer:
        choice = job.choices[0]
        ends = list(accumulate(len(self._service.tokenizer.piece(id_)) for id_ in choice.prompt))
        context, continuation = question.text.encode(), question.continuation.encode()
        tokens = chosen(ends, len(context) + len(continuation), len(context))
        total = math.fsum(choice.prompt_logprobs[i] for i in tokens)
        if not math.isfinite(total):
            raise ValueError("no finite log-probability for the continuation")
        return Answer(log_likelihood=total, n_input=len(choice.prompt), n_output=len(choice.token_ids))


def _parse(shape: type[Any], body: dict[str, Any]) -> Any:
    return protocol.parse(shape, json.dumps(body).encode())


def _worker(fd: int) -> list[str]:
    # isolated like the server itself: nothing but this environment's packages and our code by its path
    script = Path(__file__).with_name("pytriton_server.py")
    return [sys.executable, "-I", str(script), "--engine-worker", str(fd)]
