"""What a model said: to which question, what was made of it, and why there is no answer where there is none."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from eval_pipelines.analysis import names
from eval_pipelines.errors import ConfigError, UnknownNameError, WarehouseError
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
Only = Literal["right", "wrong", "ungraded"]
# whether higher is better → condition
_CONDITIONS: Final[dict[Only, dict[bool, str]]] = {
    "right": {True: "scores.value >= 1", False: "scores.value <= 0"},
    "wrong": {True: "scores.value < 1", False: "scores.value > 0"},
    "ungraded": dict.fromkeys((True, False), "scores.value IS NULL"),
}
_GRADED: Final = ("evaluation_id", "run_id", "score_version", "metric", "filter")
# the newest answer to each part and repeat: what was asked for this version of the benchmark before any other
_NEWEST: Final = """
    FROM responses
    WHERE model_key = $model AND benchmark = $benchmark AND fingerprint = $fingerprint
        AND list_contains($samples, sample_id)
    QUALIFY row_number() OVER (
        PARTITION BY sample_id, part, repeat ORDER BY ask_version = $ask_version DESC, asked_at DESC
    ) = 1
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question to one model, with everything that is known of it.

    Attributes:
        verdicts: metric, filter, value, extracted, ungraded_reason, note; one row per metric and filter.
        replies: part, repeat, text, reasoning, logprob, failure_kind, …; one row per request.
    """

    model_key: str
    benchmark: str
    sample: Row
    verdicts: list[Row]
    replies: list[Row]


def listed(
    connection: "duckdb.DuckDBPyConnection", model: str, benchmark: str, *, only: Only | None = None, limit: int = 1_000
) -> list[Row]:
    """The verdicts of the headline metric with question, target and answer, in the benchmark's order.

    Args:
        only: `right` is the best verdict there is: 1, or 0 where lower is better. `wrong`: any other.

    Raises:
        UnknownNameError: a model or benchmark that the record does not know.
        WarehouseError: the model has no number on that benchmark.
        ConfigError: `right` or `wrong` was wanted of verdicts that are neither.
    """
    cell = _cell(connection, model, benchmark)
    if only in ("right", "wrong"):
        _check_shares(connection, cell, model, benchmark)
    condition = f"AND {_CONDITIONS[only][cell['higher_is_better']]}" if only else ""
    rows = fetch(
        connection,
        f"""
        SELECT scores.sample_id, scores.subtask, scores.value, samples.question, samples.target, scores.extracted,
            scores.ungraded_reason, scores.note
        FROM stg_scores AS scores
        LEFT JOIN stg_samples AS samples USING (benchmark, ask_version, sample_id)
        WHERE evaluation_id = ? AND run_id = ? AND score_version = ? AND metric = ? AND filter = ? {condition}
        ORDER BY scores.subtask, len(scores.sample_id), scores.sample_id
        LIMIT ?
        """,
        [*(cell[name] for name in _GRADED), limit],
    )
    answers = answers_in_words(connection, model, benchmark, [row["sample_id"] for row in rows])
    return [{**row, "answer": answers.get(row["sample_id"])} for row in rows]


def one(connection: "duckdb.DuckDBPyConnection", model: str, benchmark: str, question: str) -> Answer:
    """One question: by its sample id, or by words that stand in exactly one question.

    Raises:
        UnknownNameError: a model, benchmark or question that the record does not know.
        WarehouseError: the model has no number on that benchmark.
    """
    cell = _cell(connection, model, benchmark)
    samples = fetch(
        connection,
        "SELECT sample_id, subtask, question, target, choices FROM stg_samples WHERE benchmark = ? AND ask_version = ?",
        [benchmark, cell["ask_version"]],
    )
    sample = _chosen(samples, question)
    verdicts = fetch(
        connection,
        "SELECT metric, filter, value, extracted, ungraded_reason, note FROM stg_scores "
        "WHERE evaluation_id = ? AND run_id = ? AND score_version = ? AND sample_id = ? ORDER BY metric, filter",
        [*(cell[name] for name in ("evaluation_id", "run_id", "score_version")), sample["sample_id"]],
    )
    replies = fetch(
        connection,
        "SELECT part, repeat, operation, text, reasoning, logprob, is_greedy, failure_kind, failure_message, "
        "http_status, finish_reason, n_attempts, latency_s, prompt_tokens, completion_tokens, asked_at "
        f"{_NEWEST} ORDER BY repeat, part",
        _parameters(cell, model, benchmark, [sample["sample_id"]]),
    )
    return Answer(model, benchmark, sample, verdicts, replies)


def answers_in_words(
    connection: "duckdb.DuckDBPyConnection", model: str, benchmark: str, sample_ids: Sequence[str]
) -> dict[str, str]:
    """Sample id → what the model answered: its text, the choice it held likeliest, or why there is none."""
    if not sample_ids:
        return {}
    cell = _cell(connection, model, benchmark)
    rows = fetch(
        connection,
        f"SELECT sample_id, part, repeat, text, logprob, failure_kind, failure_message {_NEWEST} ORDER BY repeat, part",
        _parameters(cell, model, benchmark, sample_ids),
    )
    choices = {
        row["sample_id"]: row["choices"]
        for row in fetch(
            connection,
            "SELECT sample_id, choices FROM stg_samples WHERE benchmark = ? AND ask_version = ? "
            "AND list_contains(?, sample_id)",
            [benchmark, cell["ask_version"], list(sample_ids)],
        )
    }
    replies: dict[str, list[Row]] = {}
    for row in rows:
        replies.setdefault(row["sample_id"], []).append(row)
    return {name: _in_words(found, choices.get(name) or []) for name, found in replies.items()}


def _in_words(replies: list[Row], choices: list[str]) -> str:
    texts = [row["text"] for row in replies if row["text"] is not None]
    if texts:
        return texts[0] if len(texts) == 1 else "\n".join(f"[{i}] {text}" for i, text in enumerate(texts, start=1))
    likely = max((row for row in replies if row["logprob"] is not None), key=lambda row: row["logprob"], default=None)
    if likely is not None:
        part = likely["part"]
        name = choices[part] if part < len(choices) else f"choice {part}"
        return f"{name} (likeliest: log-probability {likely['logprob']:.2f})"
    return "; ".join(dict.fromkeys(f"no answer: {row['failure_kind']}: {row['failure_message']}" for row in replies))


def _cell(connection: "duckdb.DuckDBPyConnection", model: str, benchmark: str) -> Row:
    """The published cell: which evaluation, try and grading its number rests on."""
    names.check("model in this record", model, names.models(connection))
    names.check("benchmark in this record", benchmark, names.benchmarks(connection))
    rows = fetch(
        connection,
        "SELECT evaluation_id, run_id, score_version, metric, filter, higher_is_better, ask_version, "
        "fingerprint FROM leaderboard WHERE model_key = ? AND benchmark = ?",
        [model, benchmark],
    )
    if not rows:
        status = fetch(connection, "SELECT status FROM grid WHERE model_key = ? AND benchmark = ?", [model, benchmark])
        raise WarehouseError(
            f"{model} has no number on {benchmark}: {status[0]['status'] if status else 'missing'}. Evaluate it: "
            f"eval-pipelines evaluate --model {model} --benchmark {benchmark}"
        )
    return rows[0]


def _check_shares(connection: "duckdb.DuckDBPyConnection", cell: Row, model: str, benchmark: str) -> None:
    """Whether verdicts are right, wrong or a share of right. Raises ConfigError, saying what to use instead."""
    [ends] = fetch(
        connection,
        "SELECT min(value) AS low, max(value) AS high FROM stg_scores WHERE evaluation_id = ? AND run_id = ? "
        "AND score_version = ? AND metric = ? AND filter = ?",
        [cell[name] for name in _GRADED],
    )
    if ends["low"] is not None and not 0 <= ends["low"] <= ends["high"] <= 1:
        raise ConfigError(
            f"{cell['metric']} on {benchmark} gives each answer a number ({ends['low']:.4g} to {ends['high']:.4g}), "
            f"which is neither right nor wrong. List them by that number: eval-pipelines export "
            f"\"SELECT sample_id, value, answer FROM answers('{model}', '{benchmark}') ORDER BY value\" --format csv"
        )


def _parameters(cell: Row, model: str, benchmark: str, sample_ids: Sequence[str]) -> Row:
    return {
        "model": model, "benchmark": benchmark, "fingerprint": cell["fingerprint"], "ask_version": cell["ask_version"],
        "samples": list(sample_ids),
    }  # fmt: skip


def _chosen(samples: list[Row], question: str) -> Row:
    by_id = {sample["sample_id"]: sample for sample in samples}
    if question in by_id:
        return by_id[question]
    # a bare index is the sample's name within its subtask
    matching = [one for name, one in by_id.items() if name.rsplit("/", 1)[-1] == question]
    matching = matching or [one for one in samples if question.lower() in one["question"].lower()]
    if len(matching) == 1:
        return matching[0]
    known = (
        [one["sample_id"] for one in matching] or difflib.get_close_matches(question, by_id, n=12, cutoff=0) or [*by_id]
    )
    raise UnknownNameError("question" if not matching else "single question", question, known=known)
