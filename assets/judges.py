"""What judges are asked about one model's answers, and what they said: from what is landed."""

import json
from collections.abc import Collection
from typing import TYPE_CHECKING

from assets.answered import Answered, read_answers
from eval_pipelines.config import JudgeSpec
from eval_pipelines.errors import ConfigError, NothingAskedError
from eval_pipelines.keys import cell_name
from resources.benchmarks import BenchmarksResource
from resources.warehouse import WarehouseResource

if TYPE_CHECKING:
    from eval_pipelines.benchmarks.judge_scores import Judge
    from eval_pipelines.benchmarks.judged import Judging


def judging_of(
    answered: Answered, judge: JudgeSpec, benchmarks: BenchmarksResource, warehouse: WarehouseResource
) -> "Judging":
    """What each judge is asked. Raises NothingAskedError where the baseline was not asked; UnsupportedError."""
    from eval_pipelines.benchmarks.judged import Judging, answers_of, texts_of

    evaluation, baseline, others = answered.evaluation, None, None
    if judge.baseline is not None:
        other = read_answers(evaluation.benchmark, judge.baseline, benchmarks, warehouse)
        baseline, others = other.evaluation, texts_of(other.benchmark, other.chain, other.responses)
    answers = answers_of(answered.benchmark, answered.chain, answered.responses, others)
    return Judging(answered.benchmark.spec, judge, answers, evaluation, baseline)


def check_not_itself(judge: JudgeSpec, judged: Answered, fingerprints: Collection[str], *, benchmark: str) -> None:
    """Raises ConfigError where a model would judge its own answers without being told to."""
    one = judged.evaluation
    if judge.self_judging or (one.model_key not in judge.models and one.fingerprint not in fingerprints):
        return
    raise ConfigError(
        f"benchmarks.{benchmark}.judge: {one.model_key} would judge its own answers, which models favour. "
        f"Take another judge, or set `self_judging: true` if that is what you want to measure."
    )


def read_judges(
    judging: "Judging", judge: JudgeSpec, benchmarks: BenchmarksResource, warehouse: WarehouseResource
) -> "list[Judge]":
    """What each judge said of these answers when it was last asked. Raises NothingAskedError."""
    from eval_pipelines.benchmarks.judge_scores import Judge
    from eval_pipelines.evaluation_record import asked_as

    landing, found = warehouse.landing, []
    for key in judge.models:
        evaluation = landing.latest_evaluation(key, cell_name(judging.name, judging.judged_model))
        chain = benchmarks.judge_chain(key)
        around = asked_as(chain.of_model)
        if (
            evaluation is None
            or evaluation.ask_version != judging.ask_version
            or json.loads(evaluation.parameters).get("asked_as", []) != around
        ):
            name = judging.name.partition("+")[0]
            raise NothingAskedError(
                f"{key} has not judged what {judging.judged_model} answered to {name}, as evals.yaml has it now: "
                f"materialize judgements/{name} for {judging.judged_model} first"
            )
        seen = judging.seen_through(chain)
        digests = {request.digest for request in seen.requests()}
        responses = landing.responses_for(key, evaluation.fingerprint, digests, of=evaluation)
        found.append(Judge(evaluation, seen, seen.read(responses), [*around, *chain.graded_as]))
    return found
