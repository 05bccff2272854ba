"""From files to a checked project: headers, dependencies, order. Every complaint names file and line."""

import difflib
import graphlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from dbt_like_sql.model import FOLDER, SOURCES, Layer, Materialized, Severity, SqlModel, SqlProject, SqlTest
from eval_pipelines.errors import SqlModelError

if TYPE_CHECKING:
    import duckdb

_FIELDS: Final = ("Grain", "Rule", "Columns", "Reader")
_REQUIRED: Final[Mapping[Layer, tuple[str, ...]]] = {"staging": ("Grain", "Reader"), "marts": _FIELDS}
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_GRAIN: Final = re.compile(r"one row per \(([a-z0-9_, ]+)\)")
_DEFAULT: Final[Mapping[Layer, Materialized]] = {"staging": "view", "marts": "table"}


def load(folder: Path = FOLDER) -> SqlProject:
    """Read every .sql file below `folder`: headers and dependencies only, nothing is run.

    Raises:
        SqlModelError: a header lacks a field, the SQL does not parse, a table is unknown, or models form a cycle.
    """
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
        _check_references(models)
        order = _order(models)
        tests = [_load_test(connection, path, set(models)) for path in sorted((folder / "tests").glob("*.sql"))]
    finally:
        connection.close()
    grains = [test for model in order if (test := _grain_test(model))]
    return SqlProject(folder, tuple(order), (*grains, *tests))


def _load_model(connection: "duckdb.DuckDBPyConnection", layer: Layer, path: Path) -> SqlModel:
    sql = _text(path)
    summary, fields, settings = _header(path, sql)
    for word in _REQUIRED[layer]:
        if word not in fields:
            raise SqlModelError(
                path, 1, f"the header lacks {word!r}: a {layer} model says {', '.join(_REQUIRED[layer])} before its SQL"
            )
    materialized = settings.get("materialized", (_DEFAULT[layer], 1))
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
        materialized=cast(Materialized, _one_of(path, "materialized", materialized, get_args(Materialized))),
        references=_references(connection, path, sql),
    )


def _load_test(connection: "duckdb.DuckDBPyConnection", path: Path, models: set[str]) -> SqlTest:
    sql = _text(path)
    meaning, _, settings = _header(path, sql)
    if "test" not in settings:
        raise SqlModelError(path, 1, "the header lacks `-- test: <model>`: say which model this test checks")
    model = _one_of(path, "test", settings["test"], sorted(models | SOURCES))
    for table, line in _references(connection, path, sql).items():
        _check_known(path, line, table, models)
    severity = _one_of(path, "severity", settings.get("severity", ("error", 1)), get_args(Severity))
    return SqlTest(path.stem, model, path, sql, meaning, cast(Severity, severity))


def _grain_test(model: SqlModel) -> SqlTest | None:
    """The grain a header promises, as a test: `one row per (a, b)` must hold."""
    found = _GRAIN.match(model.grain)
    # A view over the answers would read all of them, on every publication.
    if not found or (model.materialized == "view" and "responses" in model.references):
        return None
    columns = ", ".join(part.strip() for part in found.group(1).split(","))
    sql = f"SELECT {columns}, count(*) AS n_rows FROM {model.name} GROUP BY {columns} HAVING count(*) > 1"
    meaning = f"{model.name} has more than one row for these {columns}."
    return SqlTest(f"{model.name}_has_its_grain", model.name, model.path, sql, meaning, "error")


def _text(path: Path) -> str:
    if not _NAME.fullmatch(path.stem):
        raise SqlModelError(path, 1, f"{path.stem!r} is no table name: lower-case letters, digits and '_' only")
    return path.read_text(encoding="utf-8").rstrip().rstrip(";")


def _header(path: Path, sql: str) -> tuple[str, dict[str, str], dict[str, tuple[str, int]]]:
    """Summary, fields and settings (value, line) of the first comment block."""
    lines = []
    for line in sql.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line[2:].removeprefix(" ").rstrip())
    name, colon, summary = lines[0].partition(": ") if lines else ("", "", "")
    if not colon or name != path.stem:
        raise SqlModelError(path, 1, f"the first line must read `-- {path.stem}: <what it is, in one sentence>`")
    fields: dict[str, str] = {}
    settings: dict[str, tuple[str, int]] = {}
    word = ""
    for number, line in enumerate(lines[1:], start=2):
        setting = re.fullmatch(r"(materialized|test|severity):\s*(\S+)", line)
        field = re.match(rf"({'|'.join(_FIELDS)})\s+(\S.*)", line)
        if setting:
            settings[setting.group(1)] = (setting.group(2), number)
        elif field:
            word = field.group(1)
            fields[word] = field.group(2)
        elif word and line.startswith(" "):
            fields[word] += f" {line.strip()}"
        elif not fields and line:
            summary += f" {line.strip()}"
    return summary, fields, settings


def _one_of(path: Path, what: str, setting: tuple[str, int], allowed: tuple[str, ...] | list[str]) -> str:
    value, line = setting
    if value not in allowed:
        raise SqlModelError(path, line, f"`-- {what}: {value}` is not one of {', '.join(allowed)}")
    return value


def _references(connection: "duckdb.DuckDBPyConnection", path: Path, sql: str) -> dict[str, int]:
    """Tables the SQL reads → line of the first mention. CTE names are not tables."""
    [(answer,)] = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    parsed = json.loads(answer)
    if parsed["error"]:
        line = _line(sql, int(parsed["position"])) if parsed.get("position") else _first_line(sql)
        raise SqlModelError(path, line, str(parsed["error_message"]))
    if len(parsed["statements"]) != 1:
        raise SqlModelError(path, _first_line(sql), f"one SELECT per file, found {len(parsed['statements'])}")
    found: dict[str, int] = {}
    for table, position in _tables(parsed["statements"][0]["node"], frozenset()):
        line = _line(sql, position)
        found[table] = min(line, found.get(table, line))
    return found


def _tables(node: Any, hidden: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Base tables below a node of the parse tree, with their position; `hidden` are the CTE names in scope."""
    if isinstance(node, list):
        for item in node:
            yield from _tables(item, hidden)
    elif isinstance(node, dict):
        if node.get("type") == "BASE_TABLE":
            name = ".".join(part for part in (node["catalog_name"], node["schema_name"], node["table_name"]) if part)
            if name not in hidden:
                yield name, int(node["query_location"])
        for entry in node.get("cte_map", {}).get("map", []):
            # A CTE sees the ones before it, not itself: `WITH metrics AS (SELECT … FROM metrics)` reads a table.
            value = entry["value"]
            body = value.get("query_node") or value["query"]["node"]  # 2.0, 1.5
            is_recursive = body.get("type") == "RECURSIVE_CTE_NODE"
            yield from _tables(body, hidden | {entry["key"]} if is_recursive else hidden)
            hidden |= {entry["key"]}
        for key, child in node.items():
            if key != "cte_map":
                yield from _tables(child, hidden)


def _line(sql: str, position: int) -> int:
    """Line of a byte offset, as DuckDB counts it."""
    return sql.encode()[:position].count(b"\n") + 1


def _first_line(sql: str) -> int:
    """Line on which the SQL starts, after the header."""
    lines = sql.splitlines()
    return next((n for n, line in enumerate(lines, start=1) if line.strip() and not line.startswith("--")), 1)


def _check_references(models: Mapping[str, SqlModel]) -> None:
    for model in models.values():
        for table, line in model.references.items():
            _check_known(model.path, line, table, set(models))


def _check_known(path: Path, line: int, table: str, models: set[str]) -> None:
    known = sorted(models | SOURCES)
    if table not in known:
        near = difflib.get_close_matches(table, known, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise SqlModelError(path, line, f"no table is called {table!r}.{guess} Known: {', '.join(known)}.")


def _order(models: Mapping[str, SqlModel]) -> list[SqlModel]:
    graph = {name: sorted(set(model.references) & set(models)) for name, model in models.items()}
    try:
        return [models[name] for name in graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        circle = list(reversed(error.args[1]))
        first = models[circle[0]]
        raise SqlModelError(first.path, first.references[circle[1]], f"a cycle: {' reads '.join(circle)}") from None
