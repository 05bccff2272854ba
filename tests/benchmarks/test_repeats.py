"""Several answers to each question: asked with seeds of their own, graded one by one, one observation each."""

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from eval_pipelines.benchmarks.harness import Benchmark
from eval_pipelines.errors import ConfigError
from eval_pipelines.records import FailureKind, Metric, Request, Response

pytestmark = pytest.mark.slow

WARM = {"temperature": 0.7}
SEVERAL = (
    "{name: vote, filter: [{function: regex, regex_pattern: '(\\d+)'}, {function: majority_vote}, {function: take_first}]}",
    "{name: vote-3, filter: [{function: take_first_k, k: 3}, {function: regex, regex_pattern: '(\\d+)'}, "
    "{function: majority_vote}, {function: take_first}]}",
)


class Cold:
    """A chain that sets the temperature to 0."""

    reads_answers = False

    def request(self, request: Request) -> Request:
        return request.model_copy(update={"params": {**request.params, "temperature": 0}})


def test_an_interceptor_that_makes_all_repeats_the_same_is_refused(gsm8k) -> None:
    benchmark = gsm8k(repeats=3, generation=WARM)
    with pytest.raises(ConfigError, match=r"benchmarks\.gsm8k\.repeats: an interceptor sets the temperature to 0"):
        benchmark.seen_through(Cold())
    assert [one.params["temperature"] for one in gsm8k(limit=1).seen_through(Cold()).requests()] == [0]


@pytest.fixture
def own(gsm8k: Callable[..., Benchmark], tmp_path: Any) -> Callable[..., Benchmark]:
    """A task with filters of its own; extra lines go into its YAML."""

    def build(*filters: str, extra: str = "", metric: str = "exact_match", **fields: Any) -> Benchmark:
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        (folder / "mine.yaml").write_text(
            "task: mine\ndataset_path: none\ntest_split: test\noutput_type: generate_until\n"
            'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
            "generation_kwargs: {until: ['\\n'], temperature: 0.7}\n"
            f"metric_list: [{{metric: {metric}}}]\nfilter_list: [{', '.join(filters)}]\n{extra}"
        )
        rows = [{"question": f"{i}?", "answer": str(i)} for i in range(4)]
        return gsm8k(rows, task="mine", include=folder, **fields)

    return build


def answers(benchmark: Benchmark, say: Any, right: Callable[[int, int], bool]) -> dict[str, Response]:
    """`right(question, repeat)` decides which answers hit the target."""
    targets = {sample.sample_id: sample.target.split("####")[-1].strip() for sample in benchmark.samples()}
    return {
        one.digest: say(one, f"#### {targets[one.sample_id]}" if right(_number(one), one.repeat) else "#### 987")
        for one in benchmark.requests()
    }


def _number(request: Any) -> int:
    return int(request.sample_id.split("/")[1])


def metric_of(metrics: list[Metric], filter_name: str) -> Metric:
    return next(one for one in metrics if one.filter == filter_name and one.subtask == "")


def test_the_first_repeat_is_the_request_without_repeats(gsm8k) -> None:
    once = list(gsm8k(generation=WARM).requests())
    often = list(gsm8k(generation=WARM, repeats=5).requests())
    assert len(often) == 5 * len(once)
    assert [one.digest for one in often if one.repeat == 0] == [one.digest for one in once]
    assert len({one.digest for one in often}) == len(often)


@pytest.mark.parametrize(("generation", "first"), [({}, 1234), ({"seed": 7}, 7)])
def test_each_repeat_has_the_seed_after_the_last(gsm8k, generation, first) -> None:
    requests = list(gsm8k(generation=WARM | generation, repeats=3, limit=2).requests())
    assert [one.params["seed"] for one in requests] == [first, first + 1, first + 2] * 2


def test_a_sample_scores_the_mean_over_its_repeats(gsm8k, say) -> None:
    benchmark = gsm8k(generation=WARM, repeats=4)
    scores, metrics = benchmark.grade(answers(benchmark, say, lambda question, repeat: repeat < question))
    values = [one.value for one in scores if one.filter == "strict-match"]
    assert values == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert metric_of(metrics, "strict-match").value == pytest.approx(statistics.mean(values))


def test_the_standard_error_is_over_questions_not_over_answers(gsm8k, say) -> None:
    # each question always right or always wrong: asking it four times tells nothing more
    once, often = gsm8k(generation=WARM), gsm8k(generation=WARM, repeats=4)
    of_one, of_four = (
        metric_of(one.grade(answers(one, say, lambda question, _: question < 3))[1], "strict-match")
        for one in (once, often)
    )
    assert of_four.stderr == of_one.stderr == pytest.approx(math.sqrt(0.3 / 6))
    assert (of_four.n, of_four.n_asked) == (6, 6)


def test_what_was_extracted_is_that_of_the_first_repeat(gsm8k, say) -> None:
    benchmark = gsm8k(generation=WARM, repeats=2, limit=1)
    scores, _ = benchmark.grade({one.digest: say(one, f"#### {one.repeat}") for one in benchmark.requests()})
    assert {one.extracted for one in scores} == {"0"}


def test_a_sample_that_lacks_a_repeat_is_ungraded(gsm8k, say) -> None:
    # the answers that are lost are the long ones, and those are wrong more often: the mean of the rest would flatter
    benchmark = gsm8k(generation=WARM, repeats=3)
    said = answers(benchmark, say, lambda *_: True)
    second = next(one for one in benchmark.requests() if one.repeat == 1)
    said[second.digest] = say(second, FailureKind.TIMEOUT)
    scores, metrics = benchmark.grade(said)
    assert {one.ungraded_reason for one in scores if one.sample_id == second.sample_id} == {"timeout"}
    assert (metric_of(metrics, "strict-match").n, metric_of(metrics, "strict-match").value) == (5, 1.0)


def test_grading_with_repeats_twice_gives_the_same_scores(gsm8k, say) -> None:
    benchmark = gsm8k(generation=WARM, repeats=3)
    said = answers(benchmark, say, lambda question, repeat: (question + repeat) % 2 == 0)
    assert benchmark.grade(said) == benchmark.grade(said)


def test_a_task_that_votes_makes_one_verdict_of_all_repeats(own, say) -> None:
    benchmark = own(*SEVERAL, repeats=5)
    # right in the last three of five: the vote over all is right, the vote over the first three is not
    said = answers(benchmark, say, lambda _, repeat: repeat >= 2)
    metrics = benchmark.grade(said)[1]
    assert (metric_of(metrics, "vote").value, metric_of(metrics, "vote-3").value) == (1.0, 0.0)


def test_a_task_that_votes_keeps_its_own_number_without_ours(own) -> None:
    assert len(list(own(*SEVERAL, extra="repeats: 7\n", limit=1).requests())) == 7


def test_fewer_repeats_than_a_filter_takes_are_refused(own) -> None:
    with pytest.raises(ConfigError, match=r"benchmarks\.gsm8k\.repeats: mine makes its verdict of 3 answers"):
        own(*SEVERAL, repeats=2)


def test_the_number_of_repeats_does_not_change_the_version_of_a_mean(gsm8k) -> None:
    once, often = gsm8k(generation=WARM), gsm8k(generation=WARM, repeats=5)
    assert (once.ask_version, once.score_version) == (often.ask_version, often.score_version)


def test_the_number_of_repeats_changes_what_a_vote_measures(own) -> None:
    versions = [own(*SEVERAL, extra="repeats: 5\n", repeats=n).ask_version for n in (None, 5, 7)]
    assert versions[0] == versions[1] != versions[2]


def test_a_sample_is_the_same_however_often_it_is_asked(gsm8k) -> None:
    assert list(gsm8k(generation=WARM).samples()) == list(gsm8k(generation=WARM, repeats=5).samples())


def test_repeats_at_the_tasks_own_temperature_of_zero_are_refused(gsm8k) -> None:
    with pytest.raises(
        ConfigError, match=r"benchmarks\.gsm8k\.repeats: at temperature 0 .* all 3 times.*temperature: 0.7"
    ):
        gsm8k(repeats=3)


def test_repeats_at_a_written_temperature_of_zero_are_refused_by_the_file(gsm8k) -> None:
    with pytest.raises(ValueError, match="`repeats: 3` at temperature 0 gives the same answer 3 times"):
        gsm8k(repeats=3, generation={"temperature": 0})


def test_one_repeat_at_temperature_zero_is_as_none(gsm8k) -> None:
    assert list(gsm8k(repeats=1).requests()) == list(gsm8k().requests())


def test_log_likelihoods_are_not_repeated(gsm8k, tmp_path) -> None:
    (tmp_path / "choice.yaml").write_text(
        "task: choice\ndataset_path: none\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: [a, b]\ndoc_to_target: 0\n'
    )
    with pytest.raises(ConfigError, match="choice compares log-likelihoods, which are the same each time"):
        gsm8k(task="choice", include=tmp_path, repeats=2)


def test_what_is_not_averaged_over_samples_is_not_repeated(own) -> None:
    first = "{name: f, filter: [{function: take_first}]}"
    with pytest.raises(ConfigError, match="does not take the mean over samples for bleu"):
        own(first, metric="bleu", repeats=2)


def test_the_first_of_a_tasks_own_repeats_counts_as_in_lm_eval(own, say) -> None:
    benchmark = own(
        "{name: f, filter: [{function: regex, regex_pattern: '(\\d+)'}, {function: take_first}]}", extra="repeats: 3\n"
    )
    metrics = benchmark.grade(answers(benchmark, say, lambda _, repeat: repeat == 0))[1]
    assert metric_of(metrics, "f").value == 1.0
