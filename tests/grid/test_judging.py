"""Models that judge, the whole way through: exact numbers from judges whose verdicts are known."""

import json
import signal
import time
from typing import Any

import dagster as dg
import duckdb
import pytest
import yaml

from assets.partitions import add_models, cell_keys
from eval_pipelines.definitions import assets_of, resources_of
from eval_pipelines.warehouse.publish import publish
from resources.config import read_config
from tests.grid.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RIGHT, WRONG = "It does.\nCORRECT", "It does not.\n**Incorrect.**"


QUESTIONS = ["Melanie sells what?", "Where is Tom's ship?", "Whose are the Doubtfire kittens?", "What does Janet buy?"]
TASK = {
    "task": "asked",
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{target}}",
    "generation_kwargs": {"until": []},
    # judges alone say how good an answer is
    "metric_list": [{"metric": "bypass", "aggregation": "bypass", "higher_is_better": True}],
}


@pytest.fixture
def judged(project: Project) -> Project:
    """Four questions to mock@a and base@a; judges one@a, two@a and three@a."""
    names = ("base", "one", "two", "three")
    project.content["models"] |= {f"{name}@a": {"deployment": "mock", "served_name": name} for name in names}
    project.content["suites"] = {}
    ask(project, QUESTIONS)
    return project


def ask(project: Project, questions: list[str]) -> None:
    """The benchmark `asked`, of these questions."""
    folder = project.folder / "tasks"
    folder.mkdir(exist_ok=True)
    (folder / "asked.yaml").write_text(yaml.safe_dump(TASK))
    rows = ({"question": one, "target": "it"} for one in questions)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"folder": "tasks", "splits": {"test": "rows.jsonl"}}
    project.content["benchmarks"] = {"asked": {"task": "asked", "include": "tasks", "protocol": "chat", "data": data}}


def judge(project: Project, **fields: Any) -> None:
    project.content["benchmarks"]["asked"]["judge"] = fields
    project.write()


def evaluate(project: Project, model: str = "mock@a") -> tuple[dict[tuple[str, str], dict[str, Any]], list[str]]:
    """Ask, judge and grade in this process; the newest metrics by name and filter, and what failed."""
    config = read_config(project.config)
    with dg.DagsterInstance.ephemeral() as instance:
        add_models(instance, [model])
        done = dg.materialize(
            assets_of(config),
            selection=cell_keys(config, ["asked"]),
            partition_key=model,
            instance=instance,
            resources=resources_of(project.config),
            raise_on_error=False,
        )
    failed = [event.step_failure_data.user_failure_data for event in done.all_events if event.is_step_failure]
    rows: list[dict[str, Any]] = []
    if files := list((project.data / "landing" / "metrics" / f"model={model}").rglob("*.parquet")):
        found = duckdb.sql(
            f"FROM read_parquet({[str(one) for one in files]}, hive_partitioning = false) WHERE subtask = '' "
            "QUALIFY recorded_at = max(recorded_at) OVER ()"
        )
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    return {(row["metric"], row["filter"]): row for row in rows}, [str(one and one.description) for one in failed]


def asked(faulty: Any) -> int:
    """Questions that reached the server; no canaries."""
    stats = faulty.stats()
    return int(stats.get("answered", 0) + stats.get("faults", 0))


def query(project: Project, sql: str) -> list[tuple[Any, ...]]:
    assert publish(project.data).failing == ()
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        return database.execute(sql).fetchall()


def test_three_judges_of_which_one_fails_decide_by_the_majority_of_all(judged, faulty) -> None:
    says = [
        {"Melanie": RIGHT, "Tom's": RIGHT, "Doubtfire": RIGHT, "Janet": RIGHT},
        {"Melanie": RIGHT, "Tom's": RIGHT, "Doubtfire": WRONG, "Janet": WRONG},
        {"Tom's": RIGHT, "Doubtfire": "Who knows?", "Janet": WRONG},
    ]
    by_model: dict[str, Any] = {
        name: {"answers": {f"{part}": text for part, text in said.items()}}
        for name, said in zip(("one", "two", "three"), says, strict=True)
    }
    by_model["three"]["faults"] = [{"kind": "400", "match": "Melanie"}]
    by_model["base"] = {}
    faulty.set(by_model=by_model)
    fields = {"models": ["one@a", "two@a", "three@a"], "template": "correctness", "max_failed_share": 0.5}
    judge(judged, **fields)

    told, errors = evaluate(judged)
    assert errors == []
    found = told["judge_score", "none"]
    # Doubtfire: one says right, one wrong, one nothing
    assert (found["n"], found["n_asked"], found["is_headline"]) == (3, 4, True)
    assert found["value"] == pytest.approx(2 / 3)
    assert (found["bound_low"], found["bound_high"]) == (0.5, 0.75)
    of_each = [told["judge_score", f"{name}@a"] for name in ("one", "two", "three")]
    assert [(one["value"], one["n"]) for one in of_each] == [(1.0, 4), (0.5, 4), (0.5, 2)]
    assert told["judge_agreement", "none"]["value"] == pytest.approx((1 + 1 + 0 + 1 / 3) / 4)
    assert told["judge_unparseable", "none"]["value"] == pytest.approx(1 / 12)
    assert told["judge_alpha", "none"]["n"] == 4
    assert told["judge_kappa", "none"]["n"] == 2
    assert {metric for metric, _ in told} == {
        "judge_score",
        "judge_agreement",
        "judge_alpha",
        "judge_kappa",
        "judge_unparseable",
    }
    assert asked(faulty) == 4 + 12

    said = (
        "SELECT judge, verdict, no_verdict_reason, score FROM sample_judgements WHERE question LIKE '%{}%' ORDER BY ALL"
    )
    assert query(judged, said.format("Doubtfire")) == [
        ("one@a", "CORRECT", None, None),
        ("three@a", None, "judge_unparseable", None),
        ("two@a", "INCORRECT", None, None),
    ]
    assert ("three@a", None, "judge_rejected", 1.0) in query(judged, said.format("Melanie"))
    reasons = "SELECT DISTINCT ungraded_reason FROM sample_scores WHERE metric = 'judge_score' AND filter = 'none'"
    assert {row[0] for row in query(judged, reasons)} == {None, "judge_split"}
    assert query(judged, "SELECT model_key, benchmark, status FROM grid") == [("mock@a", "asked", "scored")]
    assert query(judged, "SELECT count(*) FROM coverage_and_failures WHERE judged_model = 'mock@a'") == [(3,)]

    # other verdicts of the same answers ask nobody; another version of a judge asks anew
    labels = {"CORRECT": 1, "INCORRECT": 0.25}
    judge(judged, **fields, labels=labels)
    faulty.change(by_model={**by_model, "three": {"answers": says[2]}})
    n_before = asked(faulty)
    again = evaluate(judged)[0]["judge_score", "none"]
    # the failed one is asked again, and now has an answer that is none
    assert asked(faulty) == n_before + 1
    assert again["value"] == pytest.approx((1 + 1 + 0.25) / 3)
    judged.content["models"]["one@a"]["deployment"] = "other"
    judged.content["deployments"]["other"] = {**judged.content["deployments"]["mock"], "served_name": "one"}
    judged.content["deployments"]["other"]["base_url"] = faulty.url.replace("127.0.0.1", "localhost")
    judge(judged, **fields, labels=labels)
    third = evaluate(judged)[0]["judge_score", "none"]
    assert asked(faulty) == n_before + 1 + 4
    versions = {one["score_version"] for one in (found, again, third)}
    assert len(versions) == 3
    assert (third["value"], again["value"]) == (pytest.approx(again["value"]), pytest.approx(0.75))


def test_a_judge_that_always_says_a_makes_ties_and_a_win_is_one_in_both_orders(judged, faulty) -> None:
    mine = {"Melanie": "mine", "Tom's": "mine", "Doubtfire": "the same", "Janet": "mine"}
    theirs = {"Melanie": "theirs", "Tom's": "theirs", "Doubtfire": "the same", "Janet": "theirs"}
    by_model = {"mock": {"answers": mine}, "base": {"answers": theirs}, "one": {"answers": {"": "First.\nA"}}}
    faulty.set(by_model=by_model)
    judge(judged, models="one@a", kind="pairwise", template="pairwise", baseline="base@a")

    told, errors = evaluate(judged)
    assert "base@a was not asked asked yet: materialize responses/asked for it first" in errors[0]
    n_before = asked(faulty)
    own = evaluate(judged, "base@a")[0]["win_rate", "none"]
    assert (own["value"], own["n"]) == (0.5, 4)
    assert asked(faulty) == n_before + 4, "nobody is asked to tell an answer from itself"

    told, errors = evaluate(judged)
    assert errors == []
    assert asked(faulty) == n_before + 4 + 2 * 3, "the same answer is a tie"
    found = told["win_rate", "none"]
    assert (found["value"], found["stderr"], found["n"]) == (0.5, 0.0, 4)
    consistency = told["position_consistency", "none"]
    assert (consistency["value"], consistency["n"], consistency["n_asked"]) == (0.0, 3, 3)
    notes = "SELECT note FROM sample_scores WHERE model_key = 'mock@a' AND metric = 'win_rate' ORDER BY ALL"
    assert [row[0] for row in query(judged, notes)] == ["position_inconsistent: 1 of 1"] * 3 + [None]

    # now one that looks at the answers of one question
    by_model["one"]["answers"] = {"Answer A:\nmine": "A", "Answer A:\ntheirs": "B"}
    faulty.set(by_model=by_model)
    judge(judged, models="one@a", kind="pairwise", template="pairwise", baseline="base@a", generation={"seed": 2})
    found, _ = evaluate(judged)
    assert found["win_rate", "none"]["value"] == (3 + 0.5) / 4
    assert found["position_consistency", "none"]["value"] == 1.0


def test_a_judge_that_fails_too_often_fails_its_cell_after_landing_and_never_scores_zero(judged, faulty) -> None:
    faulty.set(by_model={"one": {"answers": {"": RIGHT}, "faults": [{"kind": "400", "match": "Melanie"}]}})
    judge(judged, models="one@a", template="correctness", max_failed_share=0.2)
    told, errors = evaluate(judged)
    assert "one@a on asked+judging: 1 of 4 requests failed (rejected 1); max_failed_share allows 20.0%" in errors[0]
    assert query(judged, "SELECT count(*) FROM scores") == [(0,)]
    assert query(judged, "SELECT n_answered FROM evaluations WHERE judged_model IS NOT NULL") == [(3,)]
    # what was judged is not asked again
    judge(judged, models="one@a", template="correctness", max_failed_share=0.25)
    n_before = asked(faulty)
    told, errors = evaluate(judged)
    assert asked(faulty) == n_before + 1
    found = told["judge_score", "none"]
    assert (found["value"], found["n"], found["bound_low"]) == (1.0, 3, 0.75)


def test_after_kill_9_while_judging_nobody_is_asked_what_was_answered(judged, faulty) -> None:
    ask(judged, [f"What is {i}?" for i in range(60)])
    judge(judged, models="one@a", template="correctness")
    faulty.set(by_model={"one": {"answers": {"": RIGHT}}}, latency_s=0.3)
    with judged.start("evaluate", "--model", "mock@a", "--benchmark", "asked") as run:
        deadline = time.monotonic() + 90
        while faulty.stats().get("answered", 0) < 85:
            assert time.monotonic() < deadline, "it did not come to that in time"
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
        run.communicate()
    assert faulty.stats()["answered"] < 120, "the run was killed while it judged"
    faulty.change(latency_s=0.0)
    found = judged.evaluate("asked")["metrics"]["asked", "judge_score", "none"]
    assert (found["value"], found["n"]) == (1.0, 60)
    # what was on the wire at the kill may have been answered to nobody
    assert faulty.stats().get("asked_again_though_answered", 0) <= 16


def test_a_model_judges_itself_only_if_that_is_said(judged, faulty) -> None:
    faulty.set(by_model={"one": {"answers": {"": RIGHT}}})
    judge(judged, models="one@a", template="correctness")
    _, errors = evaluate(judged, "one@a")
    assert "one@a would judge its own answers" in errors[0]
    judge(judged, models="one@a", template="correctness", self_judging=True)
    assert evaluate(judged, "one@a")[0]["judge_score", "none"]["value"] == 1.0


def test_a_real_model_judges_on_the_one_gpu_the_judged_model_was_on_and_what_it_mumbles_is_no_verdict(
    judged, small_model, request
) -> None:
    judged.content["machine"] = {"gpus": 1}  # the embedded server needs none: it only takes its turn
    judged.content["deployments"] = {"embedded": {"backend": "embedded", "keep_warm_s": 600, "gpus": 1}}
    judged.content["models"] = {
        key: {"deployment": "embedded", "weights": str(small_model)} for key in ("smol@a", "judge@a")
    }
    judged.content["benchmarks"]["asked"] |= {"limit": 3, "generation": {"max_tokens": 16}}
    # its very bytes under another key
    fields = {"models": "judge@a", "template": "correctness", "generation": {"max_tokens": 24}}
    judge(judged, **fields)
    request.addfinalizer(lambda: judged.run("serving", "stop"))
    assert "smol@a would judge its own answers" in evaluate(judged, "smol@a")[1][0]
    judge(judged, **fields, self_judging=True)
    told, errors = evaluate(judged, "smol@a")
    assert errors == []
    rows = query(judged, "SELECT verdict, no_verdict_reason, text, score FROM sample_judgements")
    assert len(rows) == 3
    for verdict, reason, text, score in rows:
        is_bare = text.strip().splitlines()[-1].strip(" *.").upper() in ("CORRECT", "INCORRECT")
        assert (verdict is not None, reason, score is not None) == (
            is_bare,
            None if is_bare else "judge_unparseable",
            is_bare,
        )
    found, mumbled = told["judge_score", "none"], told["judge_unparseable", "none"]
    assert (found["n_asked"], found["n"] / 3) == (3, pytest.approx(1 - mumbled["value"]))
