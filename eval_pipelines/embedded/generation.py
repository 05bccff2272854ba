"""From a validated request to engine works, and from their tokens to choices."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from eval_pipelines.embedded.engine import Engine, Stream
from eval_pipelines.embedded.errors import ApiError, EngineError
from eval_pipelines.embedded.messages import Delta, FinishReason, Work
from eval_pipelines.embedded.protocol import MAX_PROMPTS, GenerationRequest
from eval_pipelines.embedded.text import TextAssembler
from eval_pipelines.embedded.tokenizer import Tokenizer

# As vLLM: below this, sampling and greedy cannot be told apart but by rounding.
_GREEDY_BELOW = 1e-5


@dataclass
class Choice:
    """One answer as it grows. With echo, the prompt's log-probabilities come first and the first of them is unknown."""

    index: int
    prompt: list[int]
    tokenizer: Tokenizer
    stops: Sequence[str] = ()
    is_echo: bool = False
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self._assembler = TextAssembler(self.stops)
        self._n_to_echo = len(self.prompt) if self.is_echo else 0

    @property
    def text(self) -> str:
        """The generated text so far, without stop string and control tokens."""
        return self._assembler.text

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string ended it (rather than the model or the length)."""
        return self._assembler.is_stopped

    def feed(self, delta: Delta) -> str:
        """Add new tokens; returns the text that became certain."""
        new = ""
        for id_, logprob in zip(delta.token_ids, delta.logprobs, strict=True):
            if self._n_to_echo:
                self._n_to_echo -= 1
                self.prompt_logprobs.append(logprob)
            elif not self.is_stopped:
                self.token_ids.append(id_)
                self.logprobs.append(logprob)
                is_control = id_ in self.tokenizer.control_ids
                new += self._assembler.feed(self.tokenizer.piece(id_), is_control=is_control)
        if self.is_stopped:
            self.finish_reason = "stop"
        elif delta.finish is not None:
            self.finish_reason = delta.finish
            new += self._assembler.finish()
        return new


@dataclass(frozen=True)
class Job:
    """One HTTP request: its prompts, and for each of them `n` choices."""

    prompts: list[list[int]]
    choices: list[Choice]
    works: list[Work]

    @property
    def usage(self) -> dict[str, int]:
        """Token counts, each prompt counted once however many choices it has."""
        prompt = sum(len(prompt) for prompt in self.prompts)
        generated = sum(len(choice.token_ids) for choice in self.choices)
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def plan(
    request: GenerationRequest,
    prompts: list[list[int]],
    *,
    engine: Engine,
    tokenizer: Tokenizer,
    max_model_len: int,
    max_tokens: int | None,
    is_echo: bool = False,
    has_logprobs: bool = False,
) -> Job:
    """Lay out what to ask the engine. `max_tokens` None means as many as the context holds.

    Raises ApiError (code context_length_exceeded) if a prompt and its answer do not fit the context.
    """
    if max_tokens == 0 and not is_echo:
        raise ApiError("max_tokens: 0 makes sense only with echo.", param="max_tokens", code="invalid_value")
    if len(prompts) * (request.n or 1) > MAX_PROMPTS:
        raise ApiError(f"n: {len(prompts)} prompts times {request.n} is more than {MAX_PROMPTS} answers.", param="n")
    temperature = 1.0 if request.temperature is None else request.temperature
    works, choices = list[Work](), list[Choice]()
    # Without a seed every request draws its own: openvino's default seed is always the same one.
    seed = secrets.randbits(63) if request.seed is None else request.seed
    for prompt in prompts:
        room = _room(prompt, max_tokens, max_model_len)
        for repeat in range(request.n or 1):
            choices.append(Choice(len(choices), prompt, tokenizer, request.stops, is_echo))
            work = Work(
                id=engine.next_id(),
                prompt=tuple(prompt),
                max_new_tokens=room,
                temperature=temperature if temperature >= _GREEDY_BELOW else 0.0,
                top_p=1.0 if request.top_p is None else request.top_p,
                top_k=max(0, request.top_k or 0),
                seed=_engine_seed(seed, repeat),
                is_echo=is_echo,
                has_logprobs=has_logprobs,
                ignores_eos=bool(request.ignore_eos),
            )
            works.append(work)
    return Job(prompts, choices, works)


def _room(prompt: list[int], max_tokens: int | None, max_model_len: int) -> int:
    if not prompt:
        raise ApiError("the prompt is empty: it needs at least one token.", param="prompt", code="invalid_value")
    wanted = 1 if max_tokens is None else max_tokens
    if len(prompt) + wanted > max_model_len:
        raise ApiError(
            f"This model's maximum context length is {max_model_len} tokens. However, you requested "
            f"{len(prompt) + wanted} tokens ({len(prompt)} in the prompt, {wanted} for the answer).",
            param="max_tokens" if len(prompt) < max_model_len else "prompt",
            code="context_length_exceeded",
        )
    return max_model_len - len(prompt) if max_tokens is None else max_tokens


def _engine_seed(seed: int, repeat: int) -> int:
    # openvino keeps 32 bits: hashing keeps seeds that differ above them apart, and the choices of one request.
    digest = hashlib.blake2b(f"{seed}/{repeat}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


async def complete(job: Job, engine: Engine) -> None:
    """Fill every choice. Raises EngineError; on any way out, nothing of this job is left in the engine."""
    streams = [engine.submit(work) for work in job.works]
    try:
        async with asyncio.TaskGroup() as group:
            for choice, stream in zip(job.choices, streams, strict=True):
                group.create_task(_fill(choice, stream))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for stream in streams:
            stream.close()


async def _fill(choice: Choice, stream: Stream) -> None:
    async for delta in stream.deltas():
        choice.feed(delta)
        if choice.finish_reason is not None:
            stream.close()


async def pieces(job: Job, engine: Engine) -> AsyncGenerator[tuple[Choice, str, bool], None]:
    """Yield (choice, new text, whether it is its last) as text becomes certain, of all choices as they come.

    Raises EngineError; closing the iterator frees everything in the engine.
    """
    streams = [engine.submit(work) for work in job.works]
    news: asyncio.Queue[tuple[Choice, str, bool] | EngineError] = asyncio.Queue()

    async def pump(choice: Choice, stream: Stream) -> None:
        try:
            async for delta in stream.deltas():
                text = choice.feed(delta)
                news.put_nowait((choice, text, choice.finish_reason is not None))
                if choice.finish_reason is not None:
                    stream.close()
        except EngineError as error:
            news.put_nowait(error)

    tasks = [asyncio.create_task(pump(*pair)) for pair in zip(job.choices, streams, strict=True)]
    try:
        n_open = len(tasks)
        while n_open:
            item = await news.get()
            if isinstance(item, EngineError):
                raise item
            n_open -= item[2]
            yield item
    finally:
        for task in tasks:
            task.cancel()
        for stream in streams:
            stream.close()
