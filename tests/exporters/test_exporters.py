"""Exporters: what travels, that doing it twice changes nothing, against a real MLflow and W&B's real library, offline."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from eval_pipelines import plugins
from eval_pipelines.errors import ConfigError, EvalPipelinesError, UnknownNameError
from eval_pipelines.exporters import Course, Target, courses, metric_key, mlflow, values_of
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import open_published
from tests.installed import installed
from tests.published_record import BOREALIS, LONG
from tests.warehouse.builders import evaluation, land

ROOT = Path(__file__).parent.parent.parent


def found(root: Path, **only: Any) -> dict[str, Course]:
    with closing(open_published(root)) as connection:
        return {course.name: course for course in courses(connection, **only)}


def small(root: Path, values: tuple[float, ...] = (1, 1, 0, 0)) -> dict[str, Course]:
    """Two checkpoints and a model without steps; the second checkpoint with these verdicts."""
    for step, verdicts in ((100, (1.0, 0.0, 0.0, 0.0)), (200, values)):
        land(root, evaluation(f"tiny@step-{step}", fingerprint=str(verdicts)), verdicts)
    land(root, evaluation("other@main"))
    publish(root)
    return found(root)


def test_a_family_is_one_course_by_step_and_a_model_without_steps_is_its_own(record) -> None:
    told = found(record)
    assert sorted(told) == sorted([BOREALIS, LONG.split("@")[0], "atlas-1b"])
    gsm8k = [point for point in told["atlas-1b"].points if point.key == "gsm8k/exact_match/flexible-extract"]
    assert [(point.step, round(point.value, 3)) for point in gsm8k][-2:] == [(2500, 0.333), (3000, 0.7)]
    assert told["atlas-1b"].tags["gsm8k.ask_version"] == "1.0-5f2c"
    [point] = told[BOREALIS].points
    assert values_of(point) == {
        point.key: point.value, f"{point.key}/n": 56.0, f"{point.key}/coverage": 56 / 60,
        f"{point.key}/ci_low": point.ci_low, f"{point.key}/ci_high": point.ci_high, f"{point.key}/stderr": point.stderr,
    }  # fmt: skip
    assert point.step == 0


def test_of_two_revisions_of_one_step_each_keeps_its_numbers(tmp_path) -> None:
    for revision, verdicts in (("step-200-noised", (0, 0)), ("step-100", (1, 0)), ("step-200", (1, 1))):
        land(tmp_path, evaluation(f"tiny@{revision}", n_samples=2), verdicts)
    publish(tmp_path)

    told = {name: [(point.step, point.value) for point in course.points] for name, course in found(tmp_path).items()}
    assert told == {"tiny": [(100, 0.5), (200, 1.0)], "tiny@step-200-noised": [(200, 0.0)]}


def test_only_what_is_named_travels(record) -> None:
    told = found(record, families=["atlas-1b"], benchmarks=["wiki"])
    assert {point.key for point in told["atlas-1b"].points} == {"wiki/word_perplexity"}
    assert metric_key("a:b", "pass@1", "none") == "a_b/pass_1"
    with pytest.raises(UnknownNameError, match="Did you mean 'atlas-1b'"):
        found(record, families=["atlas"])


@pytest.mark.parametrize("name", plugins.names("exporters"))
def test_every_exporter_says_what_it_is_and_what_to_names(name) -> None:
    module: ModuleType = plugins.load("exporters", name, kind="exporter")
    assert (module.__doc__ or "").strip()
    assert isinstance(module.TO, str)
    assert callable(module.export)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("localhost:5000", "is no address of an MLflow server: it must read http://host:port"),
        ("http://ada:secret@127.0.0.1:1", "a password has no place in an address"),
        ("http://127.0.0.1:1", "no MLflow answers at http://127.0.0.1:1"),
    ],
)
def test_a_wrong_address_is_told(record, tmp_path, to, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        mlflow.export([*found(record).values()], Target(to, None, tmp_path))


def test_another_server_at_that_address_is_told_from_mlflow(record, tmp_path, faulty) -> None:
    with pytest.raises(EvalPipelinesError, match=r"is no MLflow server|MLflow refused experiments/get-by-name"):
        mlflow.export([*found(record).values()], Target(faulty.root, None, tmp_path))


# a real MLflow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow tracking server of our own."""
    program, folder = installed("EVAL_PIPELINES_MLFLOW"), tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(program), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", str(folder / "artifacts"),
    ]  # fmt: skip
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        log.close()


def runs(server: str, experiment: str) -> dict[str, dict[str, Any]]:
    """Name → run, as MLflow's own API tells it."""
    api = f"{server}/api/2.0/mlflow"
    one = httpx.get(f"{api}/experiments/get-by-name", params={"experiment_name": experiment}, timeout=60).json()[
        "experiment"
    ]
    told = httpx.post(f"{api}/runs/search", json={"experiment_ids": [one["experiment_id"]]}, timeout=60).json()
    return {run["info"]["run_name"]: run for run in told.get("runs", [])}


def curve(server: str, run: dict[str, Any], key: str) -> list[tuple[int, float]]:
    told = httpx.get(
        f"{server}/api/2.0/mlflow/metrics/get-history",
        params={"run_id": run["info"]["run_id"], "metric_key": key}, timeout=60,
    ).json()  # fmt: skip
    return sorted((int(one.get("step", 0)), one["value"]) for one in told["metrics"])


@pytest.mark.slow
def test_mlflow_shows_each_family_as_a_curve_once_however_often_it_is_exported(server, tmp_path) -> None:
    target = Target(f"{server}#once", None, tmp_path)
    told = small(tmp_path)
    first, second = (mlflow.export([*told.values()], target) for _ in range(2))

    assert (first.n_new_runs, first.n_new, first.n_known) == (2, 3, 0)
    assert (second.n_new_runs, second.n_new, second.n_known) == (0, 0, 3)
    shown = runs(server, "once")
    assert sorted(shown) == ["other@main", "tiny"]
    key = "gsm8k/exact_match/strict"
    assert curve(server, shown["tiny"], key) == [(100, 0.25), (200, 0.5)]
    assert curve(server, shown["tiny"], f"{key}/n") == [(100, 4), (200, 4)]
    assert curve(server, shown["tiny"], f"{key}/coverage") == [(100, 1), (200, 1)]
    tags = {tag["key"]: tag["value"] for tag in shown["tiny"]["data"]["tags"]}
    assert (tags["gsm8k.ask_version"], tags["gsm8k.score_version"]) == ("1.0-aaaa", "s1")
    assert shown["tiny"]["info"]["status"] == "FINISHED"


@pytest.mark.slow
def test_a_new_checkpoint_continues_the_run_and_a_replaced_number_takes_its_place(server, tmp_path) -> None:
    target, key = Target(f"{server}#grows", None, tmp_path), "gsm8k/exact_match/strict"
    mlflow.export([*small(tmp_path).values()], target)
    before = runs(server, "grows")["tiny"]["info"]["run_id"]

    land(tmp_path, evaluation("tiny@step-300"), (1, 1, 1, 1))
    publish(tmp_path)
    grown = mlflow.export([*found(tmp_path).values()], target)
    assert (grown.n_new_runs, grown.n_new, grown.n_replaced) == (0, 1, 0)
    run = runs(server, "grows")["tiny"]
    assert run["info"]["run_id"] == before
    assert curve(server, run, key) == [(100, 0.25), (200, 0.5), (300, 1)]

    # a half-way export, as a lost connection leaves it, is completed and not repeated
    httpx.post(
        f"{server}/api/2.0/mlflow/runs/delete-tag", json={"run_id": before, "key": "eval_pipelines.state"}, timeout=60
    )
    assert mlflow.export([*found(tmp_path).values()], target).n_new == 0

    shutil.rmtree(tmp_path / "landing")
    (tmp_path / "scores.duckdb").unlink()
    replaced = mlflow.export([*small(tmp_path, (1, 1, 1, 0)).values()], target)
    assert (replaced.n_replaced, replaced.n_new_runs) == (1, 1)
    run = runs(server, "grows")["tiny"]
    assert run["info"]["run_id"] != before
    assert curve(server, run, key) == [(100, 0.25), (200, 0.75)]


# W&B's real library, offline

EXPORT = """
import json, sys
from pathlib import Path
sys.path.append(sys.argv[1])
from contextlib import closing
from eval_pipelines.exporters import Target, courses, wandb as exporter
from eval_pipelines.warehouse.read import open_published
root = Path(sys.argv[2])
with closing(open_published(root)) as connection:
    found = courses(connection)
sent = exporter.export(found, Target("tests", None, root / "exports"))
print(json.dumps([sent.n_new_runs, sent.n_new, sent.n_known, sent.n_replaced]))
"""
# a .wandb file is a log of LevelDB: after 7 bytes, blocks of 32 KiB of records (checksum 4, length 2, type 1)
HISTORY = """
import json, sys
sys.path.append(sys.argv[1])
from wandb.proto import wandb_internal_pb2 as pb
def records(data):
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""
for path in sys.argv[2:]:
    rows, name = [], ""
    for data in records(open(path, "rb").read()):
        record = pb.Record.FromString(data)
        if record.WhichOneof("record_type") == "run":
            name = record.run.display_name
        if record.WhichOneof("record_type") == "history":
            rows.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item})
    print(json.dumps([name, rows]))
"""


def outside(script: str, *words: str) -> list[Any]:
    """Run a script where W&B's library can be found; the JSON it prints, line by line."""
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(installed("EVAL_PIPELINES_WANDB")), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.mark.slow
def test_wandb_gets_each_number_once_by_training_step(tmp_path) -> None:
    small(tmp_path)
    (tmp_path / "exports").mkdir()
    assert [outside(EXPORT, str(tmp_path)) for _ in range(2)] == [[[2, 3, 0, 0]], [[0, 0, 3, 0]]]
    land(tmp_path, evaluation("tiny@step-300"), (1, 1, 1, 1))
    publish(tmp_path)
    assert outside(EXPORT, str(tmp_path)) == [[0, 1, 3, 0]]
    told: dict[str, list[dict[str, float]]] = {}
    for name, rows in outside(HISTORY, *sorted(map(str, (tmp_path / "exports").rglob("*.wandb")))):
        told.setdefault(name, []).extend(rows)
    key = "gsm8k/exact_match/strict"
    assert [(row["training_step"], row[key], row[f"{key}/n"]) for row in told["tiny"]] == [
        (100, 0.25, 4), (200, 0.5, 4), (300, 1, 4)
    ]  # fmt: skip
    assert len(told["other@main"]) == 1


def test_without_wandbs_library_the_extra_is_named(record, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    exporter = plugins.load("exporters", "wandb", kind="exporter")
    with pytest.raises(ConfigError, match=re.escape("pip install 'eval-pipelines[wandb]'")):
        exporter.export([*found(record).values()], Target("p", None, tmp_path))
