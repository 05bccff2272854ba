"""Two models on the same questions: the paired difference, and what changed. `marimo edit` opens it."""

import marimo

app = marimo.App(width="medium")


@app.cell
def _():
    from pathlib import Path

    import marimo as mo

    from eval_pipelines.analysis import comparison
    from eval_pipelines.warehouse.read import open_published

    return Path, comparison, mo, open_published


@app.cell
def _(Path, mo, open_published):
    record = Path(mo.cli_args().get("record") or "data/scores.duckdb")
    connection = open_published(record.parent)
    return connection, record


@app.cell
def _(connection, mo):
    models = [
        row[0] for row in connection.execute("SELECT model_key FROM leaderboard_overall ORDER BY rank").fetchall()
    ]
    choose_a = mo.ui.dropdown(models, value=models[-1], label="A")
    choose_b = mo.ui.dropdown(models, value=models[0], label="B")
    mo.hstack([choose_a, choose_b])
    return choose_a, choose_b


@app.cell
def _(choose_a, choose_b, comparison, connection):
    pairs = comparison.pairs(connection, choose_a.value, choose_b.value)
    [pair.row() for pair in pairs]
    return (pairs,)


@app.cell
def _(choose_a, choose_b, comparison, connection, mo, pairs):
    flips = [
        flip
        for pair in pairs
        for flip in comparison.flips(connection, choose_a.value, choose_b.value, pair.benchmark, limit=20)
    ]
    mo.ui.table(flips)
    return (flips,)


if __name__ == "__main__":
    app.run()
