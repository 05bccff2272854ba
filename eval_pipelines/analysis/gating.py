"""A gate's verdict on a model, from the published record, and which verdicts are due."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from eval_pipelines.analysis.gate_board import Board, Cell
from eval_pipelines.config import Gate
from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.scoring.gate_records import JUDGING_VERSION, GateVerdict, Lacking
from eval_pipelines.scoring.gates import judge
from eval_pipelines.warehouse.read import fetch

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
# a checkpoint of which only some benchmarks have a number is judged once nothing new came for so long
SETTLED_AFTER: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and what it rests on.

    Attributes:
        evidence: Changes with every evaluation, grading and policy that the verdict rests on.
    """

    verdict: GateVerdict
    gate: Gate
    evidence: str

    def rows(self, *, run_id: str, recorded_at: datetime) -> list[Row]:
        """As rows of the landed kind `gate_verdicts`: the whole first, then each benchmark."""
        key = ModelKey.parse(self.verdict.model_key)
        common = {
            "gate": self.verdict.gate,
            "run_id": run_id,
            "model_key": str(key),
            "family": key.family,
            "revision": key.revision,
            "step": key.step,
            "significance": self.gate.significance,
            "policy": self.gate.model_dump_json(exclude_none=True),
            "evidence": self.evidence,
            "judging_version": JUDGING_VERSION,
            "recorded_at": recorded_at,
        }
        whole = {"benchmark": "", "verdict": self.verdict.decision, "reason": "; ".join(self.verdict.reasons)}
        parts = [
            {
                "benchmark": one.benchmark,
                "verdict": one.status,
                "reason": "; ".join(one.reasons),
                "tier": one.policy.tier,
                "is_required": one.policy.required,
                **{name: getattr(one, name) for name in _NUMBERS},
            }
            for one in self.verdict.benchmarks
        ]
        return [{**common, **part} for part in (whole, *parts)]


_NUMBERS: Final = (
    "baseline", "metric", "filter", "n", "value", "baseline_value", "difference", "ci_low", "ci_high", "min_detectable",
    "p_breach", "p_within",
)  # fmt: skip


def judge_model(
    connection: "duckdb.DuckDBPyConnection", name: str, gate: Gate, model_key: str, *, baseline: str | None = None
) -> Judged:
    """What the gate `name` says of a model now.

    Args:
        baseline: A model key instead of the gate's own baseline.

    Raises:
        ConfigError: the gate does not judge this family.
    """
    family = ModelKey.parse(model_key).family
    if not gate.applies_to(family):
        raise ConfigError(f"gate {name!r} judges {', '.join(gate.families)}, not {family}: add it to its `families`")
    if baseline is not None:
        gate = replace_baseline(gate, baseline)
    board = Board(connection, gate)
    chosen = board.chosen(model_key)
    of_model = {one: board.load(*pair) for one, pair in chosen.items()}
    of_baseline = {one: board.load(*reversed(pair)) for one, pair in chosen.items()}
    return Judged(judge(name, gate, model_key, of_model, of_baseline), gate, board.evidence(chosen))


def replace_baseline(gate: Gate, baseline: str) -> Gate:
    """The gate with another baseline. Raises ModelKeyError."""
    ModelKey.parse(baseline)
    return gate.model_copy(update={"baseline": baseline})


@dataclass(frozen=True, slots=True)
class Due:
    """A verdict that is not recorded yet."""

    gate: str
    model_key: str
    evidence: str


def gates_due(
    connection: "duckdb.DuckDBPyConnection", gates: Mapping[str, Gate], models: Iterable[str], *, now: datetime
) -> list[Due]:
    """What gates would say of models on other evidence, or by newer rules, than their newest recorded verdict.

    In the order of training. What newer rules said stands, so that of two versions of this project that keep one record
    each does not judge again what the other one said.
    A model of which a required benchmark has no number is left until nothing new came for `SETTLED_AFTER`.
    """
    # by .get, because what was published before an upgrade may lack the column, and a null is from before that
    current = {
        (row["gate"], row["model_key"]): row["evidence"]
        for row in fetch(connection, "FROM gates WHERE benchmark = ''")
        if (row.get("judging_version") or 0) >= JUDGING_VERSION
    }
    known = set(models)
    due: list[Due] = []
    for name, gate in gates.items():
        board = Board(connection, gate)
        for model_key, checkpoint in sorted(
            board.checkpoints.items(), key=lambda one: (one[1]["family"], one[1]["place"])
        ):
            if model_key not in known or not gate.applies_to(checkpoint["family"]):
                continue
            chosen = board.chosen(model_key)
            if _is_settled(gate, chosen, now) and current.get((name, model_key)) != (found := board.evidence(chosen)):
                due.append(Due(name, model_key, found))
    return due


def _is_settled(gate: Gate, chosen: Mapping[str, tuple[Cell | Lacking, Cell | Lacking]], now: datetime) -> bool:
    own = {name: pair[0] for name, pair in chosen.items()}
    graded_at = [one.row["recorded_at"] for one in own.values() if isinstance(one, Cell)]
    if not graded_at:
        return False
    if all(isinstance(own[name], Cell) for name in own if gate.policy(name).required):
        return True
    return bool(now - max(graded_at) > SETTLED_AFTER)
