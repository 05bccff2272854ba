"""Where Dagster keeps its own records: beside ours, unless DAGSTER_HOME says otherwise."""

import errno
import os
from pathlib import Path

from eval_pipelines.config import Config
from eval_pipelines.errors import ConfigError

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
    """Make this process, and those it starts, use one Dagster home and one operator's file.

    Raises:
        ConfigError: the home cannot be written.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or config.data_root / "dagster").absolute()
    settings = home / "dagster.yaml"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not settings.exists():
            settings.write_text(_SETTINGS)
        if not os.access(home, os.W_OK):
            raise OSError(errno.EROFS, "it is read-only", str(home))
    except OSError as error:
        raise ConfigError(
            f"Dagster's home cannot be written: {error.filename or settings}: {error.strerror or error}. Make it "
            f"writable, or choose another with `data_root` in {config.path} or the variable DAGSTER_HOME."
        ) from None
    os.environ["DAGSTER_HOME"] = str(home)  # Dagster refuses a relative one
    os.environ["EVALS_CONFIG"] = str(config.path)
    return home
