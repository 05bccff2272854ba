"""What the routes share: the model, its limits, who may ask, and how a request becomes a job."""

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from eval_pipelines.embedded.engine import Engine
from eval_pipelines.embedded.errors import ApiError
from eval_pipelines.embedded.generation import Job, plan
from eval_pipelines.embedded.metrics import Metrics
from eval_pipelines.embedded.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from eval_pipelines.embedded.tokenizer import Tokenizer

CAPABILITIES: Final[dict[str, bool]] = {
    "chat": True,
    "completions": True,
    "echo_logprobs": True,
    "top_logprobs": False,
    "n": True,
    "seed": True,
    "stream": True,
    "tools": False,
}
_DEFAULT_COMPLETION_TOKENS: Final = 16  # as OpenAI and vLLM
_INLINE_CHARACTERS: Final = 4000  # about 4 ms of tokenising: more of it goes to a thread


@dataclass
class Service:
    """One served model. `api_key` None leaves it open."""

    engine: Engine
    tokenizer: Tokenizer
    served_name: str
    weights_name: str
    max_model_len: int
    fingerprint: str
    started_at: int
    api_key: str | None = field(default=None, repr=False)
    metrics: Metrics = field(default_factory=Metrics)

    def authorise(self, header: str | None) -> None:
        """Raises ApiError (401) unless the Authorization header carries the key, if there is one."""
        if self.api_key is None:
            return
        given = (header or "").removeprefix("Bearer ").encode()
        if not secrets.compare_digest(given, self.api_key.encode()):
            raise ApiError(
                "wrong or missing API key: send it as 'Authorization: Bearer KEY'.", status=401, code="invalid_api_key"
            )

    def check_model(self, name: str | None) -> None:
        """Raises ApiError (404) if `name` is another model than the one served here."""
        if name is not None and name != self.served_name:
            message = f"The model {name!r} does not exist here; this server serves {self.served_name!r}."
            raise ApiError(message, status=404, param="model", code="model_not_found")

    def model_card(self) -> dict[str, Any]:
        """The entry of /v1/models."""
        return {
            "id": self.served_name,
            "object": "model",
            "created": self.started_at,
            "owned_by": "eval-pipelines-embedded",
            "root": self.weights_name,
            "max_model_len": self.max_model_len,
            "capabilities": CAPABILITIES,
        }

    async def plan_chat(self, request: ChatRequest) -> Job:
        """Render and tokenise a conversation. Raises ApiError."""
        if None not in (request.max_tokens, request.max_completion_tokens):
            raise ApiError("give max_tokens or max_completion_tokens, not both.", param="max_tokens")
        if request.stream and request.logprobs:
            raise _not_streamed("logprobs")
        prompt = await self._chat_ids(request)
        limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        return self._plan(request, [prompt], max_tokens=limit, has_logprobs=bool(request.logprobs))

    async def plan_completion(self, request: CompletionRequest) -> Job:
        """Tokenise or check the prompts. Raises ApiError."""
        for name, is_asked in (("logprobs", request.logprobs is not None), ("echo", bool(request.echo))):
            if request.stream and is_asked:
                raise _not_streamed(name)
        prompts = []
        for prompt in request.prompts:
            if isinstance(prompt, str):
                prompts.append(await self._encode(prompt, add_special_tokens=True))
            else:
                self.tokenizer.check_ids(prompt, param="prompt")
                prompts.append(prompt)
        return self._plan(
            request,
            prompts,
            max_tokens=_DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens,
            is_echo=bool(request.echo),
            has_logprobs=request.logprobs is not None,
        )

    async def tokenize(self, request: TokenizeRequest) -> dict[str, Any]:
        """The body of /tokenize. Raises ApiError."""
        self.check_model(request.model)
        if (request.prompt is None) == (request.messages is None):
            raise ApiError("give either prompt or messages.", param="prompt")
        if request.prompt is not None:
            ids = await self._encode(request.prompt, add_special_tokens=request.add_special_tokens is not False)
        else:
            ids = await self._chat_ids(request)
        labels = [self.tokenizer.label(id_) for id_ in ids] if request.return_token_strs else None
        return {"count": len(ids), "max_model_len": self.max_model_len, "tokens": ids, "token_strs": labels}

    def detokenize(self, request: DetokenizeRequest) -> dict[str, Any]:
        """The body of /detokenize. Raises ApiError."""
        self.check_model(request.model)
        self.tokenizer.check_ids(request.tokens, param="tokens")
        return {"prompt": self.tokenizer.decode(request.tokens)}

    def tokenizer_info(self) -> dict[str, Any]:
        """The body of /tokenizer_info: what lm-eval's remote tokenizer reads."""
        return {
            "tokenizer_class": "openvino_genai.Tokenizer",
            "bos_token": self.tokenizer.bos_token or None,
            "eos_token": self.tokenizer.eos_token or None,
            "pad_token": self.tokenizer.pad_token or None,
            "chat_template": self.tokenizer.chat_template or None,
            "model_max_length": self.max_model_len,
            "vocab_size": self.tokenizer.n_vocabulary,
        }

    def _plan(self, request: ChatRequest | CompletionRequest, prompts: list[list[int]], **options: Any) -> Job:
        return plan(
            request,
            prompts,
            engine=self.engine,
            tokenizer=self.tokenizer,
            max_model_len=self.max_model_len,
            **options,
        )

    async def _chat_ids(self, request: ChatRequest | TokenizeRequest) -> list[int]:
        messages = [{"role": message.role, "content": message.text} for message in request.messages or []]
        is_open = request.add_generation_prompt if isinstance(request, TokenizeRequest) else True
        text = self.tokenizer.render_chat(messages, add_generation_prompt=is_open)
        # The template writes the special tokens itself.
        return await self._encode(text, add_special_tokens=False)

    async def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if len(text) <= _INLINE_CHARACTERS:
            # Lets other requests in between the thousands of prompts one request may hold.
            await asyncio.sleep(0)
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens=add_special_tokens)


def _not_streamed(name: str) -> ApiError:
    return ApiError(f"{name}: not available in a stream; ask without stream.", param=name, code="unsupported_parameter")
