"""Policies and evaluations for the tests of gates."""

from typing import Any

import numpy as np

from eval_pipelines.config import Gate
from eval_pipelines.scoring.gate_records import Evidence, GateVerdict, Lacking
from eval_pipelines.scoring.gates import judge

NEW, OLD = "smol@step-200", "smol@step-100"


def gate(benchmarks: dict[str, dict[str, Any]] | None = None, **fields: Any) -> Gate:
    return Gate.model_validate({"benchmarks": benchmarks or {"gsm8k": {"max_drop": 0.02}}, **fields})


def evidence(values: Any, model: str = NEW, benchmark: str = "gsm8k", **fields: Any) -> Evidence:
    verdicts = {f"q/{i:05}": float(value) for i, value in enumerate(values)}
    told = {
        "model_key": model,
        "benchmark": benchmark,
        "metric": "exact_match",
        "filter": "none",
        "higher_is_better": True,
        "versions": {"asked as": "1.0-aa", "graded as": "1-bb"},
        "n_asked": len(verdicts),
        "verdicts": verdicts,
    }
    return Evidence(**{**told, **fields})


def pair(n: int, lost: int, won: int, *, right: float = 0.5, benchmark: str = "gsm8k") -> tuple[Evidence, Evidence]:
    """The model's and the baseline's: of n questions `lost` only the baseline gets right, `won` only the model."""
    common = np.arange(n - lost - won) < right * n - lost
    old = np.concatenate([np.ones(lost), np.zeros(won), common])
    new = np.concatenate([np.zeros(lost), np.ones(won), common])
    return evidence(new, NEW, benchmark), evidence(old, OLD, benchmark)


def judged(policy: Gate, **pairs: tuple[Evidence | Lacking, Evidence | Lacking]) -> GateVerdict:
    return judge(
        "release",
        policy,
        NEW,
        {name: one for name, (one, _) in pairs.items()},
        {name: one for name, (_, one) in pairs.items()},
    )
