"""Which verdicts the sensor asks for: each until it is recorded, none twice at once, whatever became of earlier runs."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import PARTITION_NAME_TAG, SENSOR_NAME_TAG

import sensors.gates
from assets.partitions import add_models
from eval_pipelines.config import Config, load_config
from eval_pipelines.definitions import resources_of
from eval_pipelines.home import enter_home
from eval_pipelines.warehouse.publish import publish
from tests.grid.gated import BAD, GOOD, land_verdicts, put
from tests.warehouse.builders import at

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FILE = """
data_root: data
deployments: {d: {backend: embedded}}
watched: [{path: checkpoints, deployment: d, suite: gsm8k}]
benchmarks: {gsm8k: {task: gsm8k}}
gates: {release: {benchmarks: {gsm8k: {max_drop: LIMIT}}}}
"""


class Ticking:
    """The sensor with its cursor and a clock; requests whose run key is known are dropped, as the daemon does."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.instance = folder / "evals.yaml", instance
        self.cursor: str | None = None
        self.now = at(60)
        self.known: set[str] = set()
        monkeypatch.setattr(sensors.gates, "utc_now", lambda: self.now)
        self.allow(0.1)

    @property
    def config(self) -> Config:
        return load_config(self.path)

    @property
    def models(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions("models"))

    def allow(self, drop: float) -> None:
        self.path.write_text(FILE.replace("LIMIT", str(drop)))

    def put(self, *checkpoints: tuple[str, list[float]]) -> None:
        for model, values in checkpoints:
            put(self.config, model, values)
        publish(self.config.data_root)
        add_models(self.instance, [model for model, _ in checkpoints])

    def judge(self, run_id: str) -> None:
        """The requested runs end well, and what they landed is published."""
        land_verdicts(self.config, self.models, run_id, self.now)
        publish(self.config.data_root)

    def told(self) -> dg.SensorResult | dg.SkipReason:
        resources: Any = {"warehouse": resources_of(self.path)["warehouse"]}
        with dg.build_sensor_context(instance=self.instance, resources=resources, cursor=self.cursor) as context:
            told: Any = sensors.gates.gates_sensor(context)
            self.cursor = context.cursor
        return told  # type: ignore[no-any-return]

    def tick(self, *, after: timedelta = timedelta(0)) -> list[str | None]:
        """The models whose verdicts are requested."""
        self.now += after
        requests = [one for one in getattr(self.told(), "run_requests", None) or [] if one.run_key not in self.known]
        self.known |= {one.run_key for one in requests if one.run_key}
        return [one.partition_key for one in requests]

    def skipped(self) -> str:
        return str(getattr(self.told(), "skip_message", None))

    def add_run(self, model: str, status: dg.DagsterRunStatus) -> None:
        """A run that this sensor requested, in `status`."""
        self.instance.add_run(
            dg.DagsterRun(
                job_name="__ASSET_JOB",
                status=status,
                asset_selection=frozenset({dg.AssetKey(["gates", "release"])}),
                tags={SENSOR_NAME_TAG: "gates", PARTITION_NAME_TAG: model},
            )
        )


@pytest.fixture
def ticking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticking]:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "data" / "dagster"))
    (tmp_path / "evals.yaml").write_text(FILE.replace("LIMIT", "0.1"))
    enter_home(load_config(tmp_path / "evals.yaml"))
    with dg.DagsterInstance.get() as instance:
        yield Ticking(tmp_path, instance, monkeypatch)


A_TICK = timedelta(seconds=30)
LATER = timedelta(minutes=11)


def test_it_looks_again_only_once_something_was_published(ticking: Ticking) -> None:
    ticking.put(("tiny@step-100", GOOD))
    ticking.judge("first")
    assert ticking.skipped() == "every verdict rests on the evidence there is"
    assert ticking.skipped().startswith("nothing was published since")
    put(ticking.config, "tiny@step-200", BAD)
    add_models(ticking.instance, ["tiny@step-100"])
    assert ticking.skipped().startswith("nothing was published since")
    ticking.put(("tiny@step-200", BAD))
    assert ticking.tick() == ["tiny@step-200"]
    assert ticking.skipped() == "1 verdicts are due; runs for them were requested"


def test_a_policy_that_is_taken_back_is_judged_again(ticking: Ticking) -> None:
    ticking.put(("tiny@step-100", GOOD), ("tiny@step-200", BAD))
    for n, limit in enumerate((0.1, 0.9, 0.1)):
        ticking.allow(limit)
        assert ticking.tick(after=A_TICK) == ["tiny@step-100", "tiny@step-200"]
        assert ticking.tick(after=A_TICK) == []
        ticking.judge(f"run-{n}")
        assert ticking.tick(after=A_TICK) == []


def test_a_verdict_whose_run_failed_is_requested_again_after_a_while(ticking: Ticking) -> None:
    ticking.put(("tiny@step-100", GOOD))
    assert ticking.tick() == ["tiny@step-100"]
    ticking.add_run("tiny@step-100", dg.DagsterRunStatus.FAILURE)
    assert ticking.tick(after=A_TICK) == []
    assert ticking.tick(after=LATER) == ["tiny@step-100"]


def test_a_run_that_takes_longer_than_that_is_not_requested_twice(ticking: Ticking) -> None:
    ticking.put(("tiny@step-100", GOOD), ("tiny@step-200", BAD))
    assert ticking.tick() == ["tiny@step-100", "tiny@step-200"]
    ticking.add_run("tiny@step-100", dg.DagsterRunStatus.STARTED)
    ticking.add_run("tiny@step-200", dg.DagsterRunStatus.CANCELED)
    assert ticking.tick(after=LATER) == ["tiny@step-200"]


def test_verdicts_that_never_come_hold_no_others_up(ticking: Ticking) -> None:
    models = [f"tiny@step-{100 + i}" for i in range(25)]
    ticking.put(*((model, GOOD) for model in models))
    assert ticking.tick() == models[:20]
    assert ticking.tick(after=A_TICK) == models[20:]
    for model in models[:20]:
        ticking.add_run(model, dg.DagsterRunStatus.FAILURE)
    assert ticking.tick(after=A_TICK) == []
    # those that failed come back, and after them the rest again
    assert ticking.tick(after=LATER) == models[:20]
    assert ticking.tick(after=A_TICK) == models[20:]
    ticking.judge("last")
    assert ticking.tick(after=A_TICK) == []
    assert "requested" not in json.loads(ticking.cursor or "")
