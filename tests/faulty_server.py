"""An OpenAI-shaped server that answers by rule and fails on command; a real HTTP server in a process of its own.

POST /config sets it up, GET /stats tells what it saw. Run: python faulty_server.py [--port N]; prints its URL.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import time
import zlib
from collections import Counter
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SETTINGS: dict[str, Any] = {}
DEFAULTS: dict[str, Any] = {
    "model": "mock",
    "latency_s": 0.0,
    "api_key": None,
    "faults": [],  # {"kind": …, "match": substring, "share": sticky share of prompts, "first": only the first k attempts}
    "answers": {},  # substring of a prompt → text
    "choices": {},  # substring of a prompt → fields of the choice, of its message, and of usage
    "by_model": {},  # name → answers and faults of its own, before those for all
    "records": False,  # /seen tells bodies and headers
    "hook": 200,  # the status of /hook; "stall" never answers
    "faults_of_canaries": False,
    "is_sampling": False,  # answers depend on the seed
    "echo": True,
    "top_logprobs": True,
    "start": None,  # "own": put before each text; a text: what /tokenizer_info tells; each has a log-probability then
    "context": None,  # tokens; more are refused
    "tokenize": True,
    "lacks": [],  # logprobs, n, seed, stream, tools: ignored where they are asked for
    "n_most": 10**9,  # of the choices that were asked for, so many are answered
    "refuses_n": False,  # more than one choice is a bad request
    "refuses_above": None,  # more on the wire are answered with 429 at once
    "metrics": None,  # "503" or "stall": /metrics fails so
}
SEEN: Counter[str] = Counter()
ANSWERED: Counter[str] = Counter()
COUNTS: Counter[str] = Counter()
TOLD: Counter[str] = Counter()  # what /metrics counts: since the start, whatever /config forgets
ON_WIRE: list[Counter[str]] = [Counter()]  # the last one counts: what an earlier test left behind has its own
RECORDED: list[dict[str, Any]] = []
HOOKED: list[dict[str, Any]] = []
ARRIVED: list[float] = []  # moments of the monotonic clock


def share_of(text: str) -> float:
    return zlib.crc32(text.encode()) % 10_000 / 10_000


def fault_for(prompt: str, model: str | None) -> dict[str, Any] | None:
    for fault in [*SETTINGS["by_model"].get(model, {}).get("faults", []), *SETTINGS["faults"]]:
        is_meant = fault.get("match", "") in prompt and share_of(prompt) < fault.get("share", 1.0)
        if is_meant and SEEN[prompt] <= fault.get("first", 10**9):
            return fault
    return None


def answer_to(prompt: str, model: str | None, seed: int | None = None) -> str:
    for part, text in {**SETTINGS["by_model"].get(model, {}).get("answers", {}), **SETTINGS["answers"]}.items():
        if part in prompt:
            return text
    drawn = "" if seed is None or not SETTINGS["is_sampling"] else f" {seed}"
    return f"I think it is {zlib.crc32(f'{prompt}{drawn}'.encode()) % 90 + 10}."


def choices_to(body: dict[str, Any], prompt: str) -> list[dict[str, Any]]:
    """One for each of `n`, drawn with a seed of its own; the last ones first, because nothing promises an order."""
    found: list[dict[str, Any]] = []
    for index in range(1 if "n" in SETTINGS["lacks"] else min(body.get("n", 1), SETTINGS["n_most"])):
        text = answer_to(prompt, body.get("model"), None if body.get("seed") is None else body["seed"] + index)
        said = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        if "seed" in SETTINGS["lacks"] and body.get("seed") is not None:
            said = {"message": {"role": "assistant", "content": f"{time.monotonic()}"}}
        if body.get("logprobs") is True and "logprobs" not in SETTINGS["lacks"]:
            said["logprobs"] = {"content": [{"token": "I", "logprob": -0.1, "top_logprobs": []}]}
        if body.get("tools") and "tools" not in SETTINGS["lacks"]:
            said["message"] |= {"content": None, "tool_calls": [{"type": "function", "function": {"name": "note"}}]}
        found.insert(0, {"index": index, **said, "finish_reason": "stop"})
    return found


def faulty(fault: dict[str, Any]) -> Response:
    kind = fault["kind"]
    if kind.isdigit():
        names = ("retry_after", "location")
        headers = {name.replace("_", "-"): str(fault[name]) for name in names if name in fault}
        message = fault.get("message", f"refused with {kind}")
        return JSONResponse({"error": {"message": message, "code": fault.get("code")}}, int(kind), headers)
    bodies: dict[str, Any] = {
        "empty_choices": {"choices": []},
        "no_choices": {"id": "x"},
        "null": {"choices": [{"message": {"content": None}, "text": None, "finish_reason": "stop"}]},
        "filtered": {"choices": [{"message": {"content": None}, "text": None, "finish_reason": "content_filter"}]},
        "error200": {"error": {"message": "the engine is overloaded, try again"}},
        "context": {"error": {"message": "This model's maximum context length is 2048 tokens"}},
    }
    if kind == "html":
        return Response("<html>502 Bad Gateway</html>", media_type="text/html")
    if kind == "truncated":
        return Response('{"choices": [{"message": {"cont', media_type="application/json")
    if kind == "list":
        return JSONResponse([1, 2])
    return JSONResponse(bodies[kind], 400 if kind == "context" else 200)


def tokens_of(text: str) -> list[str]:
    start = SETTINGS["start"] or "<s>"
    own = ["<s>"] if SETTINGS["start"] == "own" else []
    found = [start] if text.startswith(start) else []
    return [*own, *found, *re.findall(r"\s*\S+|\s+$", text[len("".join(found)) :])]


def logprob_of(token: str) -> float:
    return -(zlib.crc32(token.encode()) % 500) / 100 - 0.01


def echo_logprobs(tokens: list[str]) -> dict[str, Any]:
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    logprobs = [None, *map(logprob_of, tokens[1:])]
    best = [None if lp is None else {token: lp, "other": lp + 0.5} for token, lp in zip(tokens, logprobs, strict=True)]
    only = [None if lp is None else {token: lp} for token, lp in zip(tokens, logprobs, strict=True)]
    return {
        "tokens": tokens,
        "token_logprobs": logprobs,
        "text_offset": offsets,
        "top_logprobs": best if SETTINGS["top_logprobs"] else only,
    }


async def complete(request: Request) -> Response:
    ARRIVED.append(time.monotonic())
    body = await request.json()
    COUNTS["requests"] += 1
    if SETTINGS["records"]:
        RECORDED.append({"body": body, "headers": dict(request.headers)})
    n_choices = body.get("n", 1)
    on_wire = ON_WIRE[-1]
    on_wire.update(now=1, choices=n_choices)
    COUNTS["most_on_wire"] = max(COUNTS["most_on_wire"], on_wire["now"])
    COUNTS["most_choices_on_wire"] = max(COUNTS["most_choices_on_wire"], on_wire["choices"])
    try:
        return await answer(request, body)
    finally:
        on_wire.subtract(now=1, choices=n_choices)


async def pause(request: Request, seconds: float) -> None:
    """Sleep, but not for somebody who hung up: the next test must not meet the requests of the last."""
    ends = asyncio.get_running_loop().time() + seconds
    while (left := ends - asyncio.get_running_loop().time()) > 0.5 and not await request.is_disconnected():
        await asyncio.sleep(0.05)
    await asyncio.sleep(max(0.0, min(left, 0.5)))


async def answer(request: Request, body: dict[str, Any]) -> Response:
    if SETTINGS["api_key"] and request.headers.get("authorization") != f"Bearer {SETTINGS['api_key']}":
        return JSONResponse({"error": {"message": "bad key"}}, 401)
    if SETTINGS["refuses_above"] and ON_WIRE[-1]["now"] > SETTINGS["refuses_above"]:
        COUNTS["refused"] += 1
        return faulty({"kind": "429"})
    if SETTINGS["refuses_n"] and body.get("n", 1) > 1:
        return JSONResponse({"error": {"message": "n must be 1"}}, 400)
    is_chat = "messages" in body
    prompt = body["messages"][-1]["content"] if is_chat else body["prompt"]
    if isinstance(prompt, list):  # token ids, as /tokenize tells them
        prompt = [VOCABULARY[id_] for id_ in prompt]
        if len(prompt) + 1 > (SETTINGS["context"] or 10**9):
            return faulty({"kind": "context"})
        return JSONResponse({"choices": [{"index": 0, "text": "", "logprobs": echo_logprobs(prompt)}]})
    if SETTINGS["context"] and len(tokens_of(prompt)) + body.get("max_tokens", 0) > SETTINGS["context"]:
        return faulty({"kind": "context"})
    is_canary = prompt == "Hi" or prompt.endswith(" zebra purple ontology seventeen of")
    if not is_canary or SETTINGS["faults_of_canaries"]:  # canaries are not questions
        SEEN[prompt] += 1
        if ANSWERED[prompt]:
            COUNTS["asked_again_though_answered"] += 1
        if fault := fault_for(prompt, body.get("model")):
            COUNTS["faults"] += 1
            if fault["kind"] == "stall":
                await pause(request, 3600)
            return faulty(fault)
        began = ON_WIRE[-1]
        await pause(request, SETTINGS["latency_s"])
        if began is ON_WIRE[-1]:
            ANSWERED[prompt] += 1
            COUNTS["answered"] += 1
    choices = choices_to(body, prompt)
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 5 * len(choices)}
    TOLD.update(usage, finished=1)
    if body.get("echo") and SETTINGS["echo"]:
        choices = [
            {
                "index": 0,
                "text": prompt,
                "logprobs": echo_logprobs([*tokens_of(prompt), " more"]),
                "finish_reason": "length",
            }
        ]
        usage["completion_tokens"] = 1
    for part, fields in SETTINGS["choices"].items():
        if part in prompt:
            usage = usage | fields.get("usage", {})
            for choice in choices:
                choice |= fields.get("choice", {})
                if is_chat:
                    choice["message"] |= fields.get("message", {})
    if body.get("stream") and "stream" not in SETTINGS["lacks"]:
        return Response(streamed(choices[0], is_chat, usage), media_type="text/event-stream")
    return JSONResponse({"choices": choices, "usage": usage})


def streamed(choice: dict[str, Any], is_chat: bool, usage: dict[str, int]) -> str:
    text = (choice["message"]["content"] or "") if is_chat else choice["text"]
    pieces = [{"delta": {"content": word}} if is_chat else {"text": word} for word in re.findall(r"\s*\S+", text)]
    thought = choice.get("message", {}).get("reasoning_content") or ""
    pieces = [{"delta": {"reasoning_content": word}} for word in re.findall(r"\s*\S+", thought)] + pieces
    end = {**({"delta": {}} if is_chat else {"text": ""}), "finish_reason": choice["finish_reason"]}
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, **piece}]} for piece in (*pieces, end)]
    return "".join(
        f"data: {line}\n\n" for line in [*map(json.dumps, [*chunks, {"choices": [], "usage": usage}]), "[DONE]"]
    )


async def seen(_: Request) -> Response:
    return JSONResponse(RECORDED)


async def hook(request: Request) -> Response:
    """Somebody who is told of progress."""
    if request.method == "GET":
        return JSONResponse(HOOKED)
    HOOKED.append({"method": request.method, **await request.json()})
    if SETTINGS["hook"] == "stall":
        await pause(request, 3600)
    return Response("", int(SETTINGS["hook"]))


async def models(_: Request) -> Response:
    return JSONResponse({"data": [{"id": name} for name in (SETTINGS["model"], *SETTINGS["by_model"])]})


VOCABULARY: list[str] = []


async def tokenize(request: Request) -> Response:
    """vLLM's shape."""
    if not SETTINGS["tokenize"]:
        return JSONResponse({"detail": "Not Found"}, 404)
    body = await request.json()
    found = tokens_of(body["prompt"])
    if not body["add_special_tokens"]:
        found = found[SETTINGS["start"] == "own" :]
    VOCABULARY.extend(sorted({*found} - {*VOCABULARY}))
    ids = [VOCABULARY.index(token) for token in found]
    return JSONResponse({"count": len(ids), "max_model_len": SETTINGS["context"], "tokens": ids})


async def tokenizer_info(_: Request) -> Response:
    told = SETTINGS["start"]
    return JSONResponse({"bos_token": None, "eos_token": told}, 404 if told in (None, "own") else 200)


async def configure(request: Request) -> Response:
    SETTINGS.clear()
    SETTINGS.update(DEFAULTS)
    SETTINGS.update(await request.json())
    for counter in (SEEN, ANSWERED, COUNTS):
        counter.clear()
    for kept in (ARRIVED, RECORDED, HOOKED):
        kept.clear()
    ON_WIRE[:] = [Counter()]
    return JSONResponse(SETTINGS)


async def patch(request: Request) -> Response:
    SETTINGS.update(await request.json())
    return JSONResponse(SETTINGS)


async def stats(_: Request) -> Response:
    return JSONResponse(
        {**COUNTS, "n_prompts": len(SEEN), "most_asked": max(SEEN.values(), default=0), "on_wire": ON_WIRE[-1]["now"]}
    )


async def metrics(request: Request) -> Response:
    """Prometheus text with two series of each, as of two engines."""
    COUNTS["scrapes"] += 1
    if SETTINGS["metrics"] == "stall":
        await pause(request, 3600)
    if SETTINGS["metrics"]:
        return Response("not now", int(SETTINGS["metrics"]))
    series = {"running": (ON_WIRE[-1]["now"], 0), "cache_share": (0.5, 0.25)}
    series |= {f"{name}_total": (TOLD[name], 0) for name in ("prompt_tokens", "completion_tokens", "finished")}
    lines = [
        f'mock_{name}{{engine="{engine}",model_name="{SETTINGS["model"]}"}} {value}'
        for name, values in series.items()
        for engine, value in enumerate(values)
    ]
    return Response("\n".join(["# HELP mock_running Requests.", "# TYPE mock_running gauge", *lines, ""]))


async def arrivals(_: Request) -> Response:
    return JSONResponse(ARRIVED)


async def health(_: Request) -> Response:
    return Response("ok")


ROUTES = [
    Route("/v1/chat/completions", complete, methods=["POST"]),
    Route("/v1/completions", complete, methods=["POST"]),
    Route("/v1/models", models),
    Route("/config", configure, methods=["POST"]),
    Route("/patch", patch, methods=["POST"]),
    Route("/stats", stats),
    Route("/seen", seen),
    Route("/hook", hook, methods=["GET", "POST", "PUT", "PATCH"]),
    Route("/metrics", metrics),
    Route("/arrivals", arrivals),
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/tokenizer_info", tokenizer_info),
    Route("/health", health),
    Route("/v1/health/ready", health),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="mock")
    parser.add_argument("--latency-s", type=float, default=0.0)
    args = parser.parse_args()
    DEFAULTS["latency_s"] = args.latency_s
    DEFAULTS["model"], DEFAULTS["api_key"], port = args.model, os.environ.get("FAULTY_API_KEY"), args.port
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(4096)  # whoever reads the address may connect at once
    SETTINGS.update(json.loads(json.dumps(DEFAULTS)))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        Starlette(routes=ROUTES),
        log_level="critical",
        access_log=False,
        backlog=4096,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
