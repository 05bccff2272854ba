"""The HTTP routes of the transformers server. Only /v1 asks for the key."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from ._transformers_answers import chat_choices, completion_choices
from ._transformers_engine import Engine, Row
from ._transformers_model import CausalModel, Rows
from ._transformers_protocol import ChatRequest, CompletionRequest, Json, Refused, envelope, parse, too_long, usage
from ._transformers_text import Prompt

_MAX_BODY_BYTES = 32 * 2**20


class Service:
    """The routes, and the counts of what was answered."""

    def __init__(
        self, model: CausalModel, engine: Engine[Rows], *, name: str, key: str | None, max_waiting: int
    ) -> None:
        self._model, self._engine, self._name, self._key = model, engine, name, key
        self._max_waiting = max_waiting
        self._counts: Counter[str] = Counter()
        self._latency_s = 0.0

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(openapi_url=None)
        app.add_api_route("/health", self.health)
        app.add_api_route("/version", self.version)
        app.add_api_route("/metrics", self.metrics)
        app.add_api_route("/v1/models", self.models)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_api_route("/v1/completions", self.completions, methods=["POST"])
        return app

    async def health(self) -> Response:
        """200 while the model can compute, 503 with the reason otherwise."""
        return PlainTextResponse(self._engine.trouble or "", status_code=503 if self._engine.trouble else 200)

    async def version(self) -> Response:
        """What computes."""
        return JSONResponse({"version": self._model.version, "engine": self._model.name})

    async def models(self, request: Request) -> Response:
        """The one model served here."""
        card = {"id": self._name, "object": "model", "max_model_len": self._model.max_model_len}
        return await self._answered(request, lambda _: _value({"object": "list", "data": [card]}), is_counted=False)

    async def metrics(self) -> Response:
        """Counts in Prometheus' text format."""
        lines = []
        for name, kind, value in (
            ("requests_running", "gauge", self._engine.n_running),
            ("requests_waiting", "gauge", self._engine.n_waiting),
            ("prompt_tokens_total", "counter", self._counts["prompt_tokens"]),
            ("generation_tokens_total", "counter", self._counts["generation_tokens"]),
            ("request_latency_seconds_sum", "counter", round(self._latency_s, 6)),
            ("request_latency_seconds_count", "counter", self._counts["ok"]),
        ):
            lines += [f"# TYPE transformers_{name} {kind}", f"transformers_{name} {value}"]
        lines.append("# TYPE transformers_requests_total counter")
        for outcome in ("ok", "rejected", "failed", "cancelled"):
            lines.append(f'transformers_requests_total{{outcome="{outcome}"}} {self._counts[outcome]}')
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._answered(request, lambda body: self._chat(parse(ChatRequest, body)))

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._answered(request, lambda body: self._completions(parse(CompletionRequest, body)))

    async def _answered(
        self, request: Request, work: Callable[[bytes], Awaitable[Json]], *, is_counted: bool = True
    ) -> Response:
        began, outcome = time.monotonic(), "failed"
        try:
            self._authorise(request)
            answer = await _unless_gone(request, work(await _body(request)))
            outcome = "ok"
            return JSONResponse(answer)
        except Refused as refused:
            outcome = "rejected" if refused.status < 500 else "failed"
            after = {} if refused.retry_after_s is None else {"retry-after": str(refused.retry_after_s)}
            return JSONResponse(refused.body, status_code=refused.status, headers=after)
        except _Gone:
            outcome = "cancelled"
            return Response(status_code=499)  # nobody reads it
        except asyncio.CancelledError:
            outcome = "cancelled"  # the grace period of a stop is over
            return JSONResponse(Refused("the server is stopping", status=503).body, status_code=503)
        finally:
            if is_counted:
                self._counts[outcome] += 1
                self._latency_s += time.monotonic() - began if outcome == "ok" else 0

    def _authorise(self, request: Request) -> None:
        told = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._key and not secrets.compare_digest(told.encode(), self._key.encode()):
            raise Refused("Incorrect API key provided", status=401, code="invalid_api_key")

    def _check(self, asked: ChatRequest | CompletionRequest) -> None:
        if asked.model != self._name:
            words = f"The model `{asked.model}` does not exist: this server answers to `{self._name}`."
            raise Refused(words, status=404, code="model_not_found")

    async def _chat(self, asked: ChatRequest) -> Json:
        self._check(asked)
        tokens = self._model.tokens
        options = {
            "add_generation_prompt": asked.add_generation_prompt is not False,
            "continue_final_message": bool(asked.continue_final_message),
        }
        try:
            text = tokens.tokenizer.apply_chat_template(
                [message.plain for message in asked.messages], tokenize=False, **options,
                **(asked.chat_template_kwargs or {}),
            )  # fmt: skip
            prompt = tokens.prompt(text, adds_special=False)
        except Exception as error:  # noqa: BLE001 - a template raises what it likes
            raise Refused(f"the chat template refused the messages: {error}") from None
        (rows,) = await self._computed(asked, [prompt], asked.n_top)
        choices = chat_choices(tokens, rows)
        return self._body("chat.completion", choices, [prompt], [rows])

    async def _completions(self, asked: CompletionRequest) -> Json:
        self._check(asked)
        tokens, adds_special = self._model.tokens, asked.add_special_tokens is not False
        try:
            prompts = [
                tokens.prompt(one, adds_special=adds_special)
                if isinstance(one, str)
                else tokens.prompt_of_ids(one, self._model.n_vocabulary)
                for one in asked.prompts
            ]
        except ValueError as error:
            raise Refused(f"prompt: {error}") from None
        is_echo = bool(asked.echo)
        groups = await self._computed(asked, prompts, asked.logprobs, is_echo=is_echo)
        pairs = [(prompt, row) for prompt, rows in zip(prompts, groups, strict=True) for row in rows]
        choices = completion_choices(tokens, pairs, is_echo=is_echo)
        return self._body("text_completion", choices, prompts, groups)

    async def _computed(
        self,
        asked: ChatRequest | CompletionRequest,
        prompts: Sequence[Prompt],
        n_top: int | None,
        *,
        is_echo: bool = False,
    ) -> list[list[Row]]:
        """One list of rows per prompt, once all of them are over."""
        n, limit = asked.n or 1, self._model.max_model_len
        if not prompts or len(prompts) * n > self._max_waiting:
            raise Refused(f"a request may hold from 1 to {self._max_waiting} sequences, not {len(prompts) * n}")
        groups, ends = [], [asyncio.get_running_loop().create_future() for _ in range(len(prompts) * n)]
        default = 16 if isinstance(asked, CompletionRequest) else None
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        for i, prompt in enumerate(prompts):
            wanted = default if asked.limit is None else asked.limit
            n_answer = limit - len(prompt.ids) if wanted is None else wanted
            if len(prompt.ids) + n_answer > limit or (wanted is None and n_answer < 1):
                raise too_long(limit, len(prompt.ids), max(1, n_answer))
            groups.append([
                Row(
                    prompt.ids, self._model.tokens.answer(prompt, asked.stops), n_answer,
                    frozenset() if asked.ignore_eos else self._model.ends, _teller(ends[i * n + k]),
                    temperature=1.0 if asked.temperature is None else asked.temperature,
                    top_p=1.0 if asked.top_p is None else asked.top_p, top_k=asked.top_k or 0, seed=seed + i * n + k,
                    n_top=n_top, is_echo=is_echo and n_top is not None,
                )
                for k in range(n)
            ])  # fmt: skip
        rows = [row for group in groups for row in group]
        self._engine.submit(rows)
        try:
            await asyncio.gather(*ends)
        finally:
            for row in rows:
                row.is_cancelled = row.finish_reason is None
        return groups

    def _body(
        self, kind: str, choices: Sequence[Json], prompts: Sequence[Prompt], groups: Sequence[Sequence[Row]]
    ) -> Json:
        n_prompt = sum(len(prompt.ids) for prompt in prompts)
        n_answer = sum(len(row.tokens) for rows in groups for row in rows)
        self._counts["prompt_tokens"] += n_prompt
        self._counts["generation_tokens"] += n_answer
        return envelope(kind, self._name, self._model.name, choices, usage(n_prompt, n_answer))


class _Gone(Exception):
    """Who asked has hung up."""


async def _value(told: Json) -> Json:
    return told


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY_BYTES:
            raise Refused(f"the body is longer than {_MAX_BODY_BYTES} bytes", status=413)
    return bytes(body)


async def _unless_gone(request: Request, work: Awaitable[Json]) -> Json:
    """What `work` gives. Raises _Gone, and cancels it, once nobody waits for it."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watcher = asyncio.ensure_future(work), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Gone
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()


def _teller(end: "asyncio.Future[None]") -> Callable[[Refused | None], None]:
    loop = end.get_loop()

    def tell(refused: Refused | None) -> None:
        if end.done():
            return
        if refused:
            end.set_exception(refused)
        else:
            end.set_result(None)

    def tell_soon(refused: Refused | None) -> None:
        loop.call_soon_threadsafe(tell, refused)

    return tell_soon
