"""A streamed evaluation, the whole way: the same numbers, and how long the first token took."""

import duckdb
import pytest

pytestmark = pytest.mark.slow
PERCENTILES = "ttft_p50_s, ttft_p95_s, inter_token_p50_s, inter_token_p95_s"


def test_streamed_answers_score_as_others_do_are_timed_and_are_not_asked_again(project, faulty) -> None:
    project.content["deployments"]["mock"]["stream"] = True
    project.write()
    faulty.set(model="mock", answers={"": "So it is: #### 18"})
    streamed = project.evaluate("both", limit=20)
    assert streamed["returncode"] == 0, streamed["stderr"]
    n_asked = faulty.stats()["answered"]
    project.content["deployments"]["mock"]["stream"] = False
    project.write()
    plain = project.evaluate("both", limit=20)
    assert faulty.stats()["answered"] == n_asked, "how it was asked is no part of the question"
    scores = [{key: one["value"] for key, one in told["metrics"].items()} for told in (streamed, plain)]
    assert scores[0] == scores[1]
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        rows = database.execute(
            f"SELECT benchmark, {PERCENTILES} FROM serving_performance WHERE n_reused = 0 ORDER BY benchmark"
        ).fetchall()
        timed = database.execute(
            "SELECT operation, bool_and(ttft_s < latency_s), count(inter_token_s) FROM responses GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert [row[0] for row in rows] == ["gsm8k", "hellaswag"]
    assert None not in rows[0]
    assert set(rows[1][1:]) == {None}, "log-likelihoods are not streamed"
    assert timed == [("chat", True, 20), ("loglikelihood", None, 0)]


def test_a_key_that_is_no_longer_valid_ends_the_asking_and_says_what_to_check(project, faulty) -> None:
    project.content["benchmarks"]["gsm8k"]["max_failed_share"] = 0.5
    project.write()
    faulty.set(model="mock", faults=[{"kind": "401", "message": "this key was revoked"}])
    told = project.evaluate("gsm8k")
    assert told["returncode"] == 1
    assert "this key was revoked" in told["stderr"]
    assert "Check the key" in told["stderr"]
    assert faulty.stats()["requests"] < 40, "of 100 questions"
