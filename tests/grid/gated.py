"""A record with checkpoints and gates over it, without any model."""

from contextlib import closing
from datetime import datetime
from typing import Any

from eval_pipelines.analysis.gating import gates_due, judge_model
from eval_pipelines.config import Config
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.read import open_published
from tests.warehouse.builders import at, evaluation, land

N = 200
GOOD, FAIR, BAD = ([1.0] * (N - wrong) + [0.0] * wrong for wrong in (20, 24, 120))


def put(
    config: Config, model: str, values: list[float], benchmark: str = "gsm8k", *, minute: float = 0, **fields: Any
) -> None:
    """Land what `model` got on `benchmark`."""
    asked = evaluation(model, benchmark, recorded_at=at(minute), n_samples=N, **fields)
    land(config.data_root, asked, values, pairs=())


def land_verdicts(config: Config, models: list[str], run_id: str, recorded_at: datetime) -> None:
    """Judge what is due, as the assets would."""
    with closing(open_published(config.data_root)) as connection:
        for one in gates_due(connection, config.gates, models, now=at(60)):
            verdict = judge_model(connection, one.gate, config.gate(one.gate), one.model_key)
            assert verdict.evidence == one.evidence
            rows = verdict.rows(run_id=run_id, recorded_at=recorded_at)
            Landing(config.data_root).land_gate_verdict(one.gate, one.model_key, run_id, rows)
