"""What a benchmark in Python may do: say more of an answer than a number, import what stands beside it, and be wrong."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import ScoringError
from eval_pipelines.records import FailureKind, Metric, Score

ROWS = [{"country": "France", "capital": "Paris"}, {"country": "Italy", "capital": "Rome"}]
HEAD = """DATA = "rows.jsonl"
TARGET = "{{capital}}"


def prompt(sample):
    return sample["country"]


def score(sample, answer):
    """


@pytest.fixture
def scored_by(tmp_path: Path, index: Path) -> Callable[..., Benchmark]:
    """A benchmark whose scorer is this line."""

    def build(line: str, above: str = "") -> Benchmark:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        (tmp_path / "capitals.py").write_text(f"{above}{HEAD}{line}\n")
        return load("capitals", BenchmarkSpec(task="capitals", include=tmp_path), limit=None, cache=index)

    return build


def graded(benchmark: Benchmark, say: Any, *answers: Any) -> tuple[list[Score], dict[str, Metric]]:
    responses = {one.digest: say(one, text) for one, text in zip(benchmark.requests(), answers, strict=True)}
    scores, metrics = benchmark.grade(responses, max_failed_share=1)
    return scores, {one.metric: one for one in metrics}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("return None", r"gave None, which is no number \(.*/capitals.py:9\): `score` returns one, or a mapping"),
        ("return 'good'", r"gave 'good', which is no number \(.*/capitals.py:9\)"),
        ("return 1.0, 'why'", r"gave \(1.0, 'why'\), which is no number \(.*/capitals.py:9\)"),
        ("yield 1.0", r"gave <generator object score at .*>, which is no number \(.*/capitals.py:9\)"),
        ("return {'other': 1}", r"gave other, and METRICS says score \(.*/capitals.py:9\)"),
        ("return {}", r"gave no metric, and METRICS says score \(.*/capitals.py:9\)"),
        ("return json.loads(answer)", r"raised JSONDecodeError: Expecting value: .* \(.*/capitals.py:11\)"),
        ("sys.exit(3)", r"raised SystemExit: 3 \(.*/capitals.py:11\)"),
    ],
)
def test_a_scorer_that_gives_no_number_is_told_with_its_own_file(scored_by, say, line, told) -> None:
    above = {"json": "import json\n", "sys.": "import sys\n"}
    benchmark = scored_by(line, next((text for word, text in above.items() if word in line), ""))
    with pytest.raises(ScoringError, match=rf"^the scorer of capitals/\d {told}"):
        graded(benchmark, say, "Paris", "Rome")


def test_a_scorer_says_what_it_took_from_an_answer(scored_by, say) -> None:
    benchmark = scored_by("return {'score': 1, 'extracted': answer[:3], 'is_unparseable': answer == 'Rome'}")
    scores, metrics = graded(benchmark, say, "Paris", "Rome")
    assert [(one.value, one.extracted, one.is_unparseable) for one in scores] == [(1, "Par", False), (1, "Rom", True)]
    assert metrics["unparseable_share"].value == 0.5


def test_a_number_that_is_none_leaves_its_sample_ungraded(scored_by, say) -> None:
    scores, metrics = graded(scored_by("return float('nan') if answer == 'Rome' else 1"), say, "Paris", "Rome")
    assert [(one.value, one.ungraded_reason) for one in scores] == [(1, None), (None, "score_is_nan")]
    assert (metrics["score"].value, metrics["score"].n, metrics["score"].n_asked) == (1, 1, 2)


def test_where_nothing_is_graded_nobody_says_how_far_its_numbers_reach(scored_by, say) -> None:
    scores, metrics = graded(scored_by("return 5"), say, FailureKind.TIMEOUT, FailureKind.TIMEOUT)
    assert [one.ungraded_reason for one in scores] == ["timeout", "timeout"]
    assert (metrics["score"].n, metrics["score"].n_asked, metrics["score"].bound_high) == (0, 2, None)


@pytest.mark.parametrize(
    ("above", "right"),
    [("import next_to_it\n", "next_to_it.same"), ("from next_to_it import same as right\n", "right")],
)
def test_a_module_beside_it_is_imported_as_it_is_now(scored_by, say, tmp_path, above, right) -> None:
    found = []
    for word in ("lower", "upper"):
        (tmp_path / "words.py").write_text(f"def plain(text):\n    return text.{word}()\n")
        (tmp_path / "next_to_it.py").write_text("import words\ndef same(a, b):\n    return words.plain(a) == b\n")
        benchmark = scored_by(f"return {right}(answer, sample['capital'].lower())", above)
        found.append((benchmark.score_version, graded(benchmark, say, "Paris", "ROME")[1]["score"].value))
    assert [value for _, value in found] == [1, 0]
    assert found[0][0] != found[1][0]
    assert not {"next_to_it", "words"} & {*sys.modules}
    assert str(tmp_path) not in sys.path


def test_a_module_beside_it_is_not_that_of_another_folder_which_was_loaded_before(
    scored_by, say, tmp_path, monkeypatch
) -> None:
    other = ModuleType("next_to_it")
    other.__file__ = "/elsewhere/next_to_it.py"
    monkeypatch.setitem(sys.modules, "next_to_it", other)
    (tmp_path / "next_to_it.py").write_text("def same(a, b):\n    return a.lower() == b\n")
    benchmark = scored_by("return next_to_it.same(answer, sample['capital'].lower())", "import next_to_it\n")
    assert graded(benchmark, say, "Paris", "ROME")[1]["score"].value == 1
    assert sys.modules["next_to_it"] is other


def test_what_is_called_as_a_library_is_does_not_take_its_place(scored_by, say, tmp_path) -> None:
    (tmp_path / "wave.py").write_text("raise ValueError\n")
    _, metrics = graded(scored_by("return hasattr(wave, 'Wave_read')", "import wave\n"), say, "x", "y")
    assert metrics["score"].value == 1
