"""How far an asking is: a line in the Dagster log now and then, and a bar on a terminal."""

import time
from typing import TYPE_CHECKING, Self

import dagster as dg

if TYPE_CHECKING:
    from eval_pipelines.client.report import AskReport

_LOG_EVERY_S = 10.0


class AskingProgress:
    """A line in the Dagster log now and then, and a bar on a terminal."""

    def __init__(self, context: dg.AssetExecutionContext, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._log, self._title, self._said_at = context.log, title, time.monotonic()
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task(title, total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, report: "AskReport") -> None:
        self._bar.update(self._task, total=report.n_requests, completed=report.n_done)
        if time.monotonic() - self._said_at >= _LOG_EVERY_S:
            self._said_at = time.monotonic()
            failed = f", {report.n_failed} failed" if report.n_failed else ""
            self._log.info(f"{self._title}: {report.n_done} of {report.n_requests} asked{failed}")
