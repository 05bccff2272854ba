"""The rows of a benchmark of one's own reach its prompts as they are written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import DataError

Loader = Callable[..., Benchmark]
YAML = "data: rows.jsonl\nprompt: '{{q}}?'\ntarget: '{{a}}'\n"
PYTHON = "DATA = 'rows.jsonl'\nTARGET = '{{a}}'\ndef score(row, answer):\n    return answer == row['a']\n"


@pytest.fixture
def own(tmp_path: Path, index: Path) -> Loader:
    """A benchmark of these rows."""

    def build(rows: list[dict[str, Any]], text: str = YAML, suffix: str = ".yaml", **fields: Any) -> Benchmark:
        (tmp_path / f"mine{suffix}").write_text(text)
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        spec = BenchmarkSpec.model_validate({"task": "mine", "include": tmp_path, **fields})
        return load("mine", spec, limit=None, cache=index)

    return build


def asked(benchmark: Benchmark) -> list[tuple[str | None, str]]:
    requests = benchmark.requests()
    return [(next(requests).prompt, sample.target) for sample in benchmark.samples()]


def test_a_whole_number_beside_a_fraction_stays_whole(own: Loader) -> None:
    rows = [{"q": "1+1", "a": 2}, {"q": "1/2", "a": 0.5}, {"q": "2**70", "a": 2**70}]
    assert [target for _, target in asked(own(rows))] == ["2", "0.5", str(2**70)]


def test_an_object_has_its_own_keys_only(own: Loader) -> None:
    rows = [{"q": {"A": "x", "B": "y"}, "a": "A"}, {"q": {"A": "x", "C": "z"}, "a": ["A", "C"]}]
    prompt = "{% for key, text in q.items() %}{{key}}. {{text}} {% endfor %}"
    assert asked(own(rows, YAML.replace("{{q}}?", prompt))) == [("A. x B. y ", "A"), ("A. x C. z ", '["A", "C"]')]


def test_a_column_that_the_first_row_lacks_is_there_for_the_others(own: Loader) -> None:
    rows = [{"q": "one", "a": "1"}, {"q": "two", "a": "2", "hint": "even"}]
    shown = own(rows, YAML.replace("{{q}}?", "{{q}} {% if hint %}{{hint}}{% endif %}"))
    assert [prompt for prompt, _ in asked(shown)] == ["one ", "two even"]


@pytest.mark.parametrize(
    ("row", "text", "told"),
    [
        ({"a": "2"}, YAML, "row 2 has no `q`, which `prompt` shows"),
        ({"q": None, "a": "2"}, YAML.replace("'{{q}}?'", "q"), "row 2 has no `q`, which `prompt` shows"),
        ({"q": "x"}, YAML, "row 2 has no `a`, which `target` shows"),
        ({"q": "x"}, YAML + "choices: [x, 'y']\nmetric: choice\n", "row 2 has no `a`, which `target` shows"),
        ({"q": {"b": None}, "a": "2"}, YAML.replace("{{q}}?", "{{q.b}}"), "row 2 has no value in '{{q.b}}'"),
    ],
)
def test_a_row_that_lacks_what_is_shown_is_named(own: Loader, row: dict[str, Any], text: str, told: str) -> None:
    with pytest.raises(DataError) as caught:
        own([{"q": {"b": "x"}, "a": "x"}, row], text)
    assert "rows.jsonl: " + told in str(caught.value)


def test_an_example_that_lacks_what_is_shown_is_named_if_it_is_shown(own: Loader, tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text('{"q": "two"}\n{"q": "one", "a": "1"}\n')
    text = YAML + "examples: few.jsonl\nnum_fewshot: 1\n"
    with pytest.raises(DataError, match=r"few\.jsonl: row 1 has no `a`"):
        own([{"q": "x", "a": "y"}], text)
    assert own([{"q": "x", "a": "y"}], text, num_fewshot=0)


def test_a_prompt_that_gives_nothing_is_told(own: Loader) -> None:
    with pytest.raises(DataError, match="`prompt` gave None"):
        own([{"q": "x", "a": "y"}], PYTHON + "def prompt(row): ...\n", ".py")


def test_a_prompt_cannot_change_the_rows(own: Loader) -> None:
    text = PYTHON + "def prompt(row):\n    row['q'].append('!')\n    return ''.join(row['q'])\n"
    benchmark = own([{"q": ["x"], "a": "y"}], text, ".py")
    assert [(sample.question, prompt) for sample in benchmark.samples() for prompt, _ in asked(benchmark)] == [
        ("x!", "x!")
    ]


def test_rows_of_several_types_for_a_task_of_lm_eval_are_told_with_their_column(tmp_path: Path, index: Path) -> None:
    rows = [
        {"question": "1+1", "answer": "#### 2"},
        {"question": "x", "answer": "1"},
        {"question": 3, "answer": "#### 3"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"folder": tmp_path, "splits": {"test": "rows.jsonl"}}
    spec = BenchmarkSpec.model_validate({"task": "gsm8k", "num_fewshot": 0, "data": source})
    with pytest.raises(DataError, match=r"rows\.jsonl: row 3 has 3 in column 'question'"):
        load("gsm8k", spec, limit=None, cache=index)


def test_two_rows_of_one_id_are_named(own: Loader) -> None:
    rows = [{"q": "one", "a": "1"}, {"q": "two", "a": "2"}, {"q": "one", "a": "3"}]
    with pytest.raises(DataError, match="rows 1 and 3 both have the id 'mine/one'"):
        own(rows, YAML + "id: '{{q}}'\n")


@pytest.mark.parametrize(
    ("answer", "lines", "told"),
    [
        (["Paris", ""], "metric: includes\n", "mine/0: the target '' of ['Paris', ''] is empty as it is compared"),
        (["Paris", None], "", "mine/0: the target '' of ['Paris', ''] is empty"),
        ([], "", "mine/0: the target '' is empty"),
        (" ", "", "mine/0: the target ' ' is empty"),
        (
            "+",
            "metric: {exact_match: {ignore_punctuation: true}}\n",
            "mine/0: the target '+' is empty as it is compared",
        ),
        ("many", "metric: numeric\n", "mine/0: could not convert string to float: 'many'"),
    ],
)
def test_a_right_answer_that_every_answer_would_equal_is_refused_before_anything_is_asked(
    own: Loader, answer: Any, lines: str, told: str
) -> None:
    with pytest.raises(DataError) as caught:
        own([{"q": "x", "a": answer}], YAML + lines).check_is_graded()
    assert told in str(caught.value)
