"""How long answers were: learnt from a few files, this model's and its family's first."""

from collections.abc import Callable
from pathlib import Path

import pytest

from eval_pipelines.warehouse import lengths
from eval_pipelines.warehouse.landing import Landing

from .builders import answer, evaluation, failure, requests

Learnt = Callable[..., dict[str, int]]


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(tmp_path)


def land(landing: Landing, model: str, tokens: int, n: int = 4, *, benchmark: str = "gsm8k", run_id: str = "r") -> None:
    answers = [(one, answer(one).model_copy(update={"completion_tokens": tokens})) for one in requests(n)]
    landing.land_responses(evaluation(model, benchmark, run_id=run_id), answers)


def learnt(landing: Landing, model: str = "tiny@step-100", n: int = 4) -> list[int | None]:
    wanted = [one.digest for one in requests(n)]
    found = landing.expected_tokens(model, "gsm8k", set(wanted))
    return [found.get(digest) for digest in wanted]


def test_lengths_are_learnt_from_another_model(landing) -> None:
    land(landing, "other@a", 7)
    assert learnt(landing) == [7] * 4


def test_the_family_teaches_before_others_and_its_last_revision_first(landing) -> None:
    for model, tokens in (("zebra@step-2000", 1), ("tiny@step-90", 2), ("tiny@step-1000", 3), ("other@a", 4)):
        land(landing, model, tokens)
    assert learnt(landing) == [3] * 4


def test_what_the_first_does_not_know_the_next_teaches(landing) -> None:
    land(landing, "tiny@step-200", 5, n=2)
    land(landing, "other@a", 9)
    assert learnt(landing) == [5, 5, 9, 9]


def test_another_benchmark_teaches_nothing(landing) -> None:
    land(landing, "tiny@step-200", 5, benchmark="mmlu")
    assert learnt(landing) == [None] * 4


def test_failures_and_uncounted_answers_teach_nothing(landing) -> None:
    first, second = requests(2)
    landing.land_responses(evaluation("other@a"), [(first, failure(first)), (second, answer(second))])
    assert learnt(landing) == [None] * 4


def test_nothing_landed_teaches_nothing(landing) -> None:
    assert learnt(landing) == [None] * 4


def test_a_file_that_cannot_be_read_is_no_error(landing) -> None:
    land(landing, "other@a", 7)
    folder = landing.folder / "responses" / "model=tiny@step-300" / "benchmark=gsm8k"
    folder.mkdir(parents=True)
    (folder / "broken.parquet").write_bytes(b"PAR1, or so it says" * 1000)
    assert learnt(landing) == [7] * 4


def test_of_one_model_the_largest_files_teach(landing) -> None:
    land(landing, "other@a", 7, n=4, run_id="a")
    for number in range(5):
        land(landing, "other@a", 1, n=1, run_id=f"b{number}")
    assert learnt(landing)[1:] == [7] * 3


def test_among_thousands_of_models_only_a_few_files_are_read(landing, monkeypatch) -> None:
    for number in range(3):
        land(landing, f"tiny@step-{number}", number + 1)
    for number in range(2_000):
        (landing.folder / "responses" / f"model=tiny@step-{number + 10}").mkdir()
    looked: list[Path] = []
    kept = lengths._largest
    monkeypatch.setattr(lengths, "_largest", lambda folder: looked.append(folder) or kept(folder))
    files = list(lengths.teachers(landing.folder / "responses", "zebra@a", "gsm8k"))
    assert (len(files), len(looked)) == (0, 32)
