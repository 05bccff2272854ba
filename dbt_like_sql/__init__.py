"""The tables: one SELECT per file in staging/, marts/ and macros/, and tests that return what violates them.

A model's header says its grain, rule, columns and reader; its dependencies are read from the SQL itself. To add a
table, add a file: nothing is registered. Each grain is tested too, so the header cannot drift from the data.
A macro is a SELECT with parameters, kept in the published file; its header says what it takes.

    project = load()                 # headers and dependencies only; cheap
    build(project, connection)       # in dependency order, on a DuckDB connection that holds the SOURCES
    results = run_tests(project, connection)
"""

from dbt_like_sql.loader import load
from dbt_like_sql.model import FOLDER, SOURCES, SqlMacro, SqlModel, SqlProject, SqlTest, column_notes
from dbt_like_sql.runner import SqlTestResult, build, run_tests

__all__ = [
    "FOLDER",
    "SOURCES",
    "SqlMacro",
    "SqlModel",
    "SqlProject",
    "SqlTest",
    "SqlTestResult",
    "build",
    "column_notes",
    "load",
    "run_tests",
]
