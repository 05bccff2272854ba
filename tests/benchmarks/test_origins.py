"""Whose a task is when two have its name, and files of one's own that are not the benchmark they look like."""

import os
import shutil
from pathlib import Path

import pytest

from eval_pipelines.benchmarks.catalog import open_catalog
from eval_pipelines.benchmarks.origins import Origin, origin_of, origins
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import ConfigError

pytestmark = pytest.mark.slow

OWN = 'data: rows.jsonl\nprompt: "{{q}}"\ntarget: "{{a}}"\n'


def origin(index: Path, folder: Path, task: str, *, include: str | None = "benchmarks") -> Origin:
    spec = BenchmarkSpec(task=task, include=folder / include if include else None)
    return origins({"one": spec}, cache=index, folder=folder)["one"]


def put(path: Path, text: str = OWN) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    return path


def test_what_nobody_else_has_is_told_without_any_note(index, tmp_path) -> None:
    put(tmp_path / "benchmarks" / "mine.yaml")
    put(tmp_path / "configs" / "gsm8k.yaml", "learning_rate: 1\n")
    assert origin(index, tmp_path, "mine") == Origin("benchmarks/mine.yaml")
    assert origin(index, tmp_path, "gsm8k") == Origin("lm-eval")
    assert origin(index, tmp_path, "capitals") == Origin("eval-pipelines")
    assert origin(index, tmp_path, "gsm8k", include=None) == Origin("lm-eval")


def test_a_file_of_yours_that_has_the_name_of_another_is_used_and_that_is_told(index, tmp_path) -> None:
    put(tmp_path / "benchmarks" / "gsm8k.yaml")
    put(tmp_path / "benchmarks" / "philosophy.yaml", "task: mmlu_philosophy\n")
    assert origin(index, tmp_path, "gsm8k") == Origin("benchmarks/gsm8k.yaml, in place of the one in lm-eval")
    assert origin(index, tmp_path, "mmlu_humanities").in_words == (
        "lm-eval; its mmlu_philosophy: benchmarks/philosophy.yaml, in place of the one in lm-eval"
    )


@pytest.mark.parametrize(
    ("file", "include"),
    [
        ("gsm8k.yaml", None),
        ("gsm8k.yml", None),
        ("benchs/gsm8k.py", "benchmarks"),
        ("benchmarks/a/b/gsm8k.yaml", "more"),
        ("benchmarks/gsm8k.yaml", "more"),
    ],
)
def test_a_benchmark_of_yours_where_nobody_looks_is_told(index, tmp_path, file, include) -> None:
    path = put(tmp_path / file, OWN if "yaml" in file or "yml" in file else "PROMPT = 'x'\ndef score(a, b): ...")
    if include:
        put(tmp_path / include / "other.yaml")
    told = origin(index, tmp_path, "gsm8k", include=include)
    assert told.in_words == "lm-eval"
    where = tmp_path / (include or "benchmarks")
    assert told.notes == (
        f"{path} is a benchmark 'gsm8k', too, and is not used: the one in lm-eval is. To ask yours, move it into "
        f"{where}, or name its folder as `include`",
    )


def test_of_two_files_of_yours_with_one_name_it_is_told_which_is_used(index, tmp_path) -> None:
    used, other = put(tmp_path / "benchmarks" / "a" / "mine.yaml"), put(tmp_path / "benchmarks" / "b" / "mine.yaml")
    [told] = origin(index, tmp_path, "mine").notes
    assert told == f"{other} is a benchmark 'mine', too, and is not used: {used} is"


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("gsm8k.yml", OWN, "gsm8k.yml is not read: name it gsm8k.yaml"),
        ("gsm8k.yaml", OWN.replace("prompt", "promt"), "gsm8k.yaml is no benchmark: it has no `prompt`"),
        ("math/gsm8k.yaml", "promt: x\n", "gsm8k.yaml is no benchmark: it has no `prompt`"),
        ("gsm8k.py", "def score(a, b): ...", "gsm8k.py is no benchmark: it defines no prompt."),
        ("math/gsm8k.py", "PROMPT = 'x'\ndef score(a, b): ...", "gsm8k.py is not read: one in Python lies in "),
    ],
)
def test_a_file_of_yours_that_is_not_read_is_not_silently_the_task_of_another(
    index, tmp_path, file, text, told
) -> None:
    put(tmp_path / file, text)
    with pytest.raises(ConfigError) as caught:
        open_catalog(index, include=tmp_path).leaves("gsm8k")
    assert told in str(caught.value)
    assert str(caught.value).endswith(". If the gsm8k in lm-eval is meant, call that file otherwise")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("gsm8k.py", "def rows(docs): ..."),
        ("gsm8k.yaml", "task: gsm8k_mine\n"),
        ("gsm8k.jsonl", "{}"),
        ("gsm8k.py", "("),
        ("conf/gsm8k.yaml", "learning_rate: 1\ndata: x\n"),
        ("conf/gsm8k.yml", "task: gsm8k_mine\n"),
        ("gsm8k.yml", "a: [\n"),
        (".github/workflows/gsm8k.yml", OWN),
        (".venv/lib/gsm8k.py", "def score(a, b): ..."),
    ],
)
def test_helpers_and_data_may_be_called_as_a_task_of_another(index, tmp_path, file, text) -> None:
    put(tmp_path / file, text)
    if text == "(":
        (tmp_path / "math").mkdir()
        (tmp_path / file).rename(tmp_path / "math" / file)
    [leaf] = open_catalog(index, include=tmp_path).leaves("gsm8k")
    assert (leaf.entry.origin, leaf.entry.replaces) == ("lm-eval", None)


def test_a_folder_that_may_not_be_looked_into_is_no_error(index, tmp_path) -> None:
    spec, catalog = BenchmarkSpec(task="gsm8k"), open_catalog(index)
    (tmp_path / "pgdata").mkdir(mode=0)
    if os.geteuid() == 0:
        shutil.chown(tmp_path.parent, 65534)
        shutil.chown(tmp_path, 65534)
        os.seteuid(65534)
    try:
        told = origin_of(spec, catalog, folder=tmp_path)
    finally:
        os.seteuid(os.getuid())
    assert told == Origin("lm-eval")


def test_a_task_that_is_not_there_is_told_as_a_note(index, tmp_path) -> None:
    [told] = origin(index, tmp_path, "gms8k", include=None).notes
    assert "Did you mean 'gsm8k'?" in told
