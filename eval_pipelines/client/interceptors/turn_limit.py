"""turn_limit: how many turns of the user a conversation may have, and reminders of that.

A turn is one user message; few-shot examples asked as a conversation are turns, too. A plain prompt has none.

Stage   request (reminders), attempt (refuses what is too long before it is sent)
Source  NeMo Evaluator 0.3, "turn_counter"
"""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eval_pipelines.client.interception import Attempt, Context, Interceptor, Refused
from eval_pipelines.records import Failure, FailureKind, Request

ONCE = True


class Spec(BaseModel):
    """Options of turn_limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_turns: int | None = Field(default=None, ge=1, description="More are refused, as a failure of kind rejected.")
    remind_every: int | None = Field(default=None, ge=1, description="Turns between two reminders; default: none.")
    trigger: Literal["periodic", "threshold"] = Field(
        default="periodic", description="Remind at every so manieth turn, or at each one from there on."
    )
    position: Literal["system", "user"] = Field(default="system", description="The message that a reminder goes into.")
    reminder: str = Field(
        default="This is turn {turn}{of_max}.", description="May name {turn}, {max_turns}, {left} and {of_max}."
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.max_turns is None and self.remind_every is None:
            raise ValueError("needs `max_turns` or `remind_every`")
        try:
            _reminder(self, 1)
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"`reminder` may name {{turn}}, {{max_turns}}, {{left}}, {{of_max}}; not {error}"
            ) from None
        return self


def n_turns(request: Request) -> int:
    """User messages of a request."""
    return sum(message.get("role") == "user" for message in request.messages or ())


def request(spec: Spec, request: Request) -> Request:
    """The request with a reminder, where its turn calls for one."""
    turn = n_turns(request)
    if not spec.remind_every or not turn:
        return request
    is_due = turn % spec.remind_every == 0 if spec.trigger == "periodic" else turn >= spec.remind_every
    if not is_due:
        return request
    messages, text = list(request.messages or ()), _reminder(spec, turn)
    roles = [message.get("role") for message in messages]
    if spec.position == "system" and "system" not in roles:
        messages.insert(0, {"role": "system", "content": text})
    else:
        at = roles.index("system") if spec.position == "system" else len(roles) - 1 - roles[::-1].index("user")
        messages[at] = {**messages[at], "content": f"{messages[at]['content']}\n\n{text}"}
    return request.model_copy(update={"messages": tuple(messages)})


def _reminder(spec: Spec, turn: int) -> str:
    limit = spec.max_turns
    named = {"turn": turn, "max_turns": limit or "any number", "left": max(0, limit - turn) if limit else "any number"}
    return spec.reminder.format(**named, of_max=f" of {limit}" if limit else "")


@dataclass(slots=True)
class _TurnLimit(Interceptor):
    max_turns: int
    name: str = "turn_limit"

    def sending(self, attempt: Attempt) -> None:
        if (turns := n_turns(attempt.request)) > self.max_turns:
            message = f"not sent: it has {turns} turns of the user, and turn_limit allows {self.max_turns}"
            raise Refused(Failure(kind=FailureKind.REJECTED, message=message))


def attempt(spec: Spec, _context: Context) -> Interceptor | None:
    """Refuses what is too long."""
    return _TurnLimit(spec.max_turns) if spec.max_turns else None
