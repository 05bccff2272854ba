"""From files to a checked project: headers, dependencies, order. Every complaint names file and line."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, get_args

from dbt_like_sql.header import header, one_of, text_of
from dbt_like_sql.kept import check_kept
from dbt_like_sql.model import (
    FOLDER,
    SOURCES,
    Layer,
    Materialized,
    Severity,
    SqlMacro,
    SqlModel,
    SqlProject,
    SqlTest,
)
from dbt_like_sql.ordering import check_mentions, in_order
from dbt_like_sql.parsed import mentions
from eval_pipelines.errors import SqlModelError

if TYPE_CHECKING:
    import duckdb

_REQUIRED: Final[Mapping[Layer, tuple[str, ...]]] = {
    "staging": ("Grain", "Reader"),
    "marts": ("Grain", "Rule", "Columns", "Reader"),
}
_FOLDERS: Final = (*get_args(Layer), "macros", "tests")
_REQUIRED_OF_A_MACRO: Final = ("Takes", "Columns", "Reader")
_SIGNATURE: Final = re.compile(r"([a-z][a-z0-9_]*)\((.*)\)")
_DEFAULT: Final[Mapping[Layer, Materialized]] = {"staging": "view", "marts": "table"}


def load(folder: Path = FOLDER) -> SqlProject:
    """Read every .sql file below `folder`: headers and dependencies only, nothing is run.

    Raises:
        SqlModelError: a header lacks a field, the SQL does not parse, a table is unknown, or models form a cycle.
    """
    files = [path for name in _FOLDERS for path in sorted((folder / name).glob("*.sql"))]
    return _load(folder, tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@lru_cache(maxsize=4)  # a process that asks and publishes needs it three times
def _load(folder: Path, _states: tuple[tuple[Path, int, int], ...]) -> SqlProject:
    # Here, because a code location that only wants names should not pay for the import twice per process start.
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    try:
        models: dict[str, SqlModel] = {}
        for layer in get_args(Layer):
            for path in sorted((folder / layer).glob("*.sql")):
                model = _load_model(connection, layer, path)
                if model.name in models or model.name in SOURCES:
                    other = models[model.name].path if model.name in models else "a landed table"
                    raise SqlModelError(path, 1, f"{model.name!r} is taken: {other} bears that name")
                models[model.name] = model
        macros = [_load_macro(connection, path) for path in sorted((folder / "macros").glob("*.sql"))]
        items = in_order(connection, list(models.values()), macros)
        for model in models.values():
            if model.kept_by:
                check_kept(model, models)
        tests = [_load_test(connection, path, items) for path in sorted((folder / "tests").glob("*.sql"))]
    finally:
        connection.close()
    project = SqlProject(folder, tuple(items), ())
    grains = [test for model in project.models if (test := _grain_test(model, project.upstream(model.name)))]
    return replace(project, tests=(*grains, *tests))


def _load_model(connection: "duckdb.DuckDBPyConnection", layer: Layer, path: Path) -> SqlModel:
    sql = text_of(path)
    summary, fields, settings = header(path, sql)
    for word in _REQUIRED[layer]:
        if word not in fields:
            raise SqlModelError(
                path, 1, f"the header lacks {word!r}: a {layer} model says {', '.join(_REQUIRED[layer])} before its SQL"
            )
    materialized = settings.get("materialized", (_DEFAULT[layer], 1))
    kept_by, line = settings.get("kept by", ("", 1))
    found = mentions(connection, path, sql)
    return SqlModel(
        name=path.stem,
        layer=layer,
        path=path,
        sql=sql,
        summary=summary,
        grain=fields["Grain"],
        rule=fields.get("Rule", ""),
        columns=fields.get("Columns", ""),
        reader=fields["Reader"],
        materialized=cast(Materialized, one_of(path, "materialized", materialized, get_args(Materialized))),
        references={**found.tables, **({kept_by: line} if kept_by else {})},
        calls=found.functions,
        grouped_by=tuple(part.strip() for part in settings.get("grouped by", ("", 1))[0].split(",") if part.strip()),
        sums_over=settings.get("sums over", ("", 1))[0],
        kept_by=kept_by,
    )


def _load_macro(connection: "duckdb.DuckDBPyConnection", path: Path) -> SqlMacro:
    sql = text_of(path)
    summary, fields, settings = header(path, sql)
    written, line = settings.get("macro", ("", 1))
    signature = _SIGNATURE.fullmatch(written)
    if not signature or signature.group(1) != path.stem:
        raise SqlModelError(
            path, line, f"the header lacks `-- macro: {path.stem}(<parameter>, <parameter> := <default>)`"
        )
    for word in _REQUIRED_OF_A_MACRO:
        if word not in fields:
            raise SqlModelError(
                path, 1, f"the header lacks {word!r}: a macro says {', '.join(_REQUIRED_OF_A_MACRO)} before its SQL"
            )
    found = mentions(connection, path, sql)
    return SqlMacro(
        name=path.stem,
        parameters=signature.group(2),
        path=path,
        sql=sql,
        summary=summary,
        takes=fields["Takes"],
        grain=fields.get("Grain", ""),
        rule=fields.get("Rule", ""),
        columns=fields["Columns"],
        reader=fields["Reader"],
        references=found.tables,
        calls=found.functions,
    )


def _load_test(connection: "duckdb.DuckDBPyConnection", path: Path, items: list[SqlModel | SqlMacro]) -> SqlTest:
    sql = text_of(path)
    meaning, _, settings = header(path, sql)
    if "test" not in settings:
        raise SqlModelError(path, 1, "the header lacks `-- test: <model>`: say which model this test checks")
    models = {item.name for item in items if isinstance(item, SqlModel)}
    model = one_of(path, "test", settings["test"], sorted(models | SOURCES))
    found = mentions(connection, path, sql)
    check_mentions(connection, path, found.tables, found.functions, items)
    severity = one_of(path, "severity", settings.get("severity", ("error", 1)), get_args(Severity))
    return SqlTest(path.stem, model, path, sql, meaning, cast(Severity, severity), tuple(found.tables))


def _grain_test(model: SqlModel, upstream: frozenset[str]) -> SqlTest | None:
    """The grain a header promises, as a test: `one row per (a, b)` must hold."""
    # A mart that is a view over the samples would compute all of itself, on every publication.
    is_large = model.layer == "marts" and model.materialized == "view" and bool({"responses", "scores"} & upstream)
    if not model.grain_columns or is_large:
        return None
    columns = ", ".join(model.grain_columns)
    sql = f"SELECT {columns}, count(*) AS n_rows FROM {model.name} GROUP BY {columns} HAVING count(*) > 1"
    meaning = f"{model.name} has more than one row for these {columns}."
    return SqlTest(f"{model.name}_has_its_grain", model.name, model.path, sql, meaning, "error", (model.name,))
