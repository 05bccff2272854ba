"""What an outage does to a number: it lowers coverage, it never becomes a zero."""

import duckdb
import pytest

pytestmark = pytest.mark.slow


def test_one_request_in_ten_refused_lowers_coverage_and_bounds_the_score(project, faulty) -> None:
    project.content["benchmarks"]["gsm8k"] |= {"max_failed_share": 0.3, "max_attempts": 1}
    project.write()
    faulty.set(model="mock", faults=[{"kind": "503", "share": 0.1}], answers={"": "#### 18"})
    found = project.evaluate("gsm8k")["metrics"]["gsm8k", "exact_match", "strict-match"]
    stats = faulty.stats()
    assert stats["faults"] > 0
    assert found["n_asked"] == 100
    assert found["n"] == 100 - stats["faults"] == stats["answered"]
    assert found["coverage"] == found["n"] / 100
    n_right = round(found["value"] * found["n"])
    assert found["bound_low"] == pytest.approx(n_right / 100)
    assert found["bound_high"] == pytest.approx((n_right + stats["faults"]) / 100)


def test_no_zero_in_the_tables_was_an_outage(project, faulty) -> None:
    project.content["benchmarks"]["gsm8k"] |= {"max_failed_share": 0.3, "max_attempts": 1}
    project.write()
    faulty.set(model="mock", faults=[{"kind": "null", "share": 0.1}])
    project.evaluate("gsm8k")
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        rows = database.execute(
            "SELECT answer IS NULL, value IS NULL, ungraded_reason, count(*) FROM sample_scores GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    n_faults = faulty.stats()["faults"]
    assert rows == [(False, False, None, 2 * (100 - n_faults)), (True, True, "empty", 2 * n_faults)]


def test_refusals_that_pass_are_retried_until_every_question_is_answered(project, faulty) -> None:
    faulty.set(model="mock", faults=[{"kind": "503", "share": 0.1, "first": 1}])
    found = project.evaluate("gsm8k")["metrics"]["gsm8k", "exact_match", "strict-match"]
    assert found["coverage"] == 1.0
    assert faulty.stats()["faults"] > 0


def test_a_cell_over_its_budget_fails_but_keeps_every_answer_it_got(project, faulty) -> None:
    project.content["benchmarks"]["gsm8k"] |= {"max_failed_share": 0.05, "max_attempts": 1}
    project.write()
    faulty.set(model="mock", faults=[{"kind": "503", "share": 0.3}])
    told = project.evaluate("gsm8k")
    assert told["returncode"] == 1
    assert "max_failed_share allows 5.0%" in told["stderr"]
    assert "overloaded" in told["stderr"]
    n_answered = faulty.stats()["answered"]
    faulty.change(faults=[])
    healed = project.evaluate("gsm8k")
    assert healed["metrics"]["gsm8k", "exact_match", "strict-match"]["coverage"] == 1.0
    assert faulty.stats()["answered"] == 100, f"{n_answered} answers were landed and are not asked again"
    assert "asked_again_though_answered" not in faulty.stats()


def test_one_failing_benchmark_does_not_cost_the_other_its_score(project, faulty) -> None:
    project.content["benchmarks"]["gsm8k"]["max_attempts"] = 1
    project.write()
    faulty.set(model="mock", faults=[{"kind": "400", "match": "Question:"}])
    told = project.evaluate("both")
    assert told["returncode"] == 1
    assert ("hellaswag", "acc_norm", "none") in told["metrics"]
    assert ("gsm8k", "exact_match", "strict-match") not in told["metrics"]
