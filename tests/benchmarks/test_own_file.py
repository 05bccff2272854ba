"""A benchmark of one's own in one file, as YAML or Python."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.benchmarks.own_file import read_own
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import ConfigError, DataError, ScoringError

pytestmark = pytest.mark.slow

ROWS = [
    {"country": "France", "capital": "Paris", "wrong": "Lyon"},
    {"country": "Italy", "capital": "Rome", "wrong": "Milan"},
]
YAML = "data: rows.jsonl\nprompt: The capital of {{country}}?\ntarget: '{{capital}}'\n"
PYTHON = '''"""Capitals."""
DATA = "rows.jsonl"
TARGET = "{{capital}}"


def prompt(sample):
    return f"The capital of {sample['country']}?"


def score(sample, answer):
    return sample["capital"] in answer
'''


@pytest.fixture
def own(tmp_path: Path, index: Path) -> Callable[..., Benchmark]:
    """Write a benchmark's file and load it by its name."""

    def build(text: str, suffix: str = ".yaml", rows: list[dict[str, Any]] = ROWS, **fields: Any) -> Benchmark:
        (tmp_path / f"capitals{suffix}").write_text(text)
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        spec = BenchmarkSpec.model_validate({"task": "capitals", "include": tmp_path, **fields})
        return load("capitals", spec, limit=None, cache=index)

    return build


def said(benchmark: Benchmark, say: Any, answers: list[str]) -> dict[str, Any]:
    return {r.digest: say(r, text) for r, text in zip(benchmark.requests(), answers, strict=True)}


def values(benchmark: Benchmark, responses: dict[str, Any]) -> dict[str, float | None]:
    return {one.metric: one.value for one in benchmark.grade(responses)[1] if not one.metric.endswith("_share")}


@pytest.mark.parametrize(("text", "suffix"), [(YAML, ".yaml"), (PYTHON, ".py")])
def test_it_is_asked_and_graded_by_its_name(own, say, text, suffix) -> None:
    benchmark = own(text, suffix)
    assert [request.prompt for request in benchmark.requests()] == [
        "The capital of France?",
        "The capital of Italy?",
    ]
    assert list(values(benchmark, said(benchmark, say, ["Paris", "Milan"])).values()) == [0.5]
    assert [sample.target for sample in benchmark.samples()] == ["Paris", "Rome"]


@pytest.mark.parametrize(
    "extract", ["number", "first_line", "last_line", "choice_letter\nchoices: [Paris, Rome]", "{json_field: city}"]
)
def test_an_answer_in_which_nothing_is_found_is_unparseable_whatever_looks_for_it(own, say, extract) -> None:
    benchmark = own(YAML + f"extract: {extract}\n", unparseable="ungraded")
    scores, metrics = benchmark.grade(said(benchmark, say, ["   ", " \n "]))
    assert [(one.is_unparseable, one.value, one.ungraded_reason) for one in scores] == [(True, None, "unparseable")] * 2
    assert [one.value for one in metrics if one.metric == "unparseable_share"] == [1.0]


def test_choices_are_compared_by_log_likelihood(own, say) -> None:
    benchmark = own(YAML + "choices: '{{[wrong, capital]}}'\nmetric: choice\n")
    responses = {r.digest: say(r, -1.0 if r.part == 1 else -9.0) for r in benchmark.requests()}
    assert benchmark.needs == {"echo_logprobs"}
    assert values(benchmark, responses) == {"acc": 1.0, "acc_norm": 1.0}


def test_an_id_names_a_sample_wherever_its_row_stands(own) -> None:
    first, other = own(YAML + "id: '{{country}}'\n"), own(YAML + "id: '{{country}}'\n", rows=ROWS[::-1])
    assert [one.sample_id for one in first.samples()] == ["capitals/France", "capitals/Italy"]
    assert {one.sample_id for one in other.samples()} == {one.sample_id for one in first.samples()}


def test_examples_stand_before_the_question(own, tmp_path) -> None:
    (tmp_path / "few.jsonl").write_text('{"country": "Spain", "capital": "Madrid"}\n')
    benchmark = own(YAML + "examples: few.jsonl\nnum_fewshot: 1\n")
    assert next(benchmark.requests()).prompt.startswith("The capital of Spain? Madrid\n\nThe capital of France?")


@pytest.mark.parametrize(
    ("change", "asked", "graded"),
    [
        (("The capital", "Capital"), True, False),
        (("in answer", "== answer"), False, True),
        (("return sample", "return 1 - sample"), False, True),
    ],
)
def test_the_versions_of_a_python_file_change_with_the_half_that_changed(own, change, asked, graded) -> None:
    first, other = own(PYTHON, ".py"), own(PYTHON.replace(*change), ".py")
    assert (first.ask_version != other.ask_version) == asked
    # the whole file may decide what is graded
    assert (first.score_version != other.score_version) >= graded


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("import math\n", False),
        ("def near(word):\n    from beside import judge\n", False),
        ("print('read')\n", False),
        ("PENALTY = 0.5\n", False),
        ("def stem(word):\n    return word.lower()\n", False),
        ("GOLD = 'In {{capital}}'\n", False),
        ("SYSTEM = 'Be brief.'\n", True),
    ],
)
def test_what_only_the_scorer_uses_changes_nothing_that_is_asked(own, tmp_path, given, asked) -> None:
    (tmp_path / "beside.py").write_text("def judge(text): ...\n")
    assert (own(PYTHON, ".py").ask_version != own(PYTHON + given, ".py").ask_version) == asked


@pytest.mark.parametrize(
    ("line", "other"),
    [
        (
            "WORD = 'capital'\ndef ask(s): return WORD + s['country']",
            "WORD = 'town'\ndef ask(s): return WORD + s['country']",
        ),
        ("W = {}\nW['x'] = 1\ndef ask(s): return f'{W}'", "W = {}\nW['x'] = 2\ndef ask(s): return f'{W}'"),
        ("def ask(s): return str(eval('A'))\nA = 1", "def ask(s): return str(eval('A'))\nA = 2"),
        ("if True:\n    ask = str", "if False:\n    pass\nelse:\n    ask = str"),
    ],
)
def test_what_the_prompt_reaches_changes_what_is_asked(own, line, other) -> None:
    text = PYTHON.replace('return f"The', 'return ask(sample) + f"The')
    assert own(f"{line}\n{text}", ".py").ask_version != own(f"{other}\n{text}", ".py").ask_version


def test_a_module_beside_it_counts_where_the_prompt_imports_it(own, tmp_path) -> None:
    text = PYTHON.replace('    return f"The', '    if not sample:\n        import beside\n    return f"The')
    versions = []
    for held in ("A = 1", "A = 2"):
        (tmp_path / "beside.py").write_text(held)
        versions.append(own(text, ".py").ask_version)
    assert versions[0] != versions[1]


def test_a_gold_answer_is_asked_of_nobody(own) -> None:
    assert own(YAML).ask_version == own(YAML + "gold: 'In {{capital}}'\n").ask_version


@pytest.mark.parametrize(
    "line", ["extract: number", "extract: {regex: 'is (.*)'}", "metric: includes", "metric: {numeric: {tolerance: 1}}"]
)
def test_the_score_version_alone_changes_with_extractor_and_metric(own, line) -> None:
    first, other = own(YAML), own(YAML + line + "\n")
    assert (first.ask_version, first.score_version) == (other.ask_version, own(YAML).score_version)
    assert first.score_version != other.score_version


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (YAML + "promt: x\n", "promt: unknown key; known are data, prompt"),
        (YAML.replace("target", "goal"), "target: required, but missing"),
        (YAML + "metric: []\n", "`metric` names none"),
        (YAML + "metric: choice\n", "compares the log-likelihoods of `choices`"),
        (YAML + "extract: choice_letter\n", "needs `choices`"),
        (YAML + "extract: {regex: '('}\n", "`regex` is no regular expression"),
        (YAML + "num_fewshot: 2\n", "`num_fewshot` needs `examples`"),
        (YAML.replace("rows.jsonl", "rows.txt"), "must end in .jsonl"),
        (YAML + "data: {hub: a/b, splits: {test: test}}\n", "needs its `revision`"),
        (
            YAML.replace("{{country}}", "{{country}"),
            "prompt: 'The capital of {{country}?' is no Jinja template: unexpected '}'",
        ),
        (YAML + "id: '{{country'\n", "id: '{{country' is no Jinja template"),
        (YAML + "metric: exact\n", "metric: 'exact' is none: give one of exact_match, includes, numeric"),
        (YAML + "metric: [f1, exact]\n", "metric: 'exact' is none"),
        (YAML + "metric: {numeric: {tolerance: near}}\n", "metric.numeric.tolerance: Input should be a valid number"),
        (YAML + "metric: [{f2: {}}]\n", "metric.0.f2: unknown key; known are exact_match, includes, numeric"),
        (YAML + "metric: {exact_match: {case: no}}\n", "case: unknown key; known are ignore_case, ignore_punctuation"),
        (YAML + "extract: numbr\n", "extract: 'numbr' is none: give one of text, first_line"),
        (YAML + "tag: 5\n", "tag: 5 is none: give a name, or a list of names"),
        (YAML + "data: {hub: a/b, revison: main}\n", "data.revison: unknown key; known are package, folder, hub"),
        ("prompt: [", "cannot be read"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_place(tmp_path, text, wrong) -> None:
    path = tmp_path / "capitals.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_own(path)
    assert str(path) in str(caught.value)
    assert wrong in str(caught.value)
    assert not re.search(r"literal\[|function-|list\[|pydantic", str(caught.value))


@pytest.mark.parametrize("tag", ["5", "[{}]"])
def test_a_tag_that_is_no_name_is_told_of_its_own_file_and_stops_no_other(own, tmp_path, tag) -> None:
    (tmp_path / "another.yaml").write_text(YAML + f"tag: {tag}\n")
    own(YAML)
    with pytest.raises(ConfigError, match=r"another\.yaml: tag"):
        read_own(tmp_path / "another.yaml")


@pytest.mark.parametrize("key", ["id", "gold"])
def test_a_row_without_an_id_is_told_in_the_words_of_the_file(own, key) -> None:
    with pytest.raises(
        DataError, match=rf"row 2: 'name' is undefined; `{key}` uses it\. The row has the columns capital"
    ):
        own(YAML + f"{key}: '{{{{name}}}}'\n", rows=[{**ROWS[0], "name": "f"}, ROWS[1]])


def test_an_example_needs_no_id_and_no_gold_answer(own, tmp_path) -> None:
    (tmp_path / "few.jsonl").write_text('{"country": "Spain", "capital": "Madrid"}\n')
    benchmark = own(YAML + "examples: few.jsonl\nnum_fewshot: 1\nid: '{{wrong}}'\ngold: '{{wrong.upper()}}'\n")
    assert next(benchmark.requests()).prompt.startswith("The capital of Spain? Madrid\n\nThe capital of France?")


def test_a_column_that_is_not_there_is_named_with_those_that_are(own) -> None:
    with pytest.raises(DataError, match=r"'town' is undefined.*the columns capital, country, wrong"):
        own(YAML.replace("{{country}}", "{{town}}"))


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("text", "suffix", "told"),
    [
        (
            PYTHON.replace("sample['country']", "sample['n'] or missing"),
            ".py",
            "NameError: name 'missing' is not defined",
        ),
        (PYTHON.replace("sample['country']", "1 / sample['n']"), ".py", "ZeroDivisionError: division by zero"),
        (YAML.replace("{{country}}", "{{1 / n}}"), ".yaml", "ZeroDivisionError: division by zero"),
        (YAML.replace("{{capital}}", "{{1 / n}}"), ".yaml", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_row_that_no_question_can_be_made_of_is_named(own, text, suffix, told, is_first) -> None:
    text = text.replace("TARGET", "ID = '{{id}}'\nTARGET") if suffix == ".py" else text + "id: '{{id}}'\n"
    good, odd = ({"id": name, "country": "Mali", "capital": "x", "n": n} for name, n in (("good", 1), ("odd", 0)))
    with pytest.raises(DataError) as caught:
        own(text, suffix, [odd, good] if is_first else [good, odd])
    assert str(caught.value).startswith(f"benchmarks.capitals: capitals/odd cannot be made of its row: {told}")
    assert ("capitals.py:8)" in str(caught.value)) is (suffix == ".py")


def test_a_python_file_that_cannot_be_imported_is_named(own) -> None:
    with pytest.raises(ConfigError, match=r"capitals\.py cannot be imported: ZeroDivisionError"):
        own(PYTHON + "1 / 0\n", ".py")


def test_a_scorer_that_raises_names_the_sample(own, say) -> None:
    benchmark = own(PYTHON.replace('["capital"] in', '["town"] in'), ".py")
    with pytest.raises(ScoringError, match=r"capitals/\d raised KeyError: 'town' \(.*/capitals\.py:\d+\)"):
        benchmark.grade(said(benchmark, say, ["x", "y"]))


def test_evals_yaml_can_give_it_other_rows(own, tmp_path) -> None:
    (tmp_path / "other.csv").write_text("country,capital\nJapan,Tokyo\n")
    benchmark = own(YAML, data={"folder": tmp_path, "splits": {"test": "other.csv"}})
    assert [sample.target for sample in benchmark.samples()] == ["Tokyo"]


def test_a_python_file_beside_tasks_that_is_no_benchmark_is_none(own, tmp_path, index) -> None:
    from eval_pipelines.benchmarks.catalog import open_catalog

    (tmp_path / "utils.py").write_text("raise SystemExit('was run')\ndef score(a, b): ...\n")
    assert "utils" not in open_catalog(index, include=tmp_path)
