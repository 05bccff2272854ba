"""The names a record knows. Whoever asks for another is told the nearest."""

from typing import TYPE_CHECKING

from eval_pipelines.errors import UnknownNameError
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb


def models(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """Every model that was ever asked, sorted."""
    return _column(connection, "SELECT DISTINCT model_key AS name FROM evaluations WHERE judged_model IS NULL")


def benchmarks(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """Every benchmark that was ever asked, sorted."""
    return _column(connection, "SELECT DISTINCT benchmark AS name FROM evaluations WHERE judged_model IS NULL")


def families(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """Every family of which a model was ever asked, sorted."""
    return _column(connection, "SELECT DISTINCT family AS name FROM evaluations WHERE judged_model IS NULL")


def check(kind: str, name: str, known: list[str], *, add: str = "") -> str:
    """The name, if it is known. Raises UnknownNameError with the near miss, and with what would add it."""
    if name not in known:
        raise UnknownNameError(kind, name, known=known, add=add)
    return name


def _column(connection: "duckdb.DuckDBPyConnection", sql: str) -> list[str]:
    return sorted(row["name"] for row in fetch(connection, sql))
