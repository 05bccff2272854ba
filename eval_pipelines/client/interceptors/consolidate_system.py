"""consolidate_system: one system message in place of several, at the start.

For servers whose chat template takes one only, and only there.

Stage   request
Source  NeMo Evaluator 0.3, "consolidate_system"
"""

from pydantic import BaseModel, ConfigDict, Field

from eval_pipelines.records import Request

ONCE = True


class Spec(BaseModel):
    """Options of consolidate_system."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    separator: str = Field(default="\n\n", description="Between the texts of two system messages.")


def request(spec: Spec, request: Request) -> Request:
    """The request with its system messages as one, first. A plain prompt, or one without any, stays as it is."""
    messages = request.messages or ()
    texts = [message["content"] for message in messages if message["role"] == "system"]
    if not texts:
        return request
    first = {"role": "system", "content": spec.separator.join(texts)}
    rest = (message for message in messages if message["role"] != "system")
    return request.model_copy(update={"messages": (first, *rest)})
