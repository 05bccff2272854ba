"""The sensors on real folders: what they request, what they wait for, and what they say."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

import resources.checkpoints
from eval_pipelines.checkpoints import Scan
from eval_pipelines.errors import ConfigError, UnknownNameError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import resolve
from eval_pipelines.records import Evaluation, utc_now
from eval_pipelines.serving.guard import MARK
from eval_pipelines.serving.room import Room
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import publish
from sensors import checkpoints as checkpoint_room
from sensors import publish as publish_room
from sensors.leases import leases_sensor
from sensors.models import declared_models_sensor
from sensors.publish import publish_sensor
from tests.grid.watched import Watched, drop, gguf, make_old, safetensors

pytestmark = pytest.mark.slow


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Watched(tmp_path, instance)


# checkpoints


def test_a_finished_checkpoint_becomes_a_partition(watched) -> None:
    drop(watched.root / "step-100")
    (watched.root / "step-200.gguf").write_bytes(gguf())
    watched.tick()
    assert set(watched.instance.get_dynamic_partitions("models")) == {"smol@step-100", "smol@step-200"}


def test_exactly_the_cells_of_its_suite_are_requested(watched) -> None:
    drop(watched.root / "step-100")
    (request,) = watched.requested()
    assert (request.partition_key, {key.to_user_string() for key in request.asset_selection}) == (
        "smol@step-100",
        {"responses/gsm8k", "scores/gsm8k", "responses/hellaswag", "scores/hellaswag"},
    )


def test_the_run_key_carries_the_fingerprint(watched) -> None:
    drop(watched.root / "step-100")
    (request,) = watched.requested()
    assert resolve(watched.config, ModelKey("smol", "step-100")).fingerprint in request.run_key


def test_one_that_was_requested_is_not_requested_again(watched) -> None:
    drop(watched.root / "step-100")
    watched.tick()
    assert watched.skipped() == "1 finished, none new or changed"


def test_the_cursor_says_what_was_requested_and_is_read_back(watched) -> None:
    drop(watched.root / "step-100")
    (request,) = watched.requested()
    assert json.loads(watched.cursor) == {"smol@step-100": request.tags["eval_pipelines/fingerprint"]}


def test_a_half_written_one_is_named_with_the_reason(watched) -> None:
    (drop(watched.root / "step-100") / "model.safetensors").write_bytes(safetensors()[:-10])
    said = watched.skipped()
    assert said.startswith("0 finished, none new or changed; 1 still being written: step-100 (model.safetensors")


def test_a_half_written_one_does_not_hold_up_a_finished_one(watched) -> None:
    (drop(watched.root / "step-100") / "model.safetensors").write_bytes(safetensors()[:-10])
    drop(watched.root / "step-200")
    assert [request.partition_key for request in watched.requested()] == ["smol@step-200"]


def test_an_overwritten_one_is_requested_again_under_another_run_key(watched) -> None:
    drop(watched.root / "step-100")
    (first,) = watched.requested()
    drop(watched.root / "step-100", fill=b"\2")
    (second,) = watched.requested()
    assert (second.partition_key, second.run_key == first.run_key) == (first.partition_key, False)


def test_a_deleted_one_breaks_nothing_and_keeps_its_partition(watched) -> None:
    folder = drop(watched.root / "step-100")
    watched.tick()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert watched.skipped() == "0 finished, none new or changed"
    assert watched.instance.get_dynamic_partitions("models") == ["smol@step-100"]


def test_an_unusable_name_is_reported_with_one_that_would_do(watched) -> None:
    drop(watched.root / "step 100!")
    assert "'step 100!' is no usable revision: rename it to 'step-100'" in watched.skipped()


def test_at_most_so_many_are_requested_in_one_tick_and_the_rest_in_the_next(watched, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint_room, "MAX_PER_TICK", 2)
    for n in (30, 10, 20):
        drop(watched.root / f"step-{n}", fill=bytes([n]))
    ticks = [[request.partition_key for request in watched.requested()] for _ in range(2)]
    assert ticks == [["smol@step-10", "smol@step-20"], ["smol@step-30"]]


def test_a_watched_folder_that_is_not_there_is_named(watched) -> None:
    watched.root.rmdir()
    assert "runs is not there" in watched.skipped()


def test_without_a_watched_folder_it_says_where_to_add_one(watched) -> None:
    watched.content["watched"] = []
    watched.write()
    assert watched.skipped().startswith("no folder is watched: add one under `watched` in ")


def test_all_watched_folders_share_the_time_for_hashing(watched, monkeypatch) -> None:
    watched.content["watched"].append({**watched.content["watched"][0], "path": "more"})
    watched.write()
    given: list[float] = []

    def slow_scan(*_: object, hash_for_s: float, **__: object) -> Scan:
        given.append(hash_for_s)
        time.sleep(0.2)
        return Scan()

    monkeypatch.setattr(resources.checkpoints, "scan", slow_scan)
    watched.tick()
    assert given[1] <= given[0] - 0.2


# one key, two places


@pytest.fixture
def twice(watched) -> Watched:
    """Two watched roots that both hold smol@step-100; the first holds smol@step-200 as well."""
    watched.content["watched"].append({**watched.content["watched"][0], "path": "more"})
    watched.write()
    drop(watched.root / "step-100")
    drop(watched.folder / "more" / "step-100", fill=b"\2")
    drop(watched.root / "step-200")
    return watched


def test_a_key_in_two_watched_folders_is_not_evaluated_and_both_are_named(twice) -> None:
    told = twice.tick()
    assert [request.partition_key for request in told.run_requests] == ["smol@step-200"]
    said = twice.skipped()
    assert f"smol@step-100 is the key of {twice.root}/step-100 and of {twice.folder}/more/step-100: rename one" in said


def test_a_key_in_two_watched_folders_resolves_to_no_model(twice) -> None:
    with pytest.raises(ConfigError, match=r"smol@step-100 is the key of .*runs/step-100 and of .*more/step-100"):
        resolve(twice.config, ModelKey("smol", "step-100"))


def test_a_key_in_one_of_two_watched_folders_resolves(twice) -> None:
    assert resolve(twice.config, ModelKey("smol", "step-200")).weights == twice.root / "step-200"


@pytest.fixture
def declared_too(watched) -> Watched:
    """A watched checkpoint whose key `models` declares for something else."""
    watched.content["models"] = {"smol@step-100": {"deployment": "one"}}
    watched.write()
    drop(watched.root / "step-100")
    return watched


def test_a_watched_checkpoint_with_a_declared_key_is_reported_by_the_sensor(declared_too) -> None:
    assert "smol@step-100 is the key of `models` in " in declared_too.skipped()


def test_a_watched_checkpoint_with_a_declared_key_resolves_to_no_model(declared_too) -> None:
    with pytest.raises(ConfigError, match=r"smol@step-100 is the key of `models` in .* and of .*runs/step-100"):
        resolve(declared_too.config, ModelKey("smol", "step-100"))


# resolving what is not there


def test_a_half_written_checkpoint_resolves_to_the_reason_it_waits_for(watched) -> None:
    (drop(watched.root / "step-100") / "model.safetensors").write_bytes(safetensors()[:-10])
    with pytest.raises(ConfigError, match=r"smol@step-100 cannot be evaluated yet: step-100: model\.safetensors"):
        resolve(watched.config, ModelKey("smol", "step-100"))


def test_a_checkpoint_of_no_known_layout_resolves_to_what_is_wrong_with_it(watched) -> None:
    (drop(watched.root / "step-100") / "model.safetensors").rename(watched.root / "step-100" / "model.bin")
    (watched.root / "step-100" / "config.json").rename(watched.root / "step-100" / "adapter_config.json")
    with pytest.raises(ConfigError, match="step-100: is an adapter"):
        resolve(watched.config, ModelKey("smol", "step-100"))


def test_a_near_miss_names_the_watched_checkpoint_that_was_meant(watched) -> None:
    drop(watched.root / "step-100")
    with pytest.raises(UnknownNameError, match="Did you mean 'smol@step-100'"):
        resolve(watched.config, ModelKey("smol", "step-10"))


def test_resolving_a_declared_model_hashes_no_watched_weights(watched) -> None:
    watched.content["models"] = {"mock@a": {"deployment": "one"}}
    watched.write()
    make_old(drop(watched.root / "step-100"))
    resolve(watched.config, ModelKey("mock", "a"))
    assert not (watched.config.data_root / "cache" / "fingerprints.json").exists()


# declared models


def test_declared_models_become_partitions_once(watched) -> None:
    watched.content["models"] = {"mock@a": {"deployment": "one"}, "mock@b": {"deployment": "one"}}
    watched.write()
    watched.tick(declared_models_sensor)
    assert set(watched.instance.get_dynamic_partitions("models")) == {"mock@a", "mock@b"}
    assert watched.skipped(declared_models_sensor) == "2 declared, all known"


def test_a_model_that_is_no_longer_declared_keeps_its_partition(watched) -> None:
    watched.instance.add_dynamic_partitions("models", ["old@a"])
    watched.skipped(declared_models_sensor)
    assert watched.instance.get_dynamic_partitions("models") == ["old@a"]


# publishing


@pytest.fixture
def land(watched) -> Callable[[str], None]:
    """Land one graded evaluation of one sample."""

    def land(run_id: str) -> None:
        landing = Landing(watched.config.data_root)
        evaluation = Evaluation(
            evaluation_id="e1", run_id=run_id, model_key="smol@a", family="smol", revision="a", step=None,
            fingerprint="f", benchmark="gsm8k", ask_version="1", parameters="{}", endpoint="http://x", backend="hosted",
            server_version=None, n_samples=1, n_requests=1, n_answered=1, n_reused=0, n_failed=0, failures="{}",
            is_within_budget=True, prompt_tokens=1, completion_tokens=1, wall_s=1.0, latency_p50_s=None,
            latency_p95_s=None, latency_p99_s=None, asked_by="test", project_version="0", recorded_at=utc_now(),
        )  # fmt: skip
        landing.land_evaluation(evaluation)

    return land


def test_nothing_is_published_while_nothing_landed(watched) -> None:
    assert watched.skipped(publish_sensor) == "everything that landed is published"


def test_a_landing_is_published_once(watched, land) -> None:
    land("r1")
    assert isinstance(watched.tick(publish_sensor), dg.RunRequest)
    assert "a run for them was requested" in watched.skipped(publish_sensor)


def test_a_landing_that_came_in_meanwhile_is_published_too(watched, land) -> None:
    land("r1")
    watched.tick(publish_sensor)
    land("r2")
    assert isinstance(watched.tick(publish_sensor), dg.RunRequest)


def test_what_is_published_is_not_requested(watched, land) -> None:
    land("r1")
    publish(watched.config.data_root)
    assert watched.skipped(publish_sensor) == "everything that landed is published"


def test_a_deleted_database_is_published_again(watched, land) -> None:
    land("r1")
    watched.tick(publish_sensor)
    publish(watched.config.data_root)
    watched.skipped(publish_sensor)
    (watched.config.data_root / "scores.duckdb").unlink()
    # with a run key, Dagster would remember that this state was requested before, and drop the request
    assert watched.tick(publish_sensor) == dg.RunRequest(run_key=None)


def test_a_publication_that_failed_is_tried_again_after_a_while(watched, land, monkeypatch) -> None:
    land("r1")
    watched.tick(publish_sensor)
    monkeypatch.setattr(publish_room, "RETRY_AFTER", publish_room.RETRY_AFTER * 0)
    assert isinstance(watched.tick(publish_sensor), dg.RunRequest)


# what a crash left


def test_a_process_that_a_crash_left_is_killed_and_the_tick_says_so(watched) -> None:
    room = Room(watched.folder / "data" / "leases" / "mock-a-1").make()
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    mark = {MARK: f"{room.folder}:gone"}
    with subprocess.Popen(sleep, env={**os.environ, **mark}, stdout=subprocess.PIPE) as orphan:
        orphan.stdout.readline()
        told = watched.tick(leases_sensor)
        assert orphan.wait(5) == -signal.SIGKILL
    assert told.skip_message == "killed 1 processes"
    assert watched.tick(leases_sensor).skip_message == "every server has its keeper"
