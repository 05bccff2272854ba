"""Names of tasks, groups and tags."""

from pathlib import Path

import pytest

from eval_pipelines.benchmarks.catalog import Catalog, open_catalog
from eval_pipelines.errors import UnknownNameError, UnsupportedError


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
    monkeypatch.setattr("eval_pipelines.benchmarks.catalog._index", lambda _: pytest.fail("built again"))
    assert "gsm8k" in open_catalog(index)


def test_a_torn_index_is_built_again(tmp_path, monkeypatch) -> None:
    from importlib.metadata import version

    (tmp_path / f"lm-eval-{version('lm-eval')}.json").write_text('{"gsm8k": ["ta')
    monkeypatch.setattr("eval_pipelines.benchmarks.catalog._index", lambda _: {"x": ("task", "x.yaml", [])})
    assert open_catalog(tmp_path).names() == ["x"]
    assert open_catalog(tmp_path).names() == ["x"]


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


def test_a_task_defined_inside_a_group_is_refused_and_not_left_out(index, tmp_path) -> None:
    own_group(tmp_path, "group: my_group\ntask: [gsm8k, {task: new_one, dataset_path: x}]\n")
    with pytest.raises(UnsupportedError, match="new_one"):
        open_catalog(index, include=tmp_path).leaves("my_group")
