"""A deployment that speaks OpenAI's routes and answers with its process id. Run by Ray, in another environment."""

import os
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from ray import serve

app = FastAPI()


@serve.deployment
@serve.ingress(app)
class Plain:
    """`asked` is what the backend tells every application: the served name, the weights, and `app_args`."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        if asked.get("fails"):
            raise RuntimeError("this application was told to fail")

    @app.get("/v1/models")
    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": self.asked["served_model_name"], "object": "model"}]}

    @app.post("/v1/completions")
    async def completions(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        key = os.environ.get("PLAIN_KEY")
        if key and request.headers.get("authorization") != f"Bearer {key}":
            raise HTTPException(401)
        if body["model"] != self.asked["served_model_name"]:
            raise HTTPException(404)
        text = f"{os.getpid()} {self.asked['greeting']} {body['prompt']}"
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        return {"object": "text_completion", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
