"""response_stats: tokens, latencies, statuses, finish reasons and tool calls of the responses, as they arrive.

A line in the run's log each `every` attempts, and the whole at the end with the run. What is asked again counts again.

Stage   attempt
Source  NeMo Evaluator, "Response Stats Interceptor", "log_tokens"
"""

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from eval_pipelines.client.interception import Attempt, Context, Interceptor

ONCE = True
_MAX_NAMES = 50  # of a server that gives each answer a reason of its own


class Spec(BaseModel):
    """Options of response_stats."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    every: int | None = Field(default=100, ge=1, description="Attempts between two lines in the log; null: none.")
    tokens: bool = Field(default=True, description="Count prompt and completion tokens.")
    finish_reasons: bool = Field(default=True, description="Count why the server stopped.")
    tool_calls: bool = Field(default=True, description="Count calls of tools, by name.")


@dataclass(slots=True)
class _Stats(Interceptor):
    spec: Spec
    context: Context
    name: str = "response_stats"
    n: int = 0
    n_responses: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    tool_calls: Counter[str] = field(default_factory=Counter)
    amounts: dict[str, "array[float]"] = field(default_factory=dict)

    def received(self, attempt: Attempt) -> None:
        self.n += 1
        failed = attempt.failure
        self.statuses["200" if failed is None else str(failed.http_status or failed.kind.value)] += 1
        for told in attempt.told:
            self.n_responses += 1
            if self.spec.finish_reasons:
                _count(self.finish_reasons, told.get("finish_reason") or "not told")
            for name in ("prompt_tokens", "completion_tokens") if self.spec.tokens else ():
                if (count := told.get(name)) is not None:
                    self._add(name, count)
        if attempt.told:
            self._add("latency_s", attempt.latency_s)
        if self.spec.tool_calls and attempt.reply is not None:
            for name in _tools_called(attempt.reply):
                _count(self.tool_calls, name)
        if self.spec.every and self.n % self.spec.every == 0:
            self.context.log(self._in_words())

    def _add(self, name: str, value: float) -> None:
        self.amounts.setdefault(name, array("d")).append(value)

    def _in_words(self) -> str:
        statuses = ", ".join(f"{status} {n}" for status, n in self.statuses.most_common())
        means = [f"{name} {sum(of) / len(of):.4g} on average" for name, of in self.amounts.items()]
        return "; ".join([f"response_stats: {self.n} attempts ({statuses})", *means])

    async def finish(self) -> Mapping[str, Any]:
        if not self.n:
            return {}
        counts = {"statuses": self.statuses, "finish_reasons": self.finish_reasons, "tool_calls": self.tool_calls}
        return {
            "n_attempts": self.n,
            "n_responses": self.n_responses,
            **{name: dict(count.most_common()) for name, count in counts.items() if count},
            **{name: _summary(values) for name, values in self.amounts.items()},
        }


def _count(counter: Counter[str], name: str) -> None:
    counter[name[:100] if name[:100] in counter or len(counter) < _MAX_NAMES else "others"] += 1


def _summary(values: "array[float]") -> dict[str, float]:
    ordered = sorted(values)
    at = {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95)}
    told = {"avg": sum(ordered) / len(ordered), **at, "max": ordered[-1], "total": sum(ordered)}
    return {name: round(value, 4) for name, value in told.items()}


def _tools_called(reply: Mapping[str, Any]) -> list[str]:
    """Names of the functions that an OpenAI-shaped reply calls."""
    found = []
    for choice in reply["choices"] if isinstance(reply.get("choices"), list) else ():
        message = choice.get("message") if isinstance(choice, dict) else None
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            found.append(str(function.get("name")) if isinstance(function, dict) else "not named")
    return found


def attempt(spec: Spec, context: Context) -> Interceptor:
    """Counts."""
    return _Stats(spec, context)
