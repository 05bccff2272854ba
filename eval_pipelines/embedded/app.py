"""The HTTP routes. What they answer is decided in service.py, generation.py and answers.py."""

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from eval_pipelines.embedded import answers
from eval_pipelines.embedded.answers import Header
from eval_pipelines.embedded.errors import ApiError, EngineError
from eval_pipelines.embedded.generation import Job, complete, pieces
from eval_pipelines.embedded.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationRequest,
    TokenizeRequest,
    parse,
)
from eval_pipelines.embedded.service import Service

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


def create_app(service: Service) -> Starlette:
    """The application for one served model."""
    routes = Routes(service)
    return Starlette(
        routes=[
            Route("/health", routes.health),
            Route("/version", routes.version),
            Route("/metrics", routes.metrics),
            Route("/tokenizer_info", routes.tokenizer_info),
            Route("/tokenize", routes.tokenize, methods=["POST"]),
            Route("/detokenize", routes.detokenize, methods=["POST"]),
            Route("/v1/models", routes.models),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.completions, methods=["POST"]),
        ],
        exception_handlers={ApiError: _refused, EngineError: _broken, HTTPException: _no_route, Exception: _bug},
    )


class Routes:
    """One method per route. Only /v1/ asks for the key, as in vLLM: lm-eval's tokenizer sends none."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _: Request) -> Response:
        """200 while the engine can answer, 503 with the reason otherwise."""
        trouble = self._service.engine.trouble()
        return PlainTextResponse(trouble or "", status_code=503 if trouble else 200)

    async def version(self, _: Request) -> Response:
        """This server's version and its engine's."""
        try:
            version = importlib.metadata.version("eval-pipelines")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
        return JSONResponse({"version": version, "engine": self._service.engine.name})

    async def metrics(self, _: Request) -> Response:
        """Counters in Prometheus' text format."""
        engine = self._service.engine
        text = self._service.metrics.render(
            n_running=engine.n_running, n_waiting=engine.n_waiting, kv_cache_share=engine.kv_cache_share
        )
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def tokenizer_info(self, _: Request) -> Response:
        """Special tokens and chat template."""
        return JSONResponse(self._service.tokenizer_info())

    async def tokenize(self, request: Request) -> Response:
        """Text or messages to token ids."""
        return JSONResponse(await self._service.tokenize(parse(TokenizeRequest, await request.body())))

    async def detokenize(self, request: Request) -> Response:
        """Token ids to text."""
        return JSONResponse(self._service.detokenize(parse(DetokenizeRequest, await request.body())))

    async def models(self, request: Request) -> Response:
        """The one model served here, with what it can do."""
        self._service.authorise(request.headers.get("authorization"))
        return JSONResponse({"object": "list", "data": [self._service.model_card()]})

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._generate(request, self._chat)

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._generate(request, self._completion)

    async def _chat(self, request: Request) -> Response:
        asked = parse(ChatRequest, await request.body())
        self._service.check_model(asked.model)
        job = await self._service.plan_chat(asked)
        header = self._header("chatcmpl")
        if asked.stream:
            return StreamingResponse(self._chat_events(header, job, asked), media_type="text/event-stream")
        await self._complete(request, job)
        return JSONResponse(answers.chat(header, job, has_logprobs=bool(asked.logprobs)))

    async def _completion(self, request: Request) -> Response:
        asked = parse(CompletionRequest, await request.body())
        self._service.check_model(asked.model)
        job = await self._service.plan_completion(asked)
        header = self._header("cmpl")
        if asked.stream:
            return StreamingResponse(self._completion_events(header, job, asked), media_type="text/event-stream")
        await self._complete(request, job)
        return JSONResponse(answers.completion(header, job, has_logprobs=asked.logprobs is not None))

    async def _generate(self, request: Request, handler: Handler) -> Response:
        counts = self._service.metrics.requests
        try:
            self._service.authorise(request.headers.get("authorization"))
            if trouble := self._service.engine.trouble():
                return _broken_response(trouble, status=503)
            return await handler(request)
        except ApiError:
            counts["rejected"] += 1
            raise
        except ClientDisconnect:
            counts["cancelled"] += 1
            return Response(status_code=499)  # nobody reads it
        except asyncio.CancelledError:
            # Only uvicorn cancels, when the grace period of a shutdown is over: the client deserves to know.
            counts["cancelled"] += 1
            return _broken_response("the server is stopping", status=503)
        except Exception:
            counts["failed"] += 1
            raise

    async def _complete(self, request: Request, job: Job) -> None:
        started = time.monotonic()
        await _unless_disconnected(request, complete(job, self._service.engine))
        self._count(job, started)

    async def _chat_events(self, header: Header, job: Job, asked: ChatRequest) -> AsyncIterator[str]:
        for choice in job.choices:
            yield answers.event(answers.chat_chunk(header, choice, is_first=True))
        async for text in self._events(header, job, asked, kind="chat.completion.chunk"):
            yield text

    def _completion_events(self, header: Header, job: Job, asked: CompletionRequest) -> AsyncIterator[str]:
        return self._events(header, job, asked, kind="text_completion")

    async def _events(self, header: Header, job: Job, asked: GenerationRequest, *, kind: str) -> AsyncIterator[str]:
        chunk: Callable[..., dict[str, Any]] = (
            answers.chat_chunk if kind == "chat.completion.chunk" else answers.completion_chunk
        )
        started, is_over = time.monotonic(), False
        try:
            async with aclosing(pieces(job, self._service.engine)) as news:
                async for choice, text, is_last in news:
                    if text or is_last:
                        yield answers.event(chunk(header, choice, text=text, is_last=is_last))
            self._count(job, started)
            is_over = True
            if asked.wants_usage:
                yield answers.event(header.body(kind, [], job.usage))
        except EngineError as error:
            is_over = True
            self._service.metrics.requests["failed"] += 1
            yield answers.event(answers.error(str(error), kind="server_error", code="engine_error"))
        finally:
            if not is_over:
                self._service.metrics.requests["cancelled"] += 1
        yield "data: [DONE]\n\n"

    def _count(self, job: Job, started: float) -> None:
        self._service.metrics.answered(
            prompt_tokens=job.usage["prompt_tokens"],
            generation_tokens=job.usage["completion_tokens"],
            latency_s=time.monotonic() - started,
        )

    def _header(self, prefix: str) -> Header:
        return Header.new(prefix, model=self._service.served_name, fingerprint=self._service.fingerprint)


async def _unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    # Nobody waits for the answer of a client that is gone: cancelling frees its place in the engine.
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for future in (task, watcher):
            future.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    kind = {401: "authentication_error", 404: "not_found_error"}.get(error.status, "invalid_request_error")
    body = answers.error(error.message, kind=kind, param=error.param, code=error.code)
    return JSONResponse(body, status_code=error.status)


async def _broken(_: Request, error: Exception) -> Response:
    return _broken_response(str(error), status=500)


def _broken_response(reason: str, *, status: int) -> Response:
    return JSONResponse(answers.error(reason, kind="server_error", code="engine_error"), status_code=status)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    body = answers.error(message, kind="invalid_request_error", code="no_such_route")
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _bug(_: Request, error: Exception) -> Response:
    return JSONResponse(answers.error(f"unexpected: {error!r}", kind="server_error"), status_code=500)
