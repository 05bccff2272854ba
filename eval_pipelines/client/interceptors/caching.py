"""caching: which landed answers of the same model version may be used again.

Without it all of them are: each question is asked once per model version. Nothing is stored for it: the answers are
those of the record. What a run that was killed or stopped had been answered is used again in any case, until the
evaluation is complete.

Stage   reuses
Source  NeMo Evaluator, "Caching Interceptor" (there a store of its own, and no reuse by default)
"""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from eval_pipelines.records import Request

ONCE = True


class Spec(BaseModel):
    """Options of caching."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    reuse: Literal["always", "never", "only_greedy"] = Field(
        default="always", description="only_greedy: answers that were not drawn by chance."
    )
    max_age_days: float | None = Field(default=None, gt=0, le=36_500, description="Older answers are asked again.")


def reuses(spec: Spec, request: Request, asked_at: datetime, now: datetime) -> bool:
    """Whether this answer may be used again."""
    if spec.reuse == "never" or (spec.reuse == "only_greedy" and not _is_greedy(request)):
        return False
    return spec.max_age_days is None or now - asked_at <= timedelta(days=spec.max_age_days)


def _is_greedy(request: Request) -> bool:
    # servers draw unless they are told not to
    return request.is_likelihood or request.params.get("temperature") == 0 or request.params.get("top_k") == 1
