"""client_errors: refusals that no later request would escape end the asking at once.

What was answered is landed, and the run fails with the server's own words.

Stage   attempt
Source  NeMo Evaluator, "Raise Client Errors Interceptor"
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from eval_pipelines.client.interception import Attempt, Context, Interceptor, StopAsking
from eval_pipelines.records import FailureKind

ONCE = True


class Spec(BaseModel):
    """Options of client_errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    statuses: tuple[int, ...] | None = Field(
        default=None, min_length=1, description="HTTP statuses that end the asking; default: from 400 to 499."
    )
    exclude: tuple[int, ...] = Field(default=(408, 429), description="Statuses that do not: they may pass.")
    exclude_kinds: tuple[FailureKind, ...] = Field(
        default=(), description="Failures that do not, such as context_length: they say something of one request only."
    )


@dataclass(slots=True)
class _ClientErrors(Interceptor):
    spec: Spec
    name: str = "client_errors"

    def received(self, attempt: Attempt) -> None:
        failed = attempt.failure
        if failed is None or failed.http_status is None or failed.kind in self.spec.exclude_kinds:
            return
        status, listed = failed.http_status, self.spec.statuses
        is_meant = 400 <= status <= 499 if listed is None else status in listed
        if is_meant and status not in self.spec.exclude:
            raise StopAsking(
                f"the server answered {attempt.request.sample_id} with HTTP {status}: {failed.message!r}. client_errors "
                f"ends the asking there; `exclude: [{status}]` would let it go on."
            )


def attempt(spec: Spec, _context: Context) -> Interceptor:
    """Watches for them."""
    return _ClientErrors(spec)
