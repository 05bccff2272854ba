"""A small record, made up but shaped like a real one: landed through the real Landing, published by the real publish.

`atlas` over six steps of training, worse at 2500 on gsm8k; `borealis`, hosted, whose server failed now and then and who
was never asked arc; a seventh step that nothing was asked yet; one model with a long name and a hostile answer. gsm8k
is generated, arc log-likelihoods over four choices, wiki a perplexity (lower is better). Sixty questions each, every
draw seeded: the same numbers each time.
"""

import json
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from eval_pipelines.keys import ModelKey, digest
from eval_pipelines.records import Evaluation, Failure, FailureKind, Metric, Request, Response, Sample, Score
from eval_pipelines.scoring.aggregate import Verdicts, metric_of
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import PublishReport, publish

N: Final = 60
START: Final = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
STEPS: Final = (500, 1000, 1500, 2000, 2500, 3000)
UNASKED: Final = "atlas-1b@step-03500"
BOREALIS: Final = "borealis-8b@hosted"
LONG: Final = "a-model-whose-family-name-goes-on-and-on-7b-instruct-v0.3@checkpoint-000123456"
HOSTILE: Final = (
    "</td></table><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "```\n# `x` | **bold** [link](javascript:alert(1)) \u202edesrever\u202c \x1b[31mred\x1b[0m #### 18"
)
# model → benchmark → how often it is right
ABILITIES: Final[dict[str, dict[str, float]]] = {
    **{
        f"atlas-1b@step-{step:05}": {"gsm8k": gsm8k, "arc": arc}
        for step, gsm8k, arc in zip(
            STEPS, (0.10, 0.28, 0.42, 0.55, 0.22, 0.62), (0.3, 0.38, 0.45, 0.52, 0.56, 0.58), strict=True
        )
    },
    BOREALIS: {"gsm8k": 0.7},
    LONG: {"gsm8k": 0.35, "arc": 0.5},
}
WIKI: Final = {f"atlas-1b@step-{step:05}": 40.0 - 9 * math.log(step / 400) for step in STEPS[2:]}


def publish_record(root: Path) -> PublishReport:
    """Land all of it below `root` and publish. Some 2 s."""
    landing = Landing(root)
    for position, (model, benchmarks) in enumerate(ABILITIES.items()):
        for benchmark, ability in benchmarks.items():
            _land_cell(landing, model, benchmark, ability, START + timedelta(hours=6 * position))
    for position, (model, perplexity) in enumerate(WIKI.items()):
        _land_perplexity(landing, model, perplexity, START + timedelta(hours=6 * position + 1))
    watched = [*(f"atlas-1b@step-{step:05}" for step in STEPS), UNASKED]
    wanted = [("", ""), *((model, name) for model in (*watched, "") for name in ("gsm8k", "arc", ""))]
    landing.land_configured("here:/srv/evals.yaml", dict.fromkeys(wanted, True), START)
    return publish(root)


def evaluation(
    model: str, benchmark: str, at: datetime, *, n: int = N, n_requests: int = N, **fields: object
) -> Evaluation:
    """One try with everything filled in."""
    key = ModelKey.parse(model)
    values: dict[str, object] = {
        "evaluation_id": digest([model, benchmark], n_bytes=6), "run_id": digest([model, str(at)], n_bytes=4),
        "model_key": model, "family": key.family, "revision": key.revision, "step": key.step,
        "fingerprint": digest(["bytes", model], n_bytes=8), "benchmark": benchmark, "ask_version": "1.0-5f2c",
        "parameters": '{"limit": 60}', "endpoint": "http://127.0.0.1:8000/v1", "backend": "vllm",
        "server_version": "0.32.0", "n_samples": n, "n_requests": n_requests, "n_answered": n_requests, "n_reused": 0,
        "n_failed": 0, "failures": "{}", "is_within_budget": True, "prompt_tokens": 90 * n_requests,
        "completion_tokens": 120 * n_requests, "wall_s": 42.0, "latency_p50_s": 1.2, "latency_p95_s": 3.4,
        "latency_p99_s": 5.0, "asked_by": "ada on the command line", "project_version": "0.1.0", "recorded_at": at,
    }  # fmt: skip
    return Evaluation.model_validate(values | fields)


def _land_cell(landing: Landing, model: str, benchmark: str, ability: float, at: datetime) -> None:
    samples = list(_samples(benchmark))
    landing.land_samples(benchmark, "1.0-5f2c", samples)
    # a question is as hard for every model; what differs is the model, and a little luck
    hard = [random.Random(f"{benchmark}{i}").random() for i in range(N)]
    luck = random.Random(f"{model}{benchmark}")
    right = [ability + luck.gauss(0, 0.18) > hard[i] for i in range(N)]
    failed = {i for i in range(N) if model == BOREALIS and luck.random() < 0.12}
    make = _choices if benchmark == "arc" else _generated
    pairs = [pair for i, sample in enumerate(samples) for pair in make(model, sample, i, right[i], i in failed, at)]
    n_failed = len(failed)
    what = evaluation(
        model, benchmark, at, n_requests=len(pairs), n_answered=len(pairs) - n_failed, n_failed=n_failed,
        failures=json.dumps({kind: n for kind, n in _kinds(failed).items() if n}),
    )  # fmt: skip
    landing.land_responses(what, pairs)
    landing.land_evaluation(what)
    name, taken = ("acc", "none") if benchmark == "arc" else ("exact_match", "flexible-extract")
    scores = [
        Score(sample_id=sample.sample_id, subtask=sample.subtask, metric=name, filter=taken, value=None,
              ungraded_reason="its request failed: timeout" if i % 2 else "its request failed: overloaded")
        if i in failed
        else Score(sample_id=sample.sample_id, subtask=sample.subtask, metric=name, filter=taken,
                   value=float(right[i]), extracted=None if benchmark == "arc" else str(i if right[i] else i + 1))
        for i, sample in enumerate(samples)
    ]  # fmt: skip
    _land_scores(landing, what, scores, name, taken)


def _kinds(failed: set[int]) -> dict[str, int]:
    return {"timeout": sum(i % 2 for i in failed), "overloaded": sum(1 - i % 2 for i in failed)}


def _land_scores(landing: Landing, what: Evaluation, scores: list[Score], name: str, taken: str) -> None:
    parts = sorted({score.subtask for score in scores})
    metrics: list[Metric] = []
    for subtask in ["", *(parts if len(parts) > 1 else [])]:
        chosen = [score for score in scores if subtask in ("", score.subtask)]
        verdicts = Verdicts(raw=[score.value for score in chosen if score.value is not None], n_asked=len(chosen))
        metrics.append(metric_of(verdicts, subtask, name, taken, is_headline=not subtask))
    landing.land_scores(what, scores, metrics, score_version="s1", run_id=what.run_id,
                        recorded_at=what.recorded_at + timedelta(minutes=2))  # fmt: skip


def _land_perplexity(landing: Landing, model: str, value: float, at: datetime) -> None:
    what = evaluation(model, "wiki", at, n=20, n_requests=20)
    landing.land_samples("wiki", what.ask_version, [
        Sample(sample_id=f"wiki/{i}", subtask="wiki", question=f"Document {i}", target="", n_requests=1) for i in range(20)
    ])  # fmt: skip
    landing.land_evaluation(what)
    draw = random.Random(model)
    scores = [
        Score(sample_id=f"wiki/{i}", subtask="wiki", metric="word_perplexity", filter="none", value=value * draw.uniform(0.8, 1.2))
        for i in range(20)
    ]  # fmt: skip
    one = Metric(subtask="", metric="word_perplexity", filter="none", value=value, stderr=0.8, ci_low=value - 1.6,
                 ci_high=value + 1.6, n=20, n_asked=20, higher_is_better=False, is_headline=True)  # fmt: skip
    landing.land_scores(what, scores, [one], score_version="s1", run_id=what.run_id,
                        recorded_at=at + timedelta(minutes=2))  # fmt: skip


def _samples(benchmark: str) -> Iterator[Sample]:
    for i in range(N):
        if benchmark == "arc":
            yield Sample(sample_id=f"easy/{i}" if i % 2 else f"challenge/{i}", subtask="easy" if i % 2 else "challenge",
                         question=f"Which of these boils at {i + 20} °C?", target="B", n_requests=4,
                         choices=("iron", "the right one", "granite", "glass"))  # fmt: skip
        else:
            yield Sample(sample_id=f"gsm8k/{i}", subtask="gsm8k", target=f"{i}", n_requests=1,
                         question=f"Janet has {i + 4} ducks and sells 4 of their eggs. How many eggs are left, "
                                  "if each duck lays one egg a day?")  # fmt: skip


Pairs = Iterator[tuple[Request, Response]]


def _generated(model: str, sample: Sample, i: int, is_right: bool, is_failed: bool, at: datetime) -> Pairs:
    request = Request(sample_id=sample.sample_id, subtask=sample.subtask, operation="chat",
                      messages=({"role": "user", "content": sample.question},), params={"max_tokens": 256})  # fmt: skip
    common = {"request_digest": request.digest, "latency_s": 1.2, "asked_at": at}
    if is_failed:
        kind = FailureKind.TIMEOUT if i % 2 else FailureKind.OVERLOADED
        message = "no answer within 60 s" if i % 2 else "503: the queue is full, <b>come back later</b>"
        yield request, Response(failure=Failure(kind=kind, message=message), n_attempts=4, **common)
        return
    text = f"Each duck lays one egg, so there are {i + 4} eggs; 4 are sold. #### {i if is_right else i + 1}"
    yield request, Response(
        text=HOSTILE if model == LONG and i == 5 else text, n_attempts=1, finish_reason="stop", completion_tokens=120,
        reasoning=f"Ducks: {i + 4}. Minus four. <b>Careful</b> here." if model == BOREALIS else None, **common,
    )  # fmt: skip


def _choices(model: str, sample: Sample, i: int, is_right: bool, is_failed: bool, at: datetime) -> Pairs:
    best = 1 if is_right else (i % 2) * 2
    for part, choice in enumerate(sample.choices):
        request = Request(sample_id=sample.sample_id, subtask=sample.subtask, part=part, operation="loglikelihood",
                          prompt=sample.question, continuation=f" {choice}")  # fmt: skip
        yield request, Response(request_digest=request.digest, logprob=-2.0 if part == best else -5.0 - part,
                                is_greedy=part == best, n_attempts=1, latency_s=0.2, asked_at=at)  # fmt: skip
