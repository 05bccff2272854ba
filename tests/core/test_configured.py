"""What evals.yaml asks for, by its text and by what lies in its watched folders."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from eval_pipelines.checkpoints import scan
from eval_pipelines.config import Config
from eval_pipelines.configured import Configured, what_is_configured
from tests.grid.watched import drop

pytestmark = pytest.mark.unit

FILE = """
deployments: {own: {backend: command, argv: [serve, "{weights}", "{port}"]}, h: {backend: hosted, base_url: "http://x/v1"}}
models: {judge@a: {deployment: h}, hosted@v1: {deployment: h}}
watched: [{path: runs, family: smol, deployment: own, suite: short}]
benchmarks: {gsm8k: {task: gsm8k}, mmlu: {task: mmlu, judge: {models: judge@a, template: correctness}}}
suites: {short: [gsm8k]}
"""
BENCHMARKS = {("", ""), ("", "gsm8k"), ("", "mmlu"), ("hosted@v1", "")}


def look(folder: Path, text: str = FILE) -> Configured:
    config = Config.parse(text, path=folder / "evals.yaml")
    now = datetime.now(UTC)
    return what_is_configured(config, [(root, scan(root, now=now, hash_for_s=-1)) for root in config.watched])


def test_a_whole_checkpoint_is_to_be_asked_its_suite_and_one_named_by_hand_may_be_asked(tmp_path: Path) -> None:
    drop(tmp_path / "runs/step-100")
    (drop(tmp_path / "runs/step-200") / "model.safetensors").write_bytes(b"half")
    told = look(tmp_path)
    # hashing was given no time: what is to be asked does not depend on the bytes
    assert told.pairs == BENCHMARKS | {("smol@step-100", ""), ("smol@step-100", "gsm8k")}
    assert told.unsettled == {"smol@step-200"}


def test_a_judge_is_no_model_to_ask(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert look(tmp_path).pairs == BENCHMARKS


def test_what_cannot_be_seen_now_stays_as_it_was(tmp_path: Path) -> None:
    folder = drop(tmp_path / "runs/step-100")
    before = look(tmp_path).pairs
    (folder / "model.safetensors").write_bytes(b"overwritten, half of it")
    assert look(tmp_path).changes(before) == {}
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert look(tmp_path).changes(before) == {}
    (tmp_path / "runs").mkdir()
    gone = dict.fromkeys([("smol@step-100", ""), ("smol@step-100", "gsm8k")], False)
    assert look(tmp_path).changes(before) == gone


def test_what_is_unusable_as_it_lies_there_stays_as_it_was(tmp_path: Path) -> None:
    drop(tmp_path / "runs/step-100")
    before = look(tmp_path).pairs
    drop(tmp_path / "runs/Step-100")
    told = look(tmp_path)
    assert (told.pairs, told.unsettled) == (BENCHMARKS, {"smol@step-100"})
    assert told.changes(before) == {}


def test_a_key_of_two_places_is_asked_of_neither_and_taken_back_of_neither(tmp_path: Path) -> None:
    drop(tmp_path / "runs/v1")
    both = look(tmp_path, FILE.replace("family: smol", "family: hosted"))
    assert (both.pairs, both.unsettled) == (BENCHMARKS, {"hosted@v1"})
    assert both.changes(BENCHMARKS | {("hosted@v1", "gsm8k")}) == {}
