"""The fourth asset of a benchmark with judges: where it stands, and who asks for it."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from eval_pipelines.definitions import build
from sensors.checkpoints import checkpoint_sensor
from sensors.models import declared_models_sensor
from sensors.retries import retry_sensor
from tests.grid.watched import Watched, drop

JUDGEMENTS, RESPONSES, SCORES = (dg.AssetKey([kind, "gsm8k"]) for kind in ("judgements", "responses", "scores"))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with dg.DagsterInstance.ephemeral() as instance:
        found = Watched(tmp_path, instance)
        found.content["models"] = {"judge@a": {"deployment": "one"}}
        found.content["benchmarks"]["gsm8k"]["judge"] = {"models": "judge@a", "template": "correctness"}
        found.write()
        yield found


def test_only_a_benchmark_with_judges_has_judgements_between_answers_and_scores(watched) -> None:
    graph = build(watched.folder / "evals.yaml").resolve_asset_graph()
    assert [key for key in graph.get_all_asset_keys() if key.path[0] == "judgements"] == [JUDGEMENTS]
    assert graph.get(JUDGEMENTS).parent_keys == {RESPONSES}
    assert graph.get(SCORES).parent_keys == {RESPONSES, JUDGEMENTS}
    assert graph.get(dg.AssetKey(["scores", "mmlu"])).parent_keys == {dg.AssetKey(["responses", "mmlu"])}


def test_a_checkpoint_is_judged_in_the_run_that_asks_it(watched) -> None:
    drop(watched.root / "step-100")
    (request,) = watched.requested()
    assert {key.to_user_string() for key in request.asset_selection} == {
        *("responses/gsm8k", "judgements/gsm8k", "scores/gsm8k", "responses/hellaswag", "scores/hellaswag")
    }
    everything = build(watched.folder / "evals.yaml").resolve_asset_graph()
    for sensor in (checkpoint_sensor, retry_sensor, declared_models_sensor):
        (target,) = sensor.targets
        assert JUDGEMENTS in target.resolvable_to_job.selection.resolve(everything)


def test_all_is_answered_before_anything_is_judged(watched) -> None:
    """On one GPU each change between judge and judged costs the start of a server."""
    watched.content["benchmarks"]["hellaswag"]["judge"] = {"models": "judge@a", "template": "correctness"}
    watched.write()
    keys = [
        dg.AssetKey([kind, name]) for name in ("gsm8k", "hellaswag") for kind in ("responses", "judgements", "scores")
    ]
    job = (
        build(watched.folder / "evals.yaml").resolve_implicit_global_asset_job_def().get_subset(asset_selection={*keys})
    )
    priority = {node.name: int(node.tags.get("dagster/priority", 0)) for node in job.graph.nodes}
    responses = {priority[f"responses__{name}"] for name in ("gsm8k", "hellaswag")}
    rest = {value for name, value in priority.items() if not name.startswith("responses")}
    assert min(responses) > max(rest)
