"""Verdicts of every kind of lm-eval task: numbers, pairs and sums; cut, refused and unparseable answers; clusters."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from eval_pipelines.benchmarks.clusters import cluster_of
from eval_pipelines.benchmarks.harness import Benchmark, load
from eval_pipelines.config import BenchmarkSpec
from eval_pipelines.errors import DataError
from eval_pipelines.records import Metric, Response, Score, utc_now

Own = Callable[..., Benchmark]


@pytest.fixture
def own(tmp_path: Path, index: Path) -> Own:
    """A task of one's own, from its YAML, its rows and maybe its Python."""

    def build(rows: list[dict[str, Any]], code: str = "", spec: dict[str, Any] | None = None, **task: Any) -> Benchmark:
        written = {
            "task": "mine", "dataset_path": "none", "test_split": "test", "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}", **task,
        }  # fmt: skip
        text = yaml.safe_dump(written)
        (tmp_path / "mine.yaml").write_text(text.replace("'!function ", "!function ").replace(".process'", ".process"))
        (tmp_path / "own.py").write_text(code)
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"folder": tmp_path, "splits": {"test": "rows.jsonl"}}
        fields = {"task": "mine", "include": tmp_path, "data": source, **(spec or {})}
        return load("mine", BenchmarkSpec.model_validate(fields), limit=None, cache=index)

    return build  # fmt: skip


def told(benchmark: Benchmark, answers: list[Any], **fields: Any) -> dict[str, Response]:
    def one(digest: str, answer: Any) -> Response:
        kind = {"text": answer} if isinstance(answer, str) else {"logprob": answer, "is_greedy": answer > -1}
        return Response(request_digest=digest, n_attempts=1, latency_s=0, asked_at=utc_now(), **kind, **fields)

    return {
        request.digest: one(request.digest, answer)
        for request, answer in zip(benchmark.requests(), answers, strict=True)
    }


def whole(metrics: list[Metric]) -> dict[str, Metric]:
    return {one.metric: one for one in metrics if one.subtask == ""}


def values(scores: list[Score], metric: str) -> list[float | None]:
    return [one.value for one in scores if one.metric == metric]


QA = [{"question": f"q{i}?", "answer": str(i)} for i in range(4)]
TEXT = {"output_type": "generate_until", "generation_kwargs": {"until": ["\n"]}}
REGEX = [
    {"name": "number", "filter": [{"function": "regex", "regex_pattern": r"is (\d+)"}, {"function": "take_first"}]}
]


def test_an_answer_without_what_is_looked_for_is_unparseable_and_wrong_as_in_the_reference(own) -> None:
    benchmark = own(QA, metric_list=[{"metric": "exact_match"}], filter_list=REGEX, **TEXT)
    scores, metrics = benchmark.grade(told(benchmark, ["is 0", "one", "is 7", "is 3"], finish_reason="length"))
    assert [(one.value, one.is_unparseable, one.is_truncated, one.extracted) for one in scores] == [
        (1.0, False, True, "0"), (0.0, True, True, "[invalid]"), (0.0, False, True, "7"), (1.0, False, True, "3"),
    ]  # fmt: skip
    found = whole(metrics)
    assert (found["exact_match"].value, found["unparseable_share"].value) == (0.5, 0.25)
    assert (found["truncated_share"].value, found["refused_share"].value) == (1.0, 0.0)
    assert [one.metric for one in metrics if one.is_headline] == ["exact_match"]


def test_a_benchmark_may_leave_the_unparseable_ungraded(own) -> None:
    spec = {"unparseable": "ungraded"}
    benchmark = own(QA, spec=spec, metric_list=[{"metric": "exact_match"}], filter_list=REGEX, **TEXT)
    scores, metrics = benchmark.grade(told(benchmark, ["is 0", "one", "is 7", "is 3"]))
    assert [one.ungraded_reason for one in scores] == [None, "unparseable", None, None]
    found = whole(metrics)
    assert (found["exact_match"].value, found["exact_match"].n) == (2 / 3, 3)
    assert (found["exact_match"].bound_low, found["exact_match"].bound_high) == (0.5, 0.75)
    assert found["unparseable_share"].value == 0.25
    plain = own(QA, metric_list=[{"metric": "exact_match"}], filter_list=REGEX, **TEXT)
    assert (benchmark.ask_version, benchmark.score_version) != (plain.ask_version, plain.score_version)
    assert benchmark.ask_version == plain.ask_version


def test_an_empty_answer_is_unparseable_where_the_whole_text_is_taken(own) -> None:
    benchmark = own(QA, metric_list=[{"metric": "exact_match"}], **TEXT)
    scores, _ = benchmark.grade(told(benchmark, ["0", " \n", "2", "3"]))
    assert [one.is_unparseable for one in scores] == [False, True, False, False]


def test_texts_are_aggregated_as_a_corpus_and_kept_as_sentences(own) -> None:
    rows = [{"question": f"q{i}", "answer": "the cat sat on the mat again"} for i in range(3)]
    benchmark = own(rows, metric_list=[{"metric": name} for name in ("bleu", "chrf", "ter")], **TEXT)
    answers = ["the cat sat on the mat again", "a dog", "the cat sat on a mat"]
    scores, metrics = benchmark.grade(told(benchmark, answers))
    import sacrebleu

    found = whole(metrics)
    assert found["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(answers, [[row["answer"] for row in rows]]).score)
    assert values(scores, "bleu")[0] == pytest.approx(100)
    assert values(scores, "ter")[0] == 0.0
    assert (found["ter"].higher_is_better, found["chrf"].ci_method) == (False, "bootstrap")


def test_pairs_are_kept_as_agreement_and_aggregated_by_the_tasks_own_metric(own) -> None:
    from sklearn.metrics import f1_score, matthews_corrcoef

    gold = [1, 0, 1, 1, 0, 0]
    said = [1, 0, 0, 1, 1, 0]
    rows = [{"question": f"q{i}", "answer": one} for i, one in enumerate(gold)]
    metric_list = [{"metric": name} for name in ("acc", "f1", "mcc", "brier_score")]
    choices = {"output_type": "multiple_choice", "doc_to_choice": ["no", "yes"], "doc_to_target": "answer"}
    benchmark = own(rows, metric_list=metric_list, **choices)
    answers = [-0.1 if choice == one else -3.0 for one in said for choice in (0, 1)]
    scores, metrics = benchmark.grade(told(benchmark, answers))
    found = whole(metrics)
    agreed = [float(one == other) for one, other in zip(gold, said, strict=True)]
    assert values(scores, "f1") == values(scores, "mcc") == values(scores, "acc") == agreed
    assert found["f1"].value == pytest.approx(f1_score(gold, said))
    assert found["mcc"].value == pytest.approx(matthews_corrcoef(gold, said))
    assert found["brier_score"].value == pytest.approx(sum(v or 0 for v in values(scores, "brier_score")) / 6)
    assert {found[name].ci_method for name in ("f1", "mcc", "brier_score")} == {"bootstrap"}
    assert not {"truncated_share", "refused_share", "unparseable_share"} & set(found)


def test_a_log_likelihood_has_a_perplexity_per_sample_and_over_all(own) -> None:
    metric_list = [{"metric": "perplexity"}, {"metric": "acc"}]
    benchmark = own(QA, output_type="loglikelihood", metric_list=metric_list)
    scores, metrics = benchmark.grade(told(benchmark, [-0.5, -1.5, -2.0, -800.0]))
    assert values(scores, "perplexity") == pytest.approx([math.exp(0.5), math.exp(1.5), math.exp(2), None])
    assert [one.ungraded_reason for one in scores if one.metric == "perplexity"] == [None, None, None, "not_finite"]
    assert values(scores, "acc") == [1.0, 0.0, 0.0, 0.0]
    assert whole(metrics)["perplexity"].value == pytest.approx(math.exp(804 / 4))


def test_a_rolling_log_likelihood_is_weighed_by_words_and_bytes(own) -> None:
    rows = [{"page": "one two three"}, {"page": "four five"}]
    metric_list = [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
    documents = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}"}
    benchmark = own(rows, metric_list=metric_list, **documents)
    scores, metrics = benchmark.grade(told(benchmark, [-6.0, -8.0]))
    found = whole(metrics)
    assert values(scores, "word_perplexity") == pytest.approx([math.exp(2), math.exp(4)])
    assert found["word_perplexity"].value == pytest.approx(math.exp(14 / 5))
    assert found["byte_perplexity"].value == pytest.approx(math.exp(14 / 22))
    assert found["bits_per_byte"].value == pytest.approx(14 / 22 / math.log(2))
    assert found["bits_per_byte"].stderr is not None


def test_what_a_task_says_of_no_single_sample_is_no_zero(own) -> None:
    code = "def process(doc, results):\n    return {'spread': results[0], 'rare': 1.0 if doc['answer'] == '0' else float('nan')}\n"
    metric_list = [
        {"metric": "spread", "aggregation": "!function own.process", "higher_is_better": True},
        {"metric": "rare", "aggregation": "nanmean", "higher_is_better": True},
    ]
    code += "def combine(items):\n    return float(len(set(items))) if len(items) > 1 else int('none')\n"
    benchmark = own(QA, code=code, process_results="!function own.process", metric_list=metric_list, **TEXT)
    benchmark._subtasks[0].task._aggregation_list["spread"] = len_of_set
    scores, metrics = benchmark.grade(told(benchmark, ["a", "b", "a", "c"]))
    reasons = {(one.metric, one.ungraded_reason) for one in scores}
    assert reasons == {("spread", "aggregate_only"), ("rare", None), ("rare", "not_applicable")}
    found = whole(metrics)
    assert (found["spread"].value, found["spread"].n) == (3.0, 4)
    assert (found["rare"].value, found["rare"].n, found["rare"].n_asked) == (1.0, 1, 1)


def test_an_infinite_verdict_is_none_and_lowers_the_coverage(own) -> None:
    code = "def process(doc, results):\n    return {'ratio': float('inf') if doc['answer'] == '0' else 0.5}\n"
    metric_list = [{"metric": "ratio", "aggregation": "mean", "higher_is_better": True}]
    benchmark = own(QA, code=code, process_results="!function own.process", metric_list=metric_list, **TEXT)
    scores, metrics = benchmark.grade(told(benchmark, ["a", "b", "a", "c"]))
    n_infinite = sum(row["answer"] == "0" for row in QA)
    assert [one.value for one in scores].count(None) == n_infinite > 0
    assert {one.ungraded_reason for one in scores} == {None, "not_finite"}
    found = whole(metrics)["ratio"]
    assert (found.value, found.n, found.n_asked, found.coverage) == (0.5, 4 - n_infinite, 4, 1 - n_infinite / 4)


def len_of_set(items: list[str]) -> float:
    if len(items) < 2:
        raise ValueError("one text says nothing")
    return float(len(set(items)))


def test_a_scorer_may_say_what_it_extracted_and_that_it_found_nothing(own) -> None:
    code = "def process(doc, results):\n    return {'acc': 1.0, 'extracted': results[0][:1], 'is_unparseable': True}\n"
    metric_list = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    benchmark = own(QA, code=code, process_results="!function own.process", metric_list=metric_list, **TEXT)
    scores, metrics = benchmark.grade(told(benchmark, ["xy"] * 4))
    assert {(one.extracted, one.is_unparseable, one.metric) for one in scores} == {("x", True, "acc")}
    assert whole(metrics)["unparseable_share"].value == 1.0


def test_questions_on_one_passage_are_clustered(own) -> None:
    rows = [{"question": f"q{i}", "answer": "1", "story": f"s{i // 2}"} for i in range(8)]
    benchmark = own(rows, spec={"cluster": "story"}, metric_list=[{"metric": "exact_match"}], **TEXT)
    assert [sample.cluster for sample in benchmark.samples()] == ["s0", "s0", "s1", "s1", "s2", "s2", "s3", "s3"]
    found = whole(benchmark.grade(told(benchmark, ["1", "1", "0", "0"] * 2))[1])["exact_match"]
    assert (found.value, found.ci_method, found.n_clusters) == (0.5, "clustered", 4)
    assert found.stderr == pytest.approx(math.sqrt(1 / 3 / 4))


def test_a_cluster_that_is_no_column_is_told_before_anything_is_asked(own) -> None:
    with pytest.raises(
        DataError, match=r"benchmarks\.mine\.cluster: mine has no column 'pasage', only answer, question"
    ):
        own(QA, spec={"cluster": "pasage"}, metric_list=[{"metric": "exact_match"}], **TEXT)


def test_the_score_version_sees_a_tasks_own_python_and_what_it_imports(own, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    metric_list = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    code = "from beside import right\n\n\ndef process(doc, results):\n    return {'acc': right()}\n"

    def version(beside: str, code: str = code) -> tuple[str, str]:
        (tmp_path / "beside.py").write_text(beside)
        benchmark = own(QA, code=code, process_results="!function own.process", metric_list=metric_list, **TEXT)
        return benchmark.ask_version, benchmark.score_version

    first = version("def right():\n    return 1.0\n")
    assert first == version("def right():\n    return 1.0\n")
    other = version("def right():\n    return 0.0\n")
    assert other[0] == first[0]
    assert other[1] != first[1]
    renamed = version("def right():\n    return 1.0\n", code.replace("right()}", "right() }"))
    assert renamed[1] != first[1]


@pytest.mark.parametrize(
    ("task", "doc", "wanted", "cluster"),
    [
        ("drop", {"passage": "In 1870 …", "question": "?"}, None, "In 1870 …"),
        ("mgsm_native_cot_de", {"question": "?"}, None, "7"),
        ("gsm8k", {"question": "?"}, None, None),
        ("drop", {"question": "?"}, None, None),
        ("gsm8k", {"question": "?", "source": 3}, "source", "3"),
        ("mmlu_law", {"question": "?"}, "subtask", "mmlu_law"),
    ],
)
def test_what_questions_share_is_known_of_some_tasks_and_told_of_others(task, doc, wanted, cluster) -> None:
    named = SimpleNamespace(config=SimpleNamespace(task=task))
    assert cluster_of(named, doc, 7, wanted, benchmark="b") == cluster


def test_a_long_passage_is_named_by_its_digest() -> None:
    named = SimpleNamespace(config=SimpleNamespace(task="race_high"))
    found = {cluster_of(named, {"article": "word " * n}, 0, None, benchmark="b") for n in (50, 50, 51)}
    assert len(found) == 2
    assert all(one is not None and len(one) == 12 for one in found)
