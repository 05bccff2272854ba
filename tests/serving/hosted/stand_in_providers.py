"""Stands in for the addresses of providers: a real HTTP server in a process of its own that remembers what it was sent.

OpenAI's routes below /v1, Azure's below /openai, Replicate's predictions below /v1 as well. POST /config sets it up,
GET /seen tells every request: method, path, query, headers, body. Run: python stand_in_providers.py; prints its URL.
"""

import itertools
import json
import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

DEFAULTS: dict[str, Any] = {
    "models": ["mock"],
    "key_header": "authorization",
    "key": None,  # the header's whole value; None: nobody is asked for one
    "only_models": None,  # names that a request is answered for; None: all
    "models_as_list": False,  # Together's list of models is bare
    # replicate
    "states": ["succeeded"],  # what creating says, and each look after it; the last one stays
    "output": ["four", "teen"],
    "error": None,
    "looks_that_fail": 0,  # so many looks end with 503 first
    "metrics": {"input_token_count": 11, "output_token_count": 2},
}
SETTINGS: dict[str, Any] = dict(DEFAULTS)
SEEN: list[dict[str, Any]] = []
PREDICTIONS: dict[str, int] = {}  # id → looks so far
NAMES = itertools.count(1)


async def note(request: Request) -> Any:
    """Remember a request; its JSON body. Raises PermissionError without the right key."""
    raw = await request.body()
    body = json.loads(raw) if raw else None
    seen = {"method": request.method, "path": request.url.path, "query": request.url.query, "body": body}
    SEEN.append({**seen, "headers": dict(request.headers)})
    if SETTINGS["key"] is not None and request.headers.get(SETTINGS["key_header"]) != SETTINGS["key"]:
        raise PermissionError
    return body


async def chat(request: Request) -> Response:
    body = await note(request)
    if SETTINGS["only_models"] is not None and body["model"] not in SETTINGS["only_models"]:
        message = f"The model `{body['model']}` does not exist"
        return JSONResponse({"error": {"message": message, "code": "model_not_found"}}, 404)
    message = {"role": "assistant", "content": "fourteen"}
    usage = {"prompt_tokens": 11, "completion_tokens": 2}
    return JSONResponse({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})


async def models(request: Request) -> Response:
    await note(request)
    entries = [{"id": name} for name in SETTINGS["models"]]
    return JSONResponse(entries if SETTINGS["models_as_list"] else {"object": "list", "data": entries})


async def predict(request: Request) -> Response:
    await note(request)
    name = f"p{next(NAMES)}"
    PREDICTIONS[name] = 0
    return JSONResponse(prediction(name), 201)


async def look(request: Request) -> Response:
    await note(request)
    name = request.path_params["name"]
    if name not in PREDICTIONS:
        return JSONResponse({"detail": "not found"}, 404)
    if SETTINGS["looks_that_fail"] > 0:
        SETTINGS["looks_that_fail"] -= 1
        return JSONResponse({"detail": "try again"}, 503)
    PREDICTIONS[name] += 1
    return JSONResponse(prediction(name))


def prediction(name: str) -> dict[str, Any]:
    states = SETTINGS["states"]
    status = states[min(PREDICTIONS[name], len(states) - 1)]
    is_done = status == "succeeded"
    return {
        "id": name,
        "status": status,
        "output": SETTINGS["output"] if is_done else None,
        "error": SETTINGS["error"] if status == "failed" else None,
        "metrics": SETTINGS["metrics"] if is_done else {},
        "urls": {"get": f"https://elsewhere.invalid/v1/predictions/{name}"},
    }


async def replicate_model(request: Request) -> Response:
    await note(request)
    name = f"{request.path_params['owner']}/{request.path_params['name']}"
    return JSONResponse({"name": name}) if name in SETTINGS["models"] else JSONResponse({"detail": "not found"}, 404)


async def configure(request: Request) -> Response:
    SETTINGS.clear()
    SETTINGS.update(DEFAULTS)
    SETTINGS.update(await request.json())
    SEEN.clear()
    return JSONResponse(SETTINGS)


async def seen(_: Request) -> Response:
    return JSONResponse(SEEN)


async def refuse(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": {"message": "invalid key"}}, 401)


PREDICT = ["/v1/predictions", "/v1/models/{owner}/{name}/predictions", "/v1/deployments/{owner}/{name}/predictions"]
ROUTES = [
    Route("/config", configure, methods=["POST"]),
    Route("/seen", seen),
    *(Route(path, predict, methods=["POST"]) for path in PREDICT),
    Route("/v1/predictions/{name}", look),
    Route("/v1/models/{owner}/{name}", replicate_model),
    *(Route(f"{root}/chat/completions", chat, methods=["POST"]) for root in ("/v1", "/openai/v1")),
    *(Route(f"{root}/models", models) for root in ("/v1", "/openai/v1")),
    Route("/openai/deployments/{name}/chat/completions", chat, methods=["POST"]),
]


def main() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    app = Starlette(routes=ROUTES, exception_handlers={PermissionError: refuse})
    config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
