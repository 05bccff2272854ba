"""reasoning: the answer is graded without what the model thought before it.

What lies between the tokens is the reasoning; an end without a start ends what the chat template began. Reasoning that
the server tells apart (`reasoning_content`) is out of the answer already. Landed answers keep all of it.

Stage   response, remark, attempt (counts words and tokens of reasoning)
Source  NeMo Evaluator, "Reasoning Interceptor"
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eval_pipelines.client.interception import Attempt, Context, Interceptor
from eval_pipelines.records import Request, Response

ONCE = True
VERSION = 1
UNFINISHED = "unfinished reasoning"


class Spec(BaseModel):
    """Options of reasoning."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["strip", "keep"] = Field(
        default="strip", description="Grade the answer without its reasoning, or with it, also where the server split."
    )
    start_token: str = Field(default="<think>", min_length=1, description="Begins the reasoning.")
    end_token: str = Field(default="</think>", min_length=1, description="Ends it.")
    starts_inside: bool = Field(
        default=False, description="The chat template begins the reasoning: an answer without an end is all reasoning."
    )
    include_if_not_finished: bool = Field(
        default=True, description="Unfinished reasoning is graded as it is; false: what stands outside of it."
    )
    track: bool = Field(default=True, description="Count responses with reasoning, their words and tokens.")
    every: int | None = Field(default=None, ge=1, description="Log the counts each so many responses.")

    @model_validator(mode="after")
    def _tokens_differ(self) -> Self:
        if self.start_token == self.end_token:
            raise ValueError("start_token and end_token must differ")
        return self

    @cached_property
    def tokens(self) -> re.Pattern[str]:
        """Finds either token."""
        return re.compile(f"({re.escape(self.start_token)}|{re.escape(self.end_token)})")


@dataclass(frozen=True, slots=True)
class Parts:
    """One answer, taken apart."""

    thought: str
    said: str
    is_finished: bool

    @property
    def has_reasoning(self) -> bool:
        """Whether there was any, finished or not."""
        return bool(self.thought) or not self.is_finished


def parts(spec: Spec, text: str, reasoning: str | None, finish_reason: str | None) -> Parts:
    """What was thought and what was said; `reasoning` is what the server told apart. Linear, whatever the text."""
    thought, said = [reasoning] if reasoning else [], list[str]()
    is_inside, pieces = spec.starts_inside and not reasoning, spec.tokens.split(text)
    for piece in pieces:
        if piece == spec.end_token:
            if not is_inside:  # an end that nothing began: all before it was thought
                thought += said
                said = []
            is_inside = False
        elif piece == spec.start_token and not is_inside:
            is_inside = True
        else:
            (thought if is_inside else said).append(piece)
    answer = "".join(said)
    was_cut = bool(reasoning) and finish_reason == "length" and not answer.strip()
    return Parts("".join(thought), answer.strip("\n") if len(pieces) > 1 else answer, not is_inside and not was_cut)


def response(spec: Spec, _request: Request, response: Response) -> Response:
    """The answer that is graded; log-likelihoods and failures stay as they are."""
    if response.text is None:
        return response
    found = parts(spec, response.text, response.reasoning, response.finish_reason)
    if spec.mode == "keep" or (not found.is_finished and spec.include_if_not_finished):
        text = response.text
        if response.reasoning:
            text = f"{spec.start_token}{response.reasoning}{spec.end_token + text if text else ''}"
    else:
        text = found.said
    return response if text == response.text else response.model_copy(update={"text": text})


def remark(spec: Spec, _request: Request, response: Response) -> str | None:
    """Says so where reasoning did not end."""
    if response.text is None:
        return None
    is_finished = parts(spec, response.text, response.reasoning, response.finish_reason).is_finished
    return None if is_finished else UNFINISHED


@dataclass(slots=True)
class _Amount:
    n: int = 0
    total: int = 0
    most: int = 0

    def add(self, value: int) -> None:
        self.n, self.total, self.most = self.n + 1, self.total + value, max(self.most, value)

    def told(self) -> dict[str, float]:
        return {"avg": round(self.total / self.n, 1), "max": self.most, "total": self.total} if self.n else {}


@dataclass(slots=True)
class _Counts(Interceptor):
    spec: Spec
    context: Context
    name: str = "reasoning"
    n: int = 0
    n_with: int = 0
    n_unfinished: int = 0
    amounts: dict[str, _Amount] = field(default_factory=dict)

    def received(self, attempt: Attempt) -> None:
        for told in attempt.told:
            if (text := told.get("text")) is not None:
                self._count(parts(self.spec, text, told.get("reasoning"), told.get("finish_reason")))
        if attempt.told and (n_tokens := _reasoning_tokens(attempt.reply)) is not None:
            self._add("reasoning_tokens", n_tokens)

    def _count(self, found: Parts) -> None:
        self.n += 1
        if found.has_reasoning:
            self.n_with += 1
            self.n_unfinished += not found.is_finished
            self._add("reasoning_words", len(found.thought.split()))
        self._add("answer_words", len(found.said.split()))
        if self.spec.every and self.n % self.spec.every == 0:
            self.context.log(f"reasoning: {self.n_with} of {self.n} responses, {self.n_unfinished} of them unfinished")

    def _add(self, name: str, value: int) -> None:
        self.amounts.setdefault(name, _Amount()).add(value)

    async def finish(self) -> Mapping[str, Any]:
        if not self.n:
            return {}
        counts = {
            "n_responses": self.n,
            "n_with_reasoning": self.n_with,
            "n_finished": self.n_with - self.n_unfinished,
            "n_unfinished": self.n_unfinished,
            "unfinished_share": round(self.n_unfinished / self.n, 4),
        }
        return counts | {name: amount.told() for name, amount in self.amounts.items()}


def _reasoning_tokens(reply: Mapping[str, Any] | None) -> int | None:
    """As the server counted them: `usage.completion_tokens_details.reasoning_tokens`, or flat in `usage`."""
    usage = (reply or {}).get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("completion_tokens_details")
    for place in (details if isinstance(details, dict) else {}, usage):
        count = place.get("reasoning_tokens")
        if isinstance(count, int) and not isinstance(count, bool):
            return count
    return None


def attempt(spec: Spec, context: Context) -> Interceptor | None:
    """Counts, if they are wanted."""
    return _Counts(spec, context) if spec.track else None
