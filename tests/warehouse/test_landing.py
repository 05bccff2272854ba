"""Landing: what is written is whole, kept, and found again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval_pipelines.errors import WarehouseError
from eval_pipelines.judgements import Judgement
from eval_pipelines.records import (
    Evaluation,
    FailureKind,
    Metric,
    Record,
    Request,
    Response,
    Sample,
    Score,
    ServerMetrics,
)
from eval_pipelines.warehouse.files import safe_name
from eval_pipelines.warehouse.landed_rows import ROWS_PER_GROUP
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query
from eval_pipelines.warehouse.shapes import SHAPES

from .builders import answer, at, evaluation, failure, land, requests, samples

MODEL = "tiny@step-100"
BYTES = f"bytes-of-{MODEL}"


def test_an_answer_comes_back_as_it_was_landed(tmp_path: Path) -> None:
    [chat, choice] = requests(2)
    more = {"ttft_s": 0.1, "completion_tokens": 3, "reasoning": "six times seven"}
    said = answer(chat, "forty-two ✓", minute=1).model_copy(update=more)
    likely = Response(
        request_digest=choice.digest, logprob=-1.5, is_greedy=True, n_attempts=1, latency_s=0.1, asked_at=at(2)
    )
    Landing(tmp_path).land_responses(evaluation(), [(chat, said), (choice, likely)])

    digests = {chat.digest, choice.digest}
    assert Landing(tmp_path).responses_for(MODEL, BYTES, digests) == {chat.digest: said, choice.digest: likely}
    assert Landing(tmp_path).answered(MODEL, BYTES).keys() == digests


def test_a_failure_is_no_answer_but_is_kept(tmp_path: Path) -> None:
    [request] = requests(1)
    landing = Landing(tmp_path)
    landing.land_responses(evaluation(), [(request, failure(request))])

    assert landing.answered(MODEL, BYTES) == {}
    assert landing.responses_for(MODEL, BYTES, [request.digest]) == {request.digest: failure(request)}
    assert landing.responses_for(MODEL, BYTES, []) == {}


def test_an_answer_wins_over_a_later_failure_and_the_newest_failure_over_older_ones(tmp_path: Path) -> None:
    [first, second, unwanted] = requests(3)
    landing = Landing(tmp_path)
    landing.land_responses(evaluation(run_id="a"), [(first, answer(first)), (second, failure(second))])
    late = failure(second, FailureKind.TIMEOUT, minute=5)
    landing.land_responses(evaluation(run_id="b"), [(first, failure(first, minute=5)), (second, late)])
    landing.land_responses(evaluation(run_id="c"), [(unwanted, answer(unwanted))])

    found = landing.responses_for(MODEL, BYTES, [first.digest, second.digest])

    assert found == {first.digest: answer(first), second.digest: late}


def test_of_two_answers_the_newest_wins(tmp_path: Path) -> None:
    [request] = requests(1)
    landing = Landing(tmp_path)
    landing.land_responses(evaluation(run_id="z"), [(request, answer(request, "new", minute=9))])
    landing.land_responses(evaluation(run_id="a"), [(request, answer(request, "old", minute=1))])

    assert landing.responses_for(MODEL, BYTES, [request.digest])[request.digest].text == "new"
    assert landing.answered(MODEL, BYTES) == {request.digest: at(9)}


def test_a_question_answered_in_one_benchmark_is_answered_in_all_of_them(tmp_path: Path) -> None:
    [request] = requests(1)
    landing = Landing(tmp_path)
    landing.land_responses(evaluation(benchmark="mmlu"), [(request, answer(request))])

    assert request.digest in landing.answered(MODEL, BYTES)


def test_an_answer_that_does_not_say_what_is_greedy_is_none_for_who_must_know(tmp_path: Path) -> None:
    [request] = requests(1)
    landing = Landing(tmp_path)
    told = answer(request).model_copy(update={"text": None, "logprob": -1.0})
    landing.land_responses(evaluation(), [(request, told)])

    assert landing.answered(MODEL, BYTES).keys() == {request.digest}
    assert landing.answered(MODEL, BYTES, with_greedy=True) == {}


def test_more_answers_than_a_filter_names_are_found_as_well(tmp_path: Path) -> None:
    asked = requests(1_200)
    landing = Landing(tmp_path)
    landing.land_responses(evaluation(), [(one, answer(one)) for one in asked])

    assert landing.responses_for(MODEL, BYTES, [one.digest for one in asked[:1_100]]).keys() == {
        one.digest for one in asked[:1_100]
    }


def test_overwritten_weights_have_answered_nothing(tmp_path: Path) -> None:
    [request] = requests(1)
    landing = Landing(tmp_path)
    landing.land_responses(evaluation(), [(request, answer(request))])

    assert landing.answered(MODEL, "other-bytes") == {}


def test_without_a_folder_nothing_is_answered_and_nothing_is_created(tmp_path: Path) -> None:
    landing = Landing(tmp_path / "nowhere")

    assert landing.answered(MODEL, BYTES) == {}
    assert landing.latest_evaluation(MODEL, "gsm8k") is None
    assert not (tmp_path / "nowhere").exists()


def test_a_run_that_learned_nothing_new_lands_no_responses(tmp_path: Path) -> None:
    assert Landing(tmp_path).land_responses(evaluation(), []) is None


def test_a_step_retried_within_one_run_loses_nothing(tmp_path: Path) -> None:
    first, second = requests(2)
    landing = Landing(tmp_path)
    one = landing.land_responses(evaluation(), [(first, answer(first))])
    two = landing.land_responses(evaluation(), [(second, answer(second))])

    assert one != two
    assert set(landing.answered(MODEL, BYTES)) == {first.digest, second.digest}


def test_the_latest_evaluation_is_the_one_recorded_last(tmp_path: Path) -> None:
    landing = Landing(tmp_path)
    newest = evaluation(run_id="a", recorded_at=at(10), is_within_budget=False, n_failed=3)
    for one in (evaluation(run_id="z"), newest, evaluation(benchmark="mmlu", recorded_at=at(20))):
        landing.land_evaluation(one)

    assert landing.latest_evaluation(MODEL, "gsm8k") == newest


def test_samples_are_landed_once_and_later_ones_are_added(tmp_path: Path) -> None:
    landing = Landing(tmp_path)

    assert landing.land_samples("gsm8k", "v1", samples(2)) is not None
    assert landing.land_samples("gsm8k", "v1", samples(2)) is None
    rest = landing.land_samples("gsm8k", "v1", samples(5))

    assert rest is not None
    assert pq.read_table(rest, partitioning=None).column("sample_id").to_pylist() == ["main/2", "main/3", "main/4"]


def test_many_answers_are_streamed_in_row_groups(tmp_path: Path) -> None:
    n = ROWS_PER_GROUP + 10
    drawn = 0

    def stream() -> Iterator[tuple[Request, Response]]:
        nonlocal drawn
        for request in requests(n):
            drawn += 1
            yield request, answer(request)

    path = Landing(tmp_path).land_responses(evaluation(), stream())

    assert path is not None
    assert (drawn, pq.ParquetFile(path).metadata.num_row_groups) == (n, 2)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_an_answer_is_never_filed_under_another_question(tmp_path: Path) -> None:
    one, other = requests(2)

    with pytest.raises(WarehouseError, match="wrong question"):
        Landing(tmp_path).land_responses(evaluation(), [(one, answer(other))])

    assert list(tmp_path.rglob("*.parquet*")) == []


def test_a_writer_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    def stream() -> Iterator[tuple[Request, Response]]:
        for request in requests(3):
            yield request, answer(request)
        raise RuntimeError("the server is gone")

    with pytest.raises(RuntimeError, match="gone"):
        Landing(tmp_path).land_responses(evaluation(), stream())

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_column_nobody_knows_is_named_with_its_file(tmp_path: Path) -> None:
    [request] = requests(1)
    path = Landing(tmp_path).land_responses(evaluation(), [(request, answer(request))])
    assert path is not None
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.append_column("mood", pa.array(["good"])), path)

    with pytest.raises(WarehouseError, match=r"run1\.parquet: unexpected column 'mood'"):
        Landing(tmp_path).answered(MODEL, BYTES)


def test_a_file_from_before_a_nullable_column_existed_reads_as_null(tmp_path: Path) -> None:
    what = land(tmp_path, evaluation())
    path = next((tmp_path / "landing" / "responses").rglob("*.parquet"))
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["ttft_s", "inter_token_s", "reasoning"]), path)
    land(tmp_path, evaluation("tiny@step-200"))

    landing = Landing(tmp_path)
    digests = landing.answered(MODEL, what.fingerprint)
    assert {one.ttft_s for one in landing.responses_for(MODEL, what.fingerprint, digests).values()} == {None}
    publish(tmp_path)
    assert query(tmp_path, "SELECT count(*) AS n, count(ttft_s) AS known FROM responses") == [{"n": 8, "known": 0}]


def test_an_evaluation_from_before_its_cost_was_recorded_reads_as_unknown(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    path = next((tmp_path / "landing" / "evaluations").rglob("*.parquet"))
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["cost", "currency"]), path)
    land(tmp_path, evaluation("tiny@step-200", cost=0.25, currency="EUR"))

    old = Landing(tmp_path).latest_evaluation("tiny@step-100", "gsm8k")
    assert old is not None
    assert (old.cost, old.currency) == (None, None)
    publish(tmp_path)
    told = query(tmp_path, "SELECT model_key, cost, currency FROM serving_performance ORDER BY model_key")
    assert [tuple(row.values()) for row in told] == [("tiny@step-100", None, None), ("tiny@step-200", 0.25, "EUR")]


def test_an_evaluation_from_before_streams_publishes_beside_one_that_was_streamed(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    path = next((tmp_path / "landing" / "evaluations").rglob("*.parquet"))
    new = ["ttft_p50_s", "ttft_p95_s", "inter_token_p50_s", "inter_token_p95_s", "n_truncated"]
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(new), path)
    land(tmp_path, evaluation("tiny@step-200", ttft_p50_s=0.1, inter_token_p95_s=0.02, n_truncated=3))

    old = Landing(tmp_path).latest_evaluation(MODEL, "gsm8k")
    assert old is not None
    assert (old.ttft_p50_s, old.n_truncated) == (None, None)
    assert publish(tmp_path).failing == ()
    rows = query(
        tmp_path,
        "SELECT ttft_p50_s, inter_token_p95_s, n_truncated, n_denied FROM serving_performance "
        "JOIN coverage_and_failures USING (evaluation_id, run_id) ORDER BY 3",
    )
    assert [tuple(row.values()) for row in rows] == [(0.1, 0.02, 3, 0), (None, None, None, 0)]


@pytest.mark.parametrize(
    ("kind", "record", "elsewhere"),
    [
        ("evaluations", Evaluation, set()),
        ("metrics", Metric, set()),
        ("scores", Score, set()),
        ("judgements", Judgement, set()),
        ("samples", Sample, set()),
        ("server_metrics", ServerMetrics, set()),
        ("responses", Response, {"failure"}),
        ("responses", Request, {"messages", "prompt", "continuation", "params"}),
    ],
)
def test_every_field_of_a_record_has_a_column(kind: str, record: type[Record], elsewhere: set[str]) -> None:
    assert set(record.model_fields) - set(SHAPES[kind]) == elsewhere


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a\n", "ü", "a..b"])
def test_a_name_that_is_no_safe_path_is_refused(name: str) -> None:
    with pytest.raises(WarehouseError, match="no usable run id"):
        safe_name("run id", name)


@pytest.mark.slow
def test_four_processes_land_at_once_without_losing_a_row(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from warehouse.builders import evaluation, land
for i in range(10):
    land(Path(sys.argv[1]), evaluation(f"tiny@step-{i}", run_id=f"run-{sys.argv[2]}"), score_run=f"grade-{sys.argv[2]}")
"""
    here = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(n)], env=environment) for n in range(4)
    ]

    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    report = publish(tmp_path)
    assert (report.n_rows["evaluations"], report.n_rows["scores"]) == (40, 160)
    assert report.failing == ()
