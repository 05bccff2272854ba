"""Where Dagster keeps its own records: beside ours, unless DAGSTER_HOME says otherwise."""

import os
from pathlib import Path

from eval_pipelines.config import Config

_SETTINGS = """\
# Written once by eval-pipelines; yours to change.
telemetry: {enabled: false}
nux: {enabled: false}
concurrency:
  runs: {max_concurrent_runs: 2}
  pools: {granularity: run, default_limit: 1}
run_queue: {dequeue_interval_seconds: 1}
run_monitoring: {enabled: true, start_timeout_seconds: 180, cancel_timeout_seconds: 60, poll_interval_seconds: 10}
"""


def enter_home(config: Config) -> Path:
    """Make this process, and those it starts, use one Dagster home and one operator's file."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(config.data_root / "dagster"))).absolute()
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.write_text(_SETTINGS)
    os.environ["EVALS_CONFIG"] = str(config.path)
    return home
