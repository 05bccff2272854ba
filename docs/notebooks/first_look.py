"""A first look at a record: who leads, how sure that is, and what is missing. `marimo edit` opens it."""

import marimo

app = marimo.App(width="medium")


@app.cell
def _():
    from pathlib import Path

    import duckdb
    import marimo as mo

    return Path, duckdb, mo


@app.cell
def _(Path, mo):
    record = Path(mo.cli_args().get("record") or "data/scores.duckdb")
    return (record,)


@app.cell
def _(duckdb, mo, record):
    database = duckdb.connect(str(record), read_only=True)
    [(generation, published_at)] = database.execute("SELECT generation, published_at FROM meta").fetchall()
    mo.md(f"# The record\n\nGeneration {generation}, published {published_at:%Y-%m-%d %H:%M} UTC.")
    return (database,)


@app.cell
def _(database):
    leaders = database.execute(
        """
        SELECT benchmark, model_key, value, ci_low, ci_high, n, coverage, rank_worst
        FROM leaderboard WHERE rank = 1 ORDER BY benchmark
        """
    ).df()
    leaders
    return (leaders,)


@app.cell
def _(database, mo):
    missing = database.execute(
        "SELECT model_key, benchmark, status FROM grid WHERE status <> 'scored' AND is_wanted IS NOT false ORDER BY ALL"
    ).df()
    mo.vstack([mo.md(f"## {len(missing)} cells without a number"), missing])
    return (missing,)


@app.cell
def _(database, mo):
    failures = database.execute(
        "SELECT model_key, benchmark, n_failed, n_requests, coverage FROM coverage_and_failures WHERE n_failed > 0"
    ).df()
    mo.vstack([mo.md("## What was not answered"), failures])
    return (failures,)


if __name__ == "__main__":
    app.run()
