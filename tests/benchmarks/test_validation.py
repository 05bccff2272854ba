"""Each thing that makes a benchmark's numbers wrong, in a file that shows it; and benchmarks that are right."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks.harness import load
from eval_pipelines.benchmarks.own_file import read_own
from eval_pipelines.benchmarks.scaffold import write_new
from eval_pipelines.benchmarks.validation import Finding, validate
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import DataError

pytestmark = pytest.mark.slow

Rows = list[dict[str, Any]]
ROWS: Rows = [
    {"id": "f", "question": "Capital of France?", "answer": "Paris", "options": ["Lyon", "Paris"]},
    {"id": "i", "question": "Capital of Italy?", "answer": "Rome", "options": ["Rome", "Milan"]},
    {"id": "j", "question": "Capital of Japan?", "answer": "Tokyo", "options": ["Tokyo", "Kyoto"]},
]
RIGHT = {"data": "rows.jsonl", "prompt": "{{question}}", "target": "{{answer}}", "id": "{{id}}"}
CHOICE = {"choices": "options", "metric": "choice"}


@pytest.fixture
def checked(tmp_path: Path, index: Path) -> Callable[..., list[Finding]]:
    """Write a benchmark of one's own and validate it."""

    def check(rows: Rows = ROWS, examples: Rows = (), **said: Any) -> list[Finding]:  # type: ignore[assignment]
        for name, found in (("rows", rows), ("few", examples)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
        written = {**RIGHT, **({"examples": "few.jsonl", "num_fewshot": 1} if examples else {}), **said}
        path = tmp_path / "mine.yaml"
        path.write_text(json.dumps({name: value for name, value in written.items() if value is not None}))
        spec = BenchmarkSpec(task="mine", include=tmp_path)
        return validate(load("mine", spec, limit=None, cache=index), read_own(path).said)

    return check


def changed(**fields: Any) -> Rows:
    return [{**ROWS[0], **fields}, *ROWS[1:]]


MANY: Rows = [{"id": "m", "question": "Last?", "answer": "o29", "options": [f"o{i}" for i in range(30)]}]
PANAME: Rows = [{"id": "f", "question": "Is Paname big?", "answer": ["Paris", "Paname"]}]
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"extract": "number"}, "gold", r"3 of 3 gold answers do not score 1.0 .*mine/f \(0, took '\[invalid\]'\)"),
    ({"extract": {"regex": "answer is (.*)"}}, "gold", "Let `gold` say an answer that must score 1.0"),
    ({"prompt": "{{question}} ({{answer}})"}, "leakage", r"`prompt` shows '\{\{answer\}\}', which is `target`"),
    ({"target": "{{answer}} and {{id}}", "prompt": "{{id}}: {{ answer }}?"}, "leakage", "every prompt tells its answer"),
    ({"prompt": "{{question}} ({{answer}})", **CHOICE}, "leakage", "every prompt tells its answer"),
    ({"system": "It is {{answer}}."}, "leakage", "every prompt tells its answer"),
    ({"system": "It is Paris."}, "leakage", "1 prompts hold their answer: mine/f"),
    ({"rows": PANAME}, "leakage", "1 prompts hold .*: mine/f"),
    ({"rows": changed(question="Is Paris, France's capital, big?")}, "leakage", "1 prompts hold their answer: mine/f"),
    ({"rows": changed(answer="")}, "empty", "1 samples have no target: mine/f"),
    ({"rows": changed(answer=["Paris", ""]), "metric": "includes"}, "unparseable", r"mine/f \(the target '' of \['Paris'"),
    ({"rows": changed(question="Capital of Italy?", answer="Rome")}, "duplicates", "asked more than once: mine/f = mine/i"),
    ({"rows": changed(question="Capital of Italy?")}, "duplicates", "asked with different answers: mine/f = mine/i"),
    ({"metric": "numeric", "extract": "number"}, "unparseable", r"3 gold answers cannot be graded: mine/f \(could not"),
    ({"extract": "choice_letter", "choices": "options", "rows": changed(answer="Nice")}, "unparseable", "'Nice' is none"),
    ({"extract": "choice_letter", "choices": "options", "rows": MANY}, "unparseable", "number 30, and there are only 26"),
    ({"extract": "choice_letter", "choices": "optoins"}, "unparseable", "`choices` is 'optoins', which .* the row has _s"),
    ({"extract": "choice_letter", "choices": "options", "rows": changed(options=[])}, "unparseable", r"gives \[\] and no"),
    ({"extract": "choice_letter", "choices": "options", "rows": changed(answer="²")}, "unparseable", "'²' is none of the"),
    ({"examples": [ROWS[1]]}, "few-shot", "1 evaluated samples of mine are also few-shot examples: mine/i"),
    ({"examples": [ROWS[1]]}, "few-shot", "1 samples are examples in their own prompts: mine/i"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "check", "told"), WRONG, ids=[f"{c}-{i}" for i, (_, c, _) in enumerate(WRONG)])
def test_what_makes_numbers_wrong_is_found(checked, change, check, told) -> None:
    import re

    found = [one.told for one in checked(**change) if one.level == "error" and one.check == check]
    assert any(re.search(told, one) for one in found), found


SUMS: Rows = [{"id": "a", "a": 2, "b": 3}, {"id": "b", "a": 4, "b": 3}]
LISTED: Rows = [{"id": "a", "question": "Capital of France?", "answer": "Paris", "bad": "Lyon"}]
TWELVE: Rows = [{"id": "e", "question": "What is 12", "answer": "twelve"}]
SOUND: list[dict[str, Any]] = [
    {},
    CHOICE,
    {"extract": "choice_letter", "choices": "options"},
    {"extract": {"regex": "answer is (.*)"}, "gold": "The answer is {{answer}}"},
    {"extract": {"json_field": "a"}, "gold": '{"a": "{{answer}}"}'},
    {"metric": "numeric", "extract": "number", "rows": [{"id": "a", "question": "1+1?", "answer": "2"}]},
    {"metric": ["includes", "f1"]},
    {"examples": [{"id": "e", "question": "Capital of Spain?", "answer": "Madrid"}]},
    {"rows": changed(question="Is Paris the capital?"), "answer_in_prompt": True},
    {"rows": [{**row, "answer": [row["answer"], "another"]} for row in ROWS]},
    {"prompt": "What is {{a}} + {{b}}?", "target": "{{a + b}}", "rows": SUMS},
    {"prompt": "What is {{a}}?", "target": "{{a}}", "rows": SUMS, "answer_in_prompt": True},
    {
        "prompt": "{{q.text}}",
        "target": "{{q.answer}}",
        "rows": [{"id": "a", "q": {"text": "Why?", "answer": "Because"}}],
    },
    {"prompt": "{{question}} {{options | join(', ')}}", "extract": "choice_letter", "choices": "options"},
    {"prompt": "{{question}} {{answer}}, {{bad}}", "choices": "{{[answer, bad]}}", "metric": "choice", "rows": LISTED},
    {"system": "Name one of Paris, Rome and Tokyo."},
    {"rows": [{"id": "a", "question": "What is 1", "answer": "one"}], "examples": TWELVE},
]


@pytest.mark.parametrize("change", SOUND, ids=str)
def test_a_sound_benchmark_has_no_errors(checked, change) -> None:
    assert [one for one in checked(**change) if one.level == "error"] == []


def test_where_no_gold_answer_can_be_graded_nothing_is_said_of_perplexities(checked) -> None:
    assert [one.check for one in checked(extract="choice_letter", choices="optoins")] == ["unparseable"]


def test_gold_answers_without_verdicts_are_noted(tmp_path, index) -> None:
    (tmp_path / "odd.py").write_text("def grade(doc, results):\n    return {'odd': float('nan')}\n")
    (tmp_path / "odd.yaml").write_text(
        "task: odd\noutput_type: generate_until\ntest_split: test\ndoc_to_text: '{{question}}'\n"
        "doc_to_target: '{{answer}}'\nprocess_results: !function odd.grade\nmetric_list: [{metric: odd, aggregation: mean}]\n"
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"folder": tmp_path, "splits": {"test": "rows.jsonl"}}
    spec = BenchmarkSpec.model_validate({"task": "odd", "include": tmp_path, "data": data})
    found = [one for one in validate(load("odd", spec, limit=None, cache=index), None) if one.check == "gold"]
    assert [(one.level, one.told) for one in found] == [
        ("note", "no gold answer has a verdict of its own: odd is made of many at once.")
    ]


def test_a_gold_answer_that_stays_ungraded_is_no_sound_one(checked, tmp_path, index) -> None:
    checked(extract="number")
    spec = BenchmarkSpec(task="mine", include=tmp_path, unparseable="ungraded")
    [found] = validate(load("mine", spec, limit=None, cache=index), read_own(tmp_path / "mine.yaml").said)
    assert (found.level, found.check) == ("error", "gold")
    assert "3 of 3 gold answers do not score 1.0 on exact_match,number: mine/f (ungraded: unparseable" in found.told


def test_samples_without_ids_are_noted(checked) -> None:
    assert [(one.level, one.check) for one in checked(id=None)] == [("note", "ids")]


@pytest.mark.parametrize("kind", ["generate", "choice", "python"])
def test_a_new_benchmark_is_sound(tmp_path, index, kind) -> None:
    path = write_new("fresh", kind, tmp_path).paths[0]
    benchmark = load("fresh", BenchmarkSpec(task="fresh", include=tmp_path), limit=None, cache=index)
    assert validate(benchmark, read_own(path).said) == []


def test_a_scorer_of_ones_own_must_like_the_gold_answer(tmp_path, index) -> None:
    path = write_new("fresh", "python", tmp_path).paths[0]
    path.write_text(path.read_text().replace('in answer.lower(), "is', 'not in answer.lower(), "is'))
    benchmark = load("fresh", BenchmarkSpec(task="fresh", include=tmp_path), limit=None, cache=index)
    assert [one.check for one in validate(benchmark, read_own(path).said)] == ["gold"]


@pytest.mark.parametrize("protocol", ["chat", "completions"])
def test_a_task_of_the_library_is_sound_on_its_data(gsm8k, protocol) -> None:
    assert [one.check for one in validate(gsm8k(protocol=protocol), None) if one.level == "error"] == []


def test_data_of_somebody_else_is_noted_and_not_refused(gsm8k) -> None:
    rows = [{"question": "What is 1 plus 2000?", "answer": "2001\n#### 2001"}] * 2
    found = validate(gsm8k(rows=rows), None)
    assert {(one.level, one.check) for one in found} == {("note", "ids"), ("note", "duplicates")}


def test_examples_of_the_library_that_are_evaluated_are_found(gsm8k) -> None:
    found = [one for one in validate(gsm8k(num_fewshot=3), None) if one.check == "few-shot"]
    assert any("6 evaluated samples of gsm8k are also few-shot examples" in one.told for one in found)


def test_a_gold_choice_that_is_none_is_found_in_the_library_too(tmp_path, index) -> None:
    rows = [{"ctx_a": "He", "ctx_b": "runs", "activity_label": "x", "endings": ["a", "b"], "label": n} for n in "17"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"folder": tmp_path, "splits": {"validation": "rows.jsonl"}}
    spec = BenchmarkSpec.model_validate({"task": "hellaswag", "num_fewshot": 0, "data": data})
    found = validate(load("hellaswag", spec, limit=None, cache=index), None)
    assert [one.told for one in found if one.check == "unparseable"] == [
        "1 gold answers cannot be graded: hellaswag/1 (the right choice is '7', of 2 choices). "
        "Mend `target` or these rows."
    ]


@pytest.mark.parametrize("place", [0, 2])
def test_a_gold_answer_that_is_no_choice_is_refused_before_anything_is_asked(checked, place) -> None:
    rows = [{**row, **({"answer": "Nice"} if i == place else {})} for i, row in enumerate(ROWS)]
    with pytest.raises(DataError, match="the target 'Nice' is none of the choices"):
        checked(rows, **CHOICE)
