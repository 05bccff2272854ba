"""drop_params: parameters of a request that are not sent, for servers that refuse them.

Stage   request
Source  NeMo Evaluator 0.3, "drop_params"
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from eval_pipelines.records import Request


class Spec(BaseModel):
    """Options of drop_params."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    params: tuple[str, ...] = Field(min_length=1, description="Names as in `generation`: seed, stop, top_p …")


def request(spec: Spec, request: Request) -> Request:
    """The request without these parameters. Its text stays: only parameters can be dropped."""
    kept = {name: value for name, value in request.params.items() if name not in spec.params}
    return request if len(kept) == len(request.params) else request.model_copy(update={"params": kept})


def undoes(spec: Spec, name: str, earlier: Any) -> str | None:
    """A parameter that was added, only to be dropped."""
    added = set(earlier.params_to_add) if name == "payload" else set()
    if name == "modify_tools":
        added = {"tools"}
    lost = sorted(added & {*spec.params})
    return f"drops {', '.join(lost)}, which an earlier {name} adds or changes: leave one out" if lost else None
