"""The switchboard: which adapters exist, and where their settings come from.

Loaded in every run process, so it imports no benchmark library and no server package.
"""

import os
import sys
from pathlib import Path

import dagster as dg

from assets.gates import gate_asset
from assets.judgements import judgements_asset
from assets.marts import marts_assets
from assets.reports import reports_asset
from assets.responses import responses_asset
from assets.samples import samples_asset
from assets.scores import scores_asset
from dbt_like_sql import load as load_sql
from eval_pipelines.config import Config
from resources.benchmarks import BenchmarksResource
from resources.checkpoints import CheckpointsResource
from resources.config import read_config
from resources.endpoints import EndpointsResource
from resources.warehouse import WarehouseResource
from sensors.benchmark_versions import benchmark_versions_sensor
from sensors.checkpoints import checkpoint_sensor
from sensors.configured import configured_sensor
from sensors.gates import gates_sensor
from sensors.leases import leases_sensor
from sensors.models import declared_models_sensor
from sensors.publish import publish_sensor
from sensors.reports import reports_sensor
from sensors.retries import retry_sensor
from sensors.store import store_sensor

CONFIG_VARIABLE = "EVALS_CONFIG"


def config_path() -> Path:
    """The operator's file: EVALS_CONFIG, else evals.yaml in the working directory."""
    return Path(os.environ.get(CONFIG_VARIABLE, "evals.yaml")).absolute()


def build(path: Path) -> dg.Definitions:
    """Definitions for one operator's file. Raises ConfigError."""
    config = read_config(path)
    return dg.Definitions(
        assets=assets_of(config),
        resources=resources_of(path),
        sensors=[
            checkpoint_sensor,
            retry_sensor,
            declared_models_sensor,
            benchmark_versions_sensor,
            configured_sensor,
            store_sensor,
            publish_sensor,
            reports_sensor,
            leases_sensor,
            # a sensor needs something to request
            *([gates_sensor] if config.gates else []),
        ],
        # one run is one process: its cells share one server and one budget
        executor=dg.in_process_executor,
    )


def assets_of(config: Config) -> list[dg.AssetsDefinition]:
    """Three assets for each benchmark, a fourth where answers are judged, the tables over all, reports of them, the gates."""
    cells = [
        make(name, spec)
        for name, spec in config.benchmarks.items()
        for make in (samples_asset, responses_asset, scores_asset)
    ]
    cells += [judgements_asset(name, spec, spec.judge) for name, spec in config.benchmarks.items() if spec.judge]
    sql = load_sql()
    tables = [model.name for model in sql.models if model.layer == "marts"]
    gates = [gate_asset(name, gate) for name, gate in config.gates.items()]
    return [*cells, marts_assets(sql, list(config.benchmarks)), reports_asset(tables), *gates]


def resources_of(path: Path) -> dict[str, dg.ConfigurableResource[None]]:
    """Every resource reads the same file."""
    where = str(path)
    return {
        "endpoints": EndpointsResource(config_path=where),
        "benchmarks": BenchmarksResource(config_path=where),
        "warehouse": WarehouseResource(config_path=where),
        "checkpoints": CheckpointsResource(config_path=where),
    }


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads. A function, so that importing this module reads no file."""
    # the process of a run has opened Dagster's record by now; one that only wants names should not import for it
    if "sqlalchemy" in sys.modules and (home := os.environ.get("DAGSTER_HOME")):
        from eval_pipelines.dagster_record import spare_the_disk

        spare_the_disk(home)
    return build(config_path())
