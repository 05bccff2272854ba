"""modify_tools: properties taken out of, or put into, the schemas of the tools that a request offers.

Stage   request
Source  NeMo Evaluator 0.3, "modify_tools"; OpenAI API reference, "Create chat completion" (tools)
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from eval_pipelines.records import Request


class Spec(BaseModel):
    """Options of modify_tools."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strip_properties: tuple[str, ...] = Field(
        default=(), description="Names of properties that no schema may have, at any depth."
    )
    add_properties: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Name of a property → its JSON schema, added to each tool."
    )
    tools: tuple[str, ...] = Field(default=(), description="Names of the tools that are meant; default: all.")

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.strip_properties and not self.add_properties:
            raise ValueError("needs `strip_properties` or `add_properties`")
        if both := sorted({*self.strip_properties} & {*self.add_properties}):
            raise ValueError(f"strips and adds the same properties: {', '.join(both)}")
        return self


def request(spec: Spec, request: Request) -> Request:
    """The request with other tools; without tools it stays as it is."""
    tools = request.params.get("tools")
    if not isinstance(tools, list):
        return request
    return request.model_copy(update={"params": {**request.params, "tools": [_tool(spec, tool) for tool in tools]}})


def _tool(spec: Spec, tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or (spec.tools and function.get("name") not in spec.tools):
        return tool
    schema = _stripped(function.get("parameters") or {"type": "object", "properties": {}}, {*spec.strip_properties})
    if spec.add_properties:
        schema = {**schema, "properties": {**schema.get("properties", {}), **spec.add_properties}}
    return {**tool, "function": {**function, "parameters": schema}}


def _stripped(schema: Any, names: set[str]) -> Any:
    """The schema without these properties, nor the wish that they be there."""
    if isinstance(schema, list):
        return [_stripped(one, names) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties" and isinstance(value, dict):
            found[key] = {name: _stripped(one, names) for name, one in value.items() if name not in names}
        elif key == "required" and isinstance(value, list):
            found[key] = [name for name in value if name not in names]
        else:
            found[key] = _stripped(value, names)
    return found


def undoes(spec: Spec, name: str, earlier: Any) -> str | None:
    """A property that was added, only to be stripped."""
    lost = sorted({*spec.strip_properties} & {*earlier.add_properties}) if name == "modify_tools" else []
    return f"strips {', '.join(lost)}, which an earlier modify_tools adds: leave one out" if lost else None
