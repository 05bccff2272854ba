"""A scorer is mended: the answers are graded anew, nobody is asked, and what was graded before stays."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

pytestmark = pytest.mark.slow

N = 6
SCORER = """from own_words import says


def process(doc, results):
    text = results[0]
    return {"right": float(says(text, doc["answer"])), "extracted": text[-20:], "is_unparseable": "is" not in text}
"""
EXACT = "def says(text, answer):\n    return text == answer\n"
WITHIN = "def says(text, answer):\n    return answer in text\n"


@pytest.fixture
def folder(project, tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    task = {
        "task": "capitals", "dataset_path": "none", "test_split": "test", "output_type": "generate_until",
        "doc_to_text": "Capital of {{country}}?", "doc_to_target": "{{answer}}", "process_results": "own.process",
        "generation_kwargs": {"until": ["\n"]},
        "metric_list": [{"metric": "right", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    (folder / "capitals.yaml").write_text(yaml.safe_dump(task).replace("own.process", "!function own.process"))
    (folder / "own.py").write_text(SCORER)
    lines = [json.dumps({"country": f"land {i}", "answer": f"City {i}", "page": f"p{i // 2}"}) + "\n" for i in range(N)]
    (folder / "rows.jsonl").write_text("".join(lines))
    source = {"folder": str(folder), "splits": {"test": "rows.jsonl"}}
    project.content["benchmarks"] = {
        "capitals": {"task": "capitals", "include": str(folder), "data": source, "cluster": "page"}
    }
    project.content["suites"] = {"all": ["capitals"]}
    project.env["PYTHONPATH"] = f"{folder}:{Path(__file__).parents[2]}"  # where the scorer's own import is found
    project.write()
    return folder


def rows(project: Any, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(project.data / "scores.duckdb"), read_only=True) as database:
        return database.execute(sql).fetchall()


def test_a_mended_scorer_asks_nobody_and_keeps_the_old_rows(project, faulty, folder) -> None:
    faulty.set(answers={f"land {i}?": f"It is City {i}." for i in range(1, N)} | {"land 0?": "City 0"})
    values = []
    for code in (EXACT, WITHIN):
        (folder / "own_words.py").write_text(code)
        told = project.evaluate("all")
        assert told["returncode"] == 0, told["stderr"]
        values.append(told["metrics"]["capitals", "right", "none"]["value"])
    assert values == [1 / N, 1.0]
    assert faulty.stats()["answered"] == N

    found = rows(project, "SELECT ask_version, score_version, value, ci_method, n_clusters FROM metrics "
                          "WHERE metric = 'right' ORDER BY recorded_at")  # fmt: skip
    assert [(one[2:]) for one in found] == [(1 / N, "clustered", 3), (1.0, "clustered", 3)]
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]
    assert rows(project, "SELECT count(DISTINCT evaluation_id) FROM evaluations") == [(1,)]
    kept = rows(project, "SELECT score_version, count(*), sum(value), count(*) FILTER (is_unparseable), "
                         "count(*) FILTER (NOT is_refused), min(extracted) FROM scores GROUP BY 1")  # fmt: skip
    assert {one[0] for one in kept} == {found[0][1], found[1][1]}
    assert sorted(one[1:] for one in kept) == [(N, 1.0, 1, N, "City 0"), (N, 6.0, 1, N, "City 0")]
    assert rows(project, "SELECT value FROM latest_metrics WHERE metric = 'unparseable_share'") == [(1 / N,)]
    assert rows(project, "SELECT count(DISTINCT cluster) FROM samples") == [(3,)]
