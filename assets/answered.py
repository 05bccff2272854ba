"""What a model answered to a benchmark, as it was landed: what is graded, and what judges are shown."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval_pipelines.errors import NothingAskedError
from eval_pipelines.records import Evaluation, Response
from resources.benchmarks import BenchmarksResource
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from eval_pipelines.benchmarks.harness import Benchmark
    from eval_pipelines.client.chain import Chain


@dataclass(frozen=True, slots=True)
class Answered:
    """One cell, asked.

    Attributes:
        limit: Samples per subtask that were asked; None for all.
        responses: By request digest; what was not asked is missing.
    """

    evaluation: Evaluation
    benchmark: "Benchmark"
    chain: "Chain"
    limit: int | None
    responses: dict[str, Response]


def read_answers(name: str, key: str, benchmarks: BenchmarksResource, warehouse: WarehouseResource) -> Answered:
    """What the newest try at this cell came to. Raises NothingAskedError, saying what to materialize first."""
    from eval_pipelines.evaluation_record import asked_as
    from eval_pipelines.stopping import asked_part

    landing = warehouse.landing
    evaluation = landing.latest_evaluation(key, name)
    if evaluation is None:
        raise NothingAskedError(f"{key} was not asked {name} yet: materialize responses/{name} for it first")
    parameters = json.loads(evaluation.parameters)
    benchmark = benchmarks.load(name, limit=parameters["limit"], model=key)
    chain = benchmarks.chain(name, key)
    _check_asked_so(evaluation, benchmark, asked_as(chain.of_model), parameters)
    benchmark = asked_part(benchmark, parameters)
    digests = {request.digest for request in benchmark.requests()}
    responses = landing.responses_for(key, evaluation.fingerprint, digests, of=evaluation)
    return Answered(evaluation, benchmark, chain, parameters["limit"], responses)


def _check_asked_so(
    evaluation: Evaluation, benchmark: "Benchmark", asked_as: list[dict[str, Any]], parameters: dict[str, Any]
) -> None:
    """Raises NothingAskedError where the answers that are landed were asked for otherwise than they would be now."""
    name, key = evaluation.benchmark, evaluation.model_key
    if benchmark.ask_version != evaluation.ask_version:
        raise NothingAskedError(
            f"{name} asks version {benchmark.ask_version} now, and {key} answered {evaluation.ask_version}: "
            f"materialize responses/{name} for it first"
        )
    if asked_as != parameters.get("asked_as", []):
        raise NothingAskedError(
            f"{key} was asked {name} with other interceptors than evals.yaml lists for it now: materialize "
            f"responses/{name} for it first"
        )
    n_now, n_asked = benchmark.spec.repeats or 1, parameters.get("repeats") or 1
    if n_now > n_asked:
        raise NothingAskedError(
            f"{name} asks each question {n_now} times now, and {key} was asked {n_asked} times: "
            f"materialize responses/{name} for it first; only the further repeats are asked"
        )
