"""`eval-pipelines answers`: what a model said, as a list or one question whole."""

import textwrap
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from eval_pipelines.cli.output import Output, note, output_options, terminal_width
from eval_pipelines.cli.scores import metric_in_words, open_record
from eval_pipelines.formats import Column, Row, one_line, printable

if TYPE_CHECKING:
    from eval_pipelines.analysis.answers import Answer


@click.command("answers")
@click.argument("model")
@click.argument("benchmark")
@click.argument("question", required=False)
@click.option("--only", type=click.Choice(["right", "wrong", "ungraded"]), help="Of the list: only these.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Of the list: how many.")
@output_options
@click.pass_obj
def answers(
    path: Path, model: str, benchmark: str, question: str | None, only: Any, limit: int, output: Output
) -> None:
    """What MODEL answered on BENCHMARK: a list, or everything about one QUESTION.

    QUESTION is a sample's id, its index, or words that stand in one question only.
    """
    from eval_pipelines.analysis import answers as found

    with closing(open_record(path)) as connection:
        if question is None:
            rows = found.listed(connection, model, benchmark, only=only, limit=limit)
            output.rows(rows, _LISTED)
            if output.is_for_people and len(rows) == limit:
                note(f"\nThe first {limit}: --limit shows more; `answers {model} {benchmark} QUESTION` one whole.")
            return
        one = found.one(connection, model, benchmark, question)
    if output.is_for_people:
        _print_answer(one)
    else:
        output.rows(
            [
                {
                    "model_key": model,
                    "benchmark": benchmark,
                    **one.sample,
                    "verdicts": one.verdicts,
                    "replies": one.replies,
                }
            ],
            _ONE,
        )


def _mark(row: Row) -> str:
    return "ungraded" if row["value"] is None else f"{row['value']:g}"


_LISTED: Final = [
    Column("question", lambda row: row["sample_id"], max_width=16),
    Column("verdict", _mark, is_number=True),
    Column("asked", lambda row: one_line(row["question"] or "", 70), rank=1),
    Column("target", lambda row: one_line(row["target"] or "", 60), max_width=14),
    Column("taken", lambda row: one_line(row["extracted"] or row["ungraded_reason"] or "", 60), max_width=16, rank=2),
    Column("answered", lambda row: one_line(row["answer"] or "", 240)),
]
_ONE: Final = [
    Column("question", lambda row: row["sample_id"]),
    Column("asked", lambda row: row["question"]),
    Column("target", lambda row: row["target"]),
    Column("verdicts", lambda row: ", ".join(f"{metric_in_words(one)} {_mark(one)}" for one in row["verdicts"])),
    Column(
        "answered",
        lambda row: "; ".join(one["text"] or one["failure_kind"] or f"{one['logprob']:.3f}" for one in row["replies"]),
    ),
]


def _print_answer(answer: "Answer") -> None:
    sample = answer.sample
    click.echo(f"{answer.model_key} on {answer.benchmark}, {sample['sample_id']}")
    _print_part("question", sample["question"])
    _print_part("target", sample["target"])
    for verdict in answer.verdicts:
        taken = "" if verdict["extracted"] is None else f"   taken: {one_line(verdict['extracted'], 200)}"
        reason = f"   {verdict['ungraded_reason']}" if verdict["ungraded_reason"] else ""
        note = f"   {verdict['note']}" if verdict["note"] else ""
        _print_part(f"verdict by {metric_in_words(verdict)}", f"{_mark(verdict)}{taken}{reason}{note}")
    likely = [reply for reply in answer.replies if reply["logprob"] is not None]
    if likely:
        best, choices = max(reply["logprob"] for reply in likely), sample["choices"] or []
        told = [
            f"{reply['logprob']:10.4f}  {_choice(choices, reply['part'])}{'  <- likeliest' * (reply['logprob'] == best)}"
            for reply in likely
        ]
        _print_part("log-probabilities", "\n".join(told))
    for reply in answer.replies:
        if reply["logprob"] is None:
            _print_reply(reply, many=len(answer.replies) > 1)


def _choice(choices: list[str], part: int) -> str:
    return one_line(choices[part], 60) if part < len(choices) else f"choice {part}"


def _print_reply(reply: Row, *, many: bool) -> None:
    number = f" {reply['repeat'] + 1}" if many else ""
    if reply["failure_kind"]:
        status = f" (HTTP {reply['http_status']})" if reply["http_status"] else ""
        _print_part(
            f"failure{number}",
            f"{reply['failure_kind']}{status} after {reply['n_attempts']} attempts: {reply['failure_message']}",
        )
        return
    if reply["reasoning"]:
        _print_part(f"reasoning{number}", reply["reasoning"])
    ended = f" (ended: {reply['finish_reason']})" if reply["finish_reason"] not in (None, "stop") else ""
    _print_part(f"answer{number}{ended}", reply["text"] or "")


def _print_part(head: str, text: str) -> None:
    click.echo(f"\n{head}")
    width = terminal_width()
    for line in printable(text).split("\n"):
        # whole in a pipe: what is broken cannot be searched
        for part in textwrap.wrap(line, max(width - 2, 40)) or [""] if width else [line]:
            click.echo(f"  {part}")
