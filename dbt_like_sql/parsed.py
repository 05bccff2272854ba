"""What a SELECT reads, as DuckDB's own parser sees it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_pipelines.errors import SqlModelError

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Mentions:
    """Tables and table functions that a SELECT reads → line of the first mention. CTE names are not tables."""

    tables: dict[str, int]
    functions: dict[str, int]


def mentions(connection: "duckdb.DuckDBPyConnection", path: Path, sql: str) -> Mentions:
    """What the SQL reads, from its parse tree. Raises SqlModelError on the line of a syntax error."""
    [(answer,)] = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    parsed = json.loads(answer)
    if parsed["error"]:
        line = _line(sql, int(parsed["position"])) if parsed.get("position") else first_line(sql)
        raise SqlModelError(path, line, str(parsed["error_message"]))
    if len(parsed["statements"]) != 1:
        raise SqlModelError(path, first_line(sql), f"one SELECT per file, found {len(parsed['statements'])}")
    found = Mentions({}, {})
    for is_function, name, position in _sources(parsed["statements"][0]["node"], frozenset()):
        kind, line = found.functions if is_function else found.tables, _line(sql, position)
        kind[name] = min(line, kind.get(name, line))
    return found


def _sources(node: Any, hidden: frozenset[str]) -> Iterator[tuple[bool, str, int]]:
    """(is it a function, name, position) of the tables below a node; `hidden` are the CTE names in scope."""
    if isinstance(node, list):
        for item in node:
            yield from _sources(item, hidden)
    elif isinstance(node, dict):
        if node.get("type") == "BASE_TABLE":
            name = ".".join(part for part in (node["catalog_name"], node["schema_name"], node["table_name"]) if part)
            if name not in hidden:
                yield False, name, int(node["query_location"])
        if node.get("type") == "TABLE_FUNCTION":
            yield True, node["function"]["function_name"], int(node["query_location"])
        for entry in node.get("cte_map", {}).get("map", []):
            # A CTE sees the ones before it, not itself: `WITH metrics AS (SELECT … FROM metrics)` reads a table.
            value = entry["value"]
            body = value.get("query_node") or value["query"]["node"]  # 2.0, 1.5
            is_recursive = body.get("type") == "RECURSIVE_CTE_NODE"
            yield from _sources(body, hidden | {entry["key"]} if is_recursive else hidden)
            hidden |= {entry["key"]}
        for key, child in node.items():
            if key != "cte_map":
                yield from _sources(child, hidden)


def _line(sql: str, position: int) -> int:
    """Line of a byte offset, as DuckDB counts it."""
    return sql.encode()[:position].count(b"\n") + 1


def first_line(sql: str) -> int:
    """Line on which the SQL starts, after the header."""
    lines = sql.splitlines()
    return next((n for n, line in enumerate(lines, start=1) if line.strip() and not line.startswith("--")), 1)
