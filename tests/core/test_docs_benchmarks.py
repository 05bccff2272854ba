"""docs/benchmarks.md says what is: its YAML is taken by the configuration, its commands exist, its counts are right."""

import ast
import re
import shlex
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml

from eval_pipelines.benchmarks.own_file import OwnBenchmark
from eval_pipelines.benchmarks.own_scoring import ExtractBy, ExtractName, MetricName
from eval_pipelines.cli import main
from eval_pipelines.config import Config

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "benchmarks.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
CONFIGS = [text for kind, text in BLOCKS if kind == "yaml" and not text.startswith("# own:")]
OWN = [text for kind, text in BLOCKS if kind == "yaml" and text.startswith("# own:")]
COMMANDS = re.findall(r"^    (eval-pipelines .*)", TEXT, re.MULTILINE)


@pytest.mark.parametrize("text", CONFIGS)
def test_a_block_of_evals_yaml_is_taken(text: str, tmp_path: Path) -> None:
    head = "deployments: {local: {backend: hosted, base_url: 'http://127.0.0.1:1/v1'}}\n"
    assert Config.parse(head + text, path=tmp_path / "evals.yaml").benchmarks


def test_the_benchmark_of_ones_own_is_taken() -> None:
    assert [OwnBenchmark.model_validate(yaml.safe_load(text)).num_fewshot for text in OWN] == [2]


def test_the_python_is_python() -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "python"]
    assert {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)} == {"prompt", "score"}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_exists_with_its_options(line: str) -> None:
    command: click.Command = main
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context("x", words, resilient_parsing=False).close()


def test_every_extractor_and_metric_has_a_row() -> None:
    names = {*get_args(ExtractName), *get_args(MetricName), *ExtractBy.model_fields}
    rows = " ".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("|"))
    assert {name for name in names if not re.search(rf"`{{?{name}\b", rows)} == set()
