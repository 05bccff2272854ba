"""Reading `evals.yaml`: what is told of a file that is missing, unreadable or no YAML."""

from pathlib import Path

import pytest

from eval_pipelines.config import Config, load_config
from eval_pipelines.errors import ConfigError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "evals.yaml:1: the file is empty."),
        ("# only a comment", "evals.yaml:1: the file is empty."),
        ("- a", "evals.yaml:1: the file must be a mapping"),
        ("a:\n\tb: 1", r"evals.yaml:2: .*Indent with spaces, not tabs\."),
        ("a: b: c", "evals.yaml:1: .*needs quotes"),
        ('a: "b\nc: 1\n', r"evals.yaml:3: .*It began on line 1\."),
        ("a: 1\n---\nb: 2", "evals.yaml:2: .*another document"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.parse(text, path=Path("evals.yaml"))


def test_a_missing_file_says_where_it_was_looked_for_and_how_to_point_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tried /.*/evals\.yaml\).*--config PATH.*EVALS_CONFIG"):
        load_config(tmp_path / "evals.yaml")


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "evals.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError, match=r"evals\.yaml:2: not UTF-8"):
        load_config(tmp_path / "evals.yaml")


def test_a_linked_file_starts_its_paths_at_the_link(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data/evals.yaml").write_text("data_root: data\n")
    (tmp_path / "evals.yaml").symlink_to("..data/evals.yaml")
    assert load_config(tmp_path / "evals.yaml").data_root == tmp_path / "data"
