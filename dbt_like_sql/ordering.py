"""In which order models and macros can be built, and whether all they read exists."""

import difflib
import graphlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dbt_like_sql.model import SOURCES, SqlMacro, SqlModel
from eval_pipelines.errors import SqlModelError

if TYPE_CHECKING:
    import duckdb

Item = SqlModel | SqlMacro


def in_order(
    connection: "duckdb.DuckDBPyConnection", models: Sequence[SqlModel], macros: Sequence[SqlMacro]
) -> list[Item]:
    """Models and macros so that each comes after what it reads; each refers to what its macros read, too.

    A macro of a table's name is that table at another moment: whoever calls it reads the table.

    Raises:
        SqlModelError: a table or function is unknown, or they form a cycle.
    """
    items: list[Item] = [*models, *macros]
    for item in items:
        check_mentions(connection, item.path, item.references, item.calls, items)
    tables = {item.name for item in models}
    known = {_node(item): item for item in items}
    graph = {node: {other: line for other, line in _reads(item, tables).items() if other in known}
             for node, item in known.items()}  # fmt: skip
    try:
        order = list(graphlib.TopologicalSorter({node: sorted(reads) for node, reads in graph.items()}).static_order())
    except graphlib.CycleError as error:
        circle = list(reversed(error.args[1]))
        line = graph[circle[0]][circle[1]]
        raise SqlModelError(known[circle[0]].path, line, f"a cycle: {' reads '.join(circle)}") from None
    done: dict[str, Item] = {}
    for node in order:
        done[node] = _with_what_its_macros_read(known[node], done, tables)
    return list(done.values())


def check_mentions(
    connection: "duckdb.DuckDBPyConnection",
    path: Path,
    tables: Mapping[str, int],
    functions: Mapping[str, int],
    items: Sequence[Item],
) -> None:
    """Whether each table and table function exists. Raises SqlModelError on the line of one that does not."""
    for table, line in tables.items():
        _check_known(path, line, "table", table, {item.name for item in items if isinstance(item, SqlModel)} | SOURCES)
    macros = {item.name for item in items if isinstance(item, SqlMacro)}
    for function, line in functions.items():
        if function not in macros and not _is_built_in(connection, function):
            _check_known(path, line, "macro", function, macros)


def _check_known(path: Path, line: int, what: str, name: str, known: set[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise SqlModelError(path, line, f"no {what} is called {name!r}.{guess} Known: {', '.join(sorted(known))}.")


def _is_built_in(connection: "duckdb.DuckDBPyConnection", function: str) -> bool:
    found = "SELECT count(*) FROM duckdb_functions() WHERE function_name = ? AND function_type LIKE 'table%'"
    [(n,)] = connection.execute(found, [function]).fetchall()
    return bool(n)


def _node(item: Item) -> str:
    return item.name if isinstance(item, SqlModel) else f"{item.name}()"


def _reads(item: Item, tables: set[str]) -> dict[str, int]:
    return item.references | _tables_called(item, tables) | {f"{name}()": line for name, line in item.calls.items()}


def _tables_called(item: Item, tables: set[str]) -> dict[str, int]:
    return {name: line for name, line in item.calls.items() if name in tables and name != item.name}


def _with_what_its_macros_read(item: Item, done: Mapping[str, Item], tables: set[str]) -> Item:
    found = item.references | _tables_called(item, tables)
    for name, line in item.calls.items():
        macro = done.get(f"{name}()")
        for table in macro.references if macro and name not in found else ():
            found.setdefault(table, line)
    return replace(item, references=found)
