"""A checkpoint that evals.yaml configures and nobody ever asked is in the published grid."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query
from sensors.configured import configured_sensor
from sensors.publish import publish_sensor
from tests.grid.conftest import Project
from tests.grid.watched import Watched, drop

pytestmark = pytest.mark.slow

MISSING = "SELECT model_key, benchmark FROM grid WHERE status = 'missing' AND is_wanted ORDER BY 1, 2"


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Watched(tmp_path, instance)


def test_the_sensor_records_a_checkpoint_once_and_it_is_published(watched) -> None:
    drop(watched.root / "step-100")
    assert watched.skipped(configured_sensor) == "recorded 7 changes"
    assert isinstance(watched.tick(publish_sensor), dg.RunRequest)
    publish(watched.config.data_root)
    assert watched.skipped(configured_sensor) == "on record as it is"
    assert watched.skipped(publish_sensor) == "everything that landed is published"
    found = [tuple(row.values()) for row in query(watched.config.data_root, MISSING)]
    assert found == [("smol@step-100", "gsm8k"), ("smol@step-100", "hellaswag")]


def test_publishing_on_the_command_line_records_it_too(project: Project) -> None:
    drop(project.folder / "runs" / "step-100")
    project.content["deployments"]["own"] = {"backend": "command", "argv": ["serve", "{weights}", "{port}"]}
    project.content["watched"] = [{"path": "runs", "family": "smol", "deployment": "own", "suite": "both"}]
    done = project.write().run("publish")
    assert done.returncode == 0, done.stderr
    found = [tuple(row.values()) for row in query(project.data, MISSING)]
    assert found == [("smol@step-100", "gsm8k"), ("smol@step-100", "hellaswag")]
