"""What `store` of `evals.yaml` may hold: where a team of machines keeps its landing together."""

from typing import Any

from eval_pipelines import plugins
from eval_pipelines.config.source import Source
from eval_pipelines.config.specs import SpecRecord
from eval_pipelines.errors import UnknownNameError

_KINDS = "warehouse.stores"


class ConfiguredStore(SpecRecord):
    """A kind of store (a file in warehouse/stores/), and what that kind's `Spec` read beside it."""

    kind: str
    spec: Any


class _Head(SpecRecord):
    kind: str


def read_store(source: Source) -> ConfiguredStore | None:
    """The section as it stands in the file; None if there is none. What does not fit is reported to the source."""
    given = source.data.get("store")
    if given is None:
        return None
    head = source.read(
        _Head, ("store",), {"kind": given["kind"]} if isinstance(given, dict) and "kind" in given else {}
    )
    if head is None:
        return None
    try:
        module = plugins.load(_KINDS, head.kind, kind="store")
    except UnknownNameError as error:
        source.report(("store", "kind"), str(error))
        return None
    spec = source.read(module.Spec, ("store",), {name: given[name] for name in given if name != "kind"}, also=("kind",))
    return ConfiguredStore(kind=head.kind, spec=spec) if spec is not None else None


def schema_of_stores() -> dict[str, Any]:
    """JSON schema of the section: one object for each kind."""
    kinds = []
    for name in plugins.names(_KINDS):
        own = plugins.load(_KINDS, name, kind="store").Spec.model_json_schema()
        properties = {"kind": {"const": name}, **own.get("properties", {})}
        kinds.append(own | {"title": name, "properties": properties, "required": ["kind", *own.get("required", [])]})
    return {"oneOf": [*kinds, {"type": "null"}]}
