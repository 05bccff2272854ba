"""The JSON schema of `evals.yaml`, for editors."""

from typing import Any

from pydantic import BaseModel

from eval_pipelines import plugins
from eval_pipelines.config.deployments import DeploymentFields, Machine
from eval_pipelines.config.gates import Gate
from eval_pipelines.config.interceptors import schema_of_interceptors
from eval_pipelines.config.prices import Prices
from eval_pipelines.config.specs import BenchmarkSpec, ModelEntry, WatchedRoot
from eval_pipelines.config.store import schema_of_stores


def config_schema() -> dict[str, Any]:
    """JSON schema of `evals.yaml`, with the typed options of every backend, for editors."""
    shared: dict[str, Any] = {}
    interceptors = schema_of_interceptors(shared)

    def schema(model: type[BaseModel]) -> dict[str, Any]:
        found = model.model_json_schema()
        shared.update(found.pop("$defs", {}))
        if "interceptors" in found.get("properties", {}):
            found["properties"]["interceptors"] = interceptors
        return found

    def named(entry: dict[str, Any]) -> dict[str, Any]:
        return {"type": ["object", "null"], "additionalProperties": entry}

    common = schema(DeploymentFields)
    backends = {
        name: schema(plugins.load("serving.backends", name, kind="backend").Spec)
        for name in plugins.names("serving.backends")
    }
    deployments = [
        own
        | {"title": name, "required": sorted({*common["required"], *own.get("required", [])})}
        | {"properties": {**own.get("properties", {}), **common["properties"], "backend": {"const": name}}}
        for name, own in backends.items()
    ]
    properties = {
        "data_root": {"type": "string", "default": "data", "description": "The folder of the record."},
        "store": schema_of_stores(),
        "machine": {"anyOf": [schema(Machine), {"type": "null"}]},
        "prices": {"anyOf": [schema(Prices), {"type": "null"}]},
        "deployments": named({"oneOf": deployments}),
        "models": named(schema(ModelEntry)),
        "watched": {"type": ["array", "null"], "items": schema(WatchedRoot)},
        "benchmarks": named(schema(BenchmarkSpec)),
        "gates": named(schema(Gate)),
        "suites": named({"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}),
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "evals.yaml", "type": "object"}
    return head | {"additionalProperties": False, "properties": properties, "$defs": shared}
