"""Documents that a machine checks: the tables name what is there, the examples are right."""

import re
from pathlib import Path

import pytest
import yaml

from eval_pipelines import plugins
from eval_pipelines.config import Config

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent.parent
SERVING = ROOT / "docs" / "serving.md"
BACKENDS = plugins.names("serving.backends")


def first_column(text: str, head: str) -> list[str]:
    """The names in the first column of the table whose head begins so."""
    table = text.split(f"\n| {head} |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def examples(text: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_readmes_table_of_backends_is_the_folder() -> None:
    assert sorted(first_column((ROOT / "README.md").read_text(), "Backend")) == BACKENDS


def test_a_table_that_lacks_a_backend_is_found() -> None:
    assert first_column("\n| Backend | Runs |\n|---|---|\n| `a` | b |\n\n| `c` | d |\n", "Backend") == ["a"]


def test_every_backend_has_a_section_with_an_example() -> None:
    sections = SERVING.read_text().split("\n## ")[1:]
    shown = {section.split("\n", 1)[0]: "\n".join(examples(section)) for section in sections}
    assert sorted(shown) == BACKENDS
    assert [name for name, text in shown.items() if f"backend: {name}\n" not in text] == []


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", SERVING, ROOT / "docs" / "judging.md"], ids=lambda path: path.name
)
def test_every_example_is_a_right_configuration(path: Path) -> None:
    found = examples(path.read_text())
    assert found
    # a section that is shown alone refers to the benchmarks of the committed file
    own = yaml.safe_load((ROOT / "evals.yaml").read_text())["benchmarks"]
    for text in found:
        if "\nbenchmarks:" not in f"\n{text}":
            text = f"{text}\n{yaml.safe_dump({'benchmarks': own})}"
        config = Config.parse(text, path=Path("/nowhere/evals.yaml"))
        assert config.deployments or config.gates or "machine" in config.model_fields_set


def test_the_stores_in_the_docs_are_right(tmp_path: Path) -> None:
    shown = examples((ROOT / "docs" / "teams.md").read_text())
    found = [Config.parse(text, path=tmp_path / "evals.yaml").store for text in shown]
    assert sorted(one.kind for one in found if one) == plugins.names("warehouse.stores")
