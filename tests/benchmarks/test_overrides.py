"""What evals.yaml says in place of a task, and that it is part of the version."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.config import BenchmarkSpec

N = 12


@pytest.fixture
def sums(tmp_path: Path, index: Path) -> Callable[..., Benchmark]:
    """gsm8k on sums, whose training rows are told by their numbers."""

    def build(**fields: object) -> Benchmark:
        for split, start in (("test", 0), ("train", 100), ("dev", 200)):
            rows = [{"question": f"What is {n}?", "answer": f"#### {n}"} for n in range(start, start + N)]
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"folder": tmp_path, "splits": {name: f"{name}.jsonl" for name in ("test", "train", "dev")}}
        spec = BenchmarkSpec.model_validate({"task": "gsm8k", "num_fewshot": 2, "data": data, **fields})
        return load("sums", spec, limit=3, cache=index)

    return build


def examples(benchmark: Benchmark) -> list[str]:
    prompt = next(benchmark.requests()).prompt or ""
    return [line.split()[-1].rstrip("?") for line in prompt.split("\n") if "What is" in line][:-1]


def test_another_seed_draws_other_examples(sums) -> None:
    assert examples(sums()) == examples(sums(fewshot_seed=1234)) != examples(sums(fewshot_seed=1))


def test_the_first_are_taken_where_that_is_wanted(sums) -> None:
    assert examples(sums(fewshot_sampler="first_n")) == ["100", "101"]


def test_examples_come_from_the_split_that_is_named(sums) -> None:
    assert examples(sums(fewshot_split="dev", fewshot_sampler="first_n")) == ["200", "201"]


def test_another_split_is_evaluated(sums) -> None:
    assert [sample.target for sample in sums(split="dev").samples()] == ["#### 200", "#### 201", "#### 202"]


@pytest.mark.parametrize(("as_multiturn", "roles"), [(True, ["user", "assistant"] * 2 + ["user"]), (False, ["user"])])
def test_examples_of_a_chat_are_turns_or_one_message(sums, as_multiturn, roles) -> None:
    request = next(sums(protocol="chat", fewshot_as_multiturn=as_multiturn).requests())
    assert [message["role"] for message in request.messages or ()] == roles


@pytest.mark.parametrize(
    "change",
    [{"fewshot_seed": 1}, {"fewshot_sampler": "first_n"}, {"fewshot_split": "dev"}, {"split": "dev"},
     {"protocol": "chat", "fewshot_as_multiturn": False}],
    ids=str,
)  # fmt: skip
def test_the_ask_version_changes_with_it(sums, change) -> None:
    protocol = change.get("protocol", "completions")
    assert sums(**change).ask_version != sums(protocol=protocol).ask_version


def test_what_draws_nothing_changes_no_version(sums) -> None:
    assert sums(num_fewshot=0, fewshot_seed=1).ask_version == sums(num_fewshot=0).ask_version


@pytest.mark.parametrize("protocol", ["chat", "completions"])
@pytest.mark.parametrize("stop", ["Question:", ["Question:"], None], ids=str)
def test_an_answer_ends_where_the_benchmark_says(sums, protocol, stop) -> None:
    assert next(sums(protocol=protocol, generation={"stop": stop}).requests()).params["stop"] == stop
