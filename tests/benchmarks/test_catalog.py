"""Names of tasks, groups and tags."""

from importlib.metadata import version
from pathlib import Path

import pytest

from eval_pipelines.benchmarks.catalog import Aggregate, Catalog, open_catalog
from eval_pipelines.benchmarks.task_index import Row, lm_eval_folder, lm_eval_index
from eval_pipelines.errors import ConfigError, UnknownNameError


@pytest.fixture
def catalog(index: Path) -> Catalog:
    return open_catalog(index)


def names(catalog: Catalog, name: str) -> list[str]:
    return [leaf.entry.name for leaf in catalog.leaves(name)]


def test_a_task_is_one_leaf(catalog) -> None:
    assert names(catalog, "gsm8k") == ["gsm8k"]


def test_a_group_of_groups_is_its_tasks(catalog) -> None:
    assert len(names(catalog, "mmlu")) == 57


def test_groups_written_inside_their_parent_are_found(catalog) -> None:
    found = names(catalog, "mmlu_generative")
    assert len(found) == 57
    assert all(name.endswith("_generative") for name in found)


def test_a_tag_is_its_tasks(catalog) -> None:
    assert {"arc_easy", "arc_challenge"} <= set(names(catalog, "ai2_arc"))


@pytest.mark.parametrize(
    ("typo", "meant"), [("gms8k", "gsm8k"), ("hella_swag", "hellaswag"), ("mmlu_genrative", "mmlu_generative")]
)
def test_a_near_miss_is_named(catalog, typo, meant) -> None:
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        catalog.leaves(typo)


def test_an_unknown_name_does_not_list_thousands(catalog) -> None:
    with pytest.raises(UnknownNameError) as caught:
        catalog.leaves("qqqqqqqqqqqqqqq")
    assert len(str(caught.value)) < 1000


def test_the_index_is_built_once(index, monkeypatch) -> None:
    open_catalog(index)
    monkeypatch.setattr("eval_pipelines.benchmarks.task_index.read_folder", lambda _: pytest.fail("built again"))
    assert "gsm8k" in open_catalog(index)


@pytest.mark.parametrize("kept", ['{"stamp": "x", "rows": {"gsm8k": ["ta', '{"gsm8k": ["task", "gsm8k.yaml", []]}'])
def test_an_index_that_is_torn_or_of_another_release_is_built_again(tmp_path, monkeypatch, kept) -> None:
    (tmp_path / f"lm-eval-{version('lm-eval')}.json").write_text(kept)
    rows = {"x": Row("task", "x.yaml", [], {})}
    monkeypatch.setattr("eval_pipelines.benchmarks.task_index.read_folder", lambda _: rows)
    assert open_catalog(tmp_path).names() == ["x"]
    assert open_catalog(tmp_path).names() == ["x"]


@pytest.mark.slow
def test_the_index_is_the_one_that_lm_eval_builds(index) -> None:
    from lm_eval.tasks._index import TaskIndex

    root = lm_eval_folder()
    theirs = {
        name: (
            one.kind.name.lower(),
            one.yaml_path and one.yaml_path.relative_to(root).as_posix(),
            sorted(one.tags) if one.yaml_path is None else [],
        )
        for name, one in TaskIndex.build([root]).items()
    }
    assert {name: (row.kind, row.file, sorted(row.members)) for name, row in lm_eval_index(index).items()} == theirs


def test_every_group_and_tag_of_the_library_has_all_its_tasks(catalog) -> None:
    assert [entry.name for entry in catalog.entries() if not catalog.leaves(entry.name)] == []


def own_group(folder: Path, text: str) -> Path:
    (folder / "mine.yaml").write_text(text)
    return folder


def test_your_own_names_are_added(index, tmp_path) -> None:
    own_group(tmp_path, "group: my_group\ntask: [gsm8k, hellaswag]\n")
    assert names(open_catalog(index, include=tmp_path), "my_group") == ["gsm8k", "hellaswag"]


def test_what_a_group_gives_its_tasks_reaches_them(index, tmp_path) -> None:
    own_group(tmp_path, "group: my_group\ntask: [{task: gsm8k, num_fewshot: 3}, hellaswag]\nrepeats: 2\n")
    leaves = open_catalog(index, include=tmp_path).leaves("my_group")
    assert [leaf.overrides for leaf in leaves] == [{"repeats": 2, "num_fewshot": 3}, {"repeats": 2}]


def test_a_group_with_an_unknown_member_is_not_quietly_smaller(index, tmp_path) -> None:
    own_group(tmp_path, "group: my_group\ntask: [gsm8k, helaswag]\n")
    with pytest.raises(UnknownNameError, match=r"my_group.*Did you mean 'hellaswag'"):
        open_catalog(index, include=tmp_path).leaves("my_group")


def test_a_task_defined_inside_a_group_is_one_of_its_tasks(index, tmp_path) -> None:
    own_group(tmp_path, "group: my_group\nnum_fewshot: 1\ntask: [gsm8k, {task: new_one, dataset_path: x}]\n")
    leaf = open_catalog(index, include=tmp_path).leaves("my_group")[1]
    assert leaf.entry.config == {"task": "my_group::new_one", "num_fewshot": 1, "dataset_path": "x"}


def test_a_leaf_knows_how_its_groups_make_one_number_of_many(catalog) -> None:
    groups = catalog.leaves("mmlu")[0].groups
    assert [group.name for group in groups] == ["mmlu", "mmlu_stem"]
    assert [group.aggregates for group in groups] == [(Aggregate("acc", None, True),)] * 2


def test_a_group_that_contains_itself_is_named(index, tmp_path) -> None:
    own_group(tmp_path, "group: my_group\ntask: [my_group]\n")
    with pytest.raises(ConfigError, match="'my_group' contains itself"):
        open_catalog(index, include=tmp_path).leaves("my_group")


def test_the_operators_name_wins_over_the_projects_and_that_over_lm_evals(index, tmp_path, monkeypatch) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, names_ in ((ours, ("gsm8k", "hellaswag")), (theirs, ("gsm8k",))):
        folder.mkdir()
        for name in names_:
            (folder / f"{name}.yaml").write_text(f"task: {name}\n")
    monkeypatch.setattr("eval_pipelines.benchmarks.catalog.OWN_TASKS", ours)
    found = open_catalog(index, include=theirs)
    assert [found.entry(name).path for name in ("gsm8k", "hellaswag")] == [
        theirs / "gsm8k.yaml",
        ours / "hellaswag.yaml",
    ]
    assert found.entry("arc_easy").origin == "lm-eval"


def test_a_changed_file_of_your_own_is_read_again(index, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("task: one\n")
    assert "one" in open_catalog(index, include=tmp_path)
    (tmp_path / "a.yaml").write_text("task: other\n")
    found = open_catalog(index, include=tmp_path)
    assert ("one" in found, "other" in found) == (False, True)


def test_functions_that_a_group_gives_its_tasks_are_names_with_their_folder(index, tmp_path) -> None:
    own_group(tmp_path, "group: my_group\ntask: [gsm8k]\nprocess_docs: !function mine.process\n")
    given = open_catalog(index, include=tmp_path).leaves("my_group")[0].overrides["process_docs"]
    assert (given, given.folder) == ("mine.process", tmp_path)


@pytest.mark.parametrize(
    ("name", "text"), [("mine.yaml", "task: [\n"), ("mine.py", "def score(:\n"), ("mine.yaml", "- x\n")]
)
def test_a_file_of_yours_that_cannot_be_read_is_named_when_it_is_asked_for(index, tmp_path, name, text) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"{name} cannot be read"):
        open_catalog(index, include=tmp_path).leaves("mine")


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        (
            "mine.yaml",
            "data: a.jsonl\npromt: x\n",
            "no `prompt`, nor the `task` of lm-eval's own files. It has data, promt",
        ),
        ("mine.yaml", "task: hers\ndoc_to_text: x\n", "mine.yaml is the task 'hers': ask for that name"),
        ("mine.yml", "data: a.jsonl\nprompt: x\ntarget: y\n", "mine.yml is not read: name it mine.yaml"),
        ("mine.py", "def score(a, b): ...", "it defines no prompt. One in Python has `def score(sample, answer)`"),
        ("mine.py", "PROMPT = 'x'\nscore = lambda a, b: 1", "it defines no score."),
    ],
)
def test_a_file_of_yours_that_is_taken_for_no_benchmark_says_what_it_lacks(index, tmp_path, file, text, told) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError) as caught:
        open_catalog(index, include=tmp_path).leaves("mine")
    assert told in str(caught.value)


def test_an_include_that_is_no_folder_is_named(index, tmp_path) -> None:
    with pytest.raises(ConfigError, match="gone, which is no folder"):
        open_catalog(index, include=tmp_path / "gone")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task: mine\ninclude: [{local: a.yml}]\n", "its `include` must be a file's name, or a list of them, not"),
        ("task: mine\nmetric_list: 3\n", "its `metric_list` must be a list such as"),
        ("task: mine\nfilter_list: [take_first]\n", "its `filter_list` must be a list such as"),
        ("task: mine\nmetadata: v1\n", "its `metadata` must be a mapping such as"),
        ("group: mine\ntask: [3]\n", "its `task` must be a name, or a group's list of them, not"),
        (
            "group: mine\ntask: [gsm8k]\naggregate_metric_list: 3\n",
            "its `aggregate_metric_list` must be a list such as",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_keeps_no_other_from_being_found(index, tmp_path, text, told) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "good.yaml").write_text("task: good\n")
    catalog = open_catalog(index, include=tmp_path)
    assert [one.name for one in catalog.entries() if one.origin == str(tmp_path)] == ["good"]
    (broken,) = catalog.broken()
    assert broken.startswith(f"{tmp_path}/mine.yaml cannot be read: {told}")
    with pytest.raises(ConfigError) as caught:
        catalog.leaves("mine")
    assert str(caught.value) == broken


def test_values_of_any_type_are_kept_in_the_index(index, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "task: mine\nnum_fewshot: {2024-01-01: a}\noutput_type: [a]\ntag: [t, {a: b}]\nmetadata: {version: 2024-01-01}\n"
    )
    (tmp_path / ".#mine.yaml").symlink_to("nowhere")
    for _ in range(2):
        assert open_catalog(index, include=tmp_path).entry("mine").about["version"] == "2024-01-01"
