"""What is taken of an answer to a benchmark of one's own, and what it is worth."""

import pytest

from eval_pipelines.benchmarks.own_filters import FirstLine, JsonField, LastLine, Number
from eval_pipelines.benchmarks.own_scoring import (
    FunctionScorer,
    Gold,
    MetricBy,
    Scorer,
    json_field_in,
    metric_in_words,
)
from eval_pipelines.errors import ScoringError


def verdict(metric: object, text: str, target: str, choices: list[str] | None = None) -> float:
    scorer = Scorer([metric_in_words(metric)], Gold("target", choices), "text")
    return next(iter(scorer({"target": target}, [text]).values()))


@pytest.mark.parametrize(
    ("metric", "text", "target", "value"),
    [
        ("exact_match", " Paris\n", "Paris", 1),
        ("exact_match", "paris", "Paris", 0),
        (MetricBy(exact_match={"ignore_case": True, "ignore_punctuation": True}), '"paris."', "Paris", 1),
        ("includes", "It is PARIS, of course", "paris", 1),
        (MetricBy(includes={"ignore_case": False}), "It is PARIS", "Paris", 0),
        ("numeric", "$1,234.50", "1234.5", 1),
        ("numeric", "12 %", "12", 1),
        ("numeric", "no number", "12", 0),
        ("numeric", "\u22125", "-5", 1),
        ("numeric", "3,14", "314", 0),
        ("numeric", "inf", "12", 0),
        ("numeric", "3.14", "3.14159", 0),
        (MetricBy(numeric={"tolerance": 0.01}), "3.14", "3.14159", 1),
        (MetricBy(numeric={"relative": 0.1}), "-91", "-100", 1),
        ("f1", "the cat sat", "A cat sat down.", 0.8),
        ("f1", "", "cat", 0),
    ],
)
def test_a_metric_gives_its_verdict(metric, text, target, value) -> None:
    assert verdict(metric, text, target) == pytest.approx(value)


def test_of_several_right_answers_one_is_enough() -> None:
    assert Scorer([("exact_match", metric_in_words("exact_match")[1])], Gold("{{names}}", None), "text")(
        {"names": ["NYC", "New York"]}, ["New York"]
    ) == {"exact_match": 1.0}


@pytest.mark.parametrize(
    ("target", "row", "texts"),
    [
        ("{{a}}", {"a": "[1, 2, 3]"}, ["[1, 2, 3]"]),
        ("a", {"a": "[1, 2, 3]"}, ["[1, 2, 3]"]),
        ("{{a}}", {"a": "['x']"}, ["['x']"]),
        ("{{a}}", {"a": [1, 2]}, ["1", "2"]),
        ("a", {"a": [1, 2]}, ["1", "2"]),
        ("{{a}}", {"a": "Paris"}, ["Paris"]),
        ("{% if b %}{{b}}{% else %}{{a}}{% endif %}", {"a": "x", "b": ["y", "z"]}, ["y", "z"]),
        ("{{a}}{{b}}", {"a": [1], "b": [2]}, ["[1][2]"]),
        ('["{{a}}", "{{b}}"]', {"a": "x", "b": "y"}, ["x", "y"]),
        ("{{ ['yes', 'y'] }}", {}, ["yes", "y"]),
    ],
)
def test_several_right_answers_are_a_list_and_no_text_that_looks_like_one(target, row, texts) -> None:
    assert Gold(target, None).texts(row) == texts


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is \u22125", "-5"),
        ("x=\uff0d5", "-5"),
        ("between 3-5", "5"),
        ("5 - 3", "3"),
        ("(2)-5", "5"),
        ("答案是-5", "-5"),
        ("1,2,-5", "-5"),
        ("one of 1,2,3", "3"),
        ("1,234,567.5", "1,234,567.5"),
        ("1,2345", "2345"),
        ("about -.5", "-.5"),
        ("2e-5", "2e-5"),
    ],
)
def test_the_last_number_has_its_own_sign_and_commas(text, number) -> None:
    assert Number().apply([[text]], [{}]) == [[number]]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"a": 1}', "1"),
        ('Sure: {"a": "x"} or {"a": {"b": 2}}', '{"b": 2}'),
        ("{broken {\"a\": true}", "true"),
        ('{"b":' * 5000 + '1} {"a": 3}', "3"),
        ("no JSON", "[invalid]"),
        ('{"b": 1}', "[invalid]"),
    ],
)  # fmt: skip
def test_a_field_of_the_last_json_object_is_found(answer, found) -> None:
    assert json_field_in(answer, "a") == found


def test_a_field_within_a_field_is_found() -> None:
    assert JsonField("a.b").apply([['{"a": {"b": "x"}}']], [{}]) == [["x"]]


@pytest.mark.parametrize(
    ("extractor", "found"), [(FirstLine, "It is 1,234."), (LastLine, "Or -3.5e2"), (Number, "-3.5e2")]
)
def test_lines_and_numbers_are_found(extractor, found) -> None:
    assert extractor().apply([["\n It is 1,234.\n\nOr -3.5e2 \n"]], [{}]) == [[found]]
    assert extractor().apply([[" \n"]], [{}]) == [["[invalid]"]]


@pytest.mark.parametrize(("target", "place"), [("4", 1), ("0", 0), ("C", 2), ("5", 2)])
def test_a_target_is_a_choices_text_before_it_is_its_place(target, place) -> None:
    assert Gold("target", ["3", "4", "5"])({"target": target}) == place


def test_a_target_that_is_no_choice_is_never_a_wrong_answer() -> None:
    with pytest.raises(ValueError, match="'7' is none of the choices"):
        Gold("target", ["3", "4"])({"target": "7"})


def test_a_function_must_give_the_numbers_it_names() -> None:
    scorer = FunctionScorer(lambda sample, answer: {"right": 1}, ("right", "short"), "v")
    with pytest.raises(ScoringError, match="gave right, and METRICS says right, short"):
        scorer({}, ["x"])
