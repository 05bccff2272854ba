"""Many series become our few numbers; counters survive a restart; means are over time."""

from datetime import timedelta

import pytest

from eval_pipelines import plugins
from eval_pipelines.records import ServerMetrics, utc_now
from eval_pipelines.serving.backends._vllm_words import METRICS as VLLM
from eval_pipelines.serving.metrics import COUNTERS, NAMES, Counters, summarise
from eval_pipelines.serving.scraping import Wanted, interval_s

pytestmark = pytest.mark.unit

# two data-parallel ranks, in vLLM's own words
TEXT = r"""
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="llama@step-1"} 7.0
vllm:num_requests_running{engine="1",model_name="llama@step-1"} 5.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="llama@step-1"} 2.0
vllm:num_requests_waiting{engine="1",model_name="llama@step-1"} 1.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="llama@step-1",reason="capacity"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="llama@step-1"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="llama@step-1"} 0.25
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="llama@step-1"} 1.25e+06
vllm:prompt_tokens_total{engine="1",model_name="llama@step-1"} 1000.0
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="llama@step-1"} 1.7635e+09
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="llama@step-1"} 30.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="llama@step-1"} 12.0
# TYPE vllm:e2e_request_latency_seconds histogram
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.3",model_name="llama@step-1"} 3.0
vllm:e2e_request_latency_seconds_sum{engine="0",model_name="llama@step-1"} 20.5
"""


def test_the_series_of_several_engines_are_summed_and_shares_averaged() -> None:
    assert Wanted(VLLM).read(TEXT) == {
        "n_running": 12,
        "n_waiting": 3,
        "kv_cache_share": 0.375,
        "prompt_tokens": 1_251_000,
        "n_finished": 42,
    }


def test_labels_pick_some_of_the_series() -> None:
    picked = Wanted({"n_finished": 'vllm:request_success_total{finished_reason="stop",engine="0"}'})
    assert picked.read(TEXT) == {"n_finished": 30}


def test_a_part_of_a_histogram_can_be_named() -> None:
    assert Wanted({"prompt_tokens": "tgi_input_sum"}).read("# TYPE tgi_input histogram\ntgi_input_sum 9\n") == {
        "prompt_tokens": 9
    }


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("a 3", 3),
        ("a 3 1763717000000", 3),
        ('a{path="/x{y} z",quote="\\"q\\""} 4', 4),
        ("a\t5", 5),
        ("a NaN\na 2", 2),
        ("a +Inf", None),
        ("ab 9\na_total 9", None),
        ("# a 9", None),
        ("<html>a 9</html>", None),
        ("", None),
    ],
)
def test_a_line_is_read_as_prometheus_means_it(line: str, value: float | None) -> None:
    assert Wanted({"n_running": "a"}).read(line).get("n_running") == value


@pytest.mark.parametrize("text", ["a", "a three", 'a{b="c} 3', "a{b=c} 3"])
def test_a_broken_line_of_ours_reads_as_nothing_or_is_an_error_but_never_a_number(text: str) -> None:
    try:
        assert Wanted({"n_running": "a"}).read(text) == {}
    except ValueError:
        pass


@pytest.mark.parametrize("values", [(5, 7, 7, 12), (0, 3), (9,)])
def test_a_counter_counts_from_the_first_look(values) -> None:
    counters = Counters()
    told = [counters.advance({"prompt_tokens": value}, COUNTERS)["prompt_tokens"] for value in values]
    assert told == [value - values[0] for value in values]


def test_a_restarted_server_counts_on() -> None:
    counters = Counters()
    told = [counters.advance({"prompt_tokens": v}, COUNTERS)["prompt_tokens"] for v in (100, 130, 4, 10, 0, 1)]
    assert told == [0, 30, 34, 40, 40, 41]


def test_a_counter_that_appears_with_its_first_event_has_counted_nothing_before() -> None:
    counters = Counters()
    told = [dict(counters.advance(seen, COUNTERS)) for seen in ({}, {"n_finished": 3}, {}, {"n_finished": 2})]
    assert told == [{}, {"n_finished": 3}, {"n_finished": 3}, {"n_finished": 5}]


START = utc_now()


def look(at_s: float, replica: str = "one", **fields: object) -> ServerMetrics:
    return ServerMetrics.model_validate(
        {"replica": replica, "started_at": START, "scraped_at": START + timedelta(seconds=at_s), **fields}
    )


def test_a_mean_is_over_time_however_rare_the_looks_become() -> None:
    # 1 s at 10, then 9 s at 0
    summary = summarise([look(s, n_running=n) for s, n in ((0, 10), (0.5, 10), (1, 10), (1.0001, 0), (10, 0))])
    assert summary is not None
    assert summary.n_running_mean == pytest.approx(1.0, abs=0.001)
    assert (summary.n_running_max, summary.watched_s) == (10, 10.0)


def test_replicas_add_up_but_the_fullest_cache_is_shown() -> None:
    one = [look(s, "one", n_running=4, kv_cache_share=0.9, generation_tokens=s * 10) for s in (0, 10)]
    two = [look(s, "two", n_running=2, kv_cache_share=0.1, generation_tokens=s * 30) for s in (0, 10)]
    summary = summarise(one + two)
    assert summary is not None
    assert (summary.n_replicas, summary.n_running_mean, summary.n_running_max) == (2, 6, 6)
    assert (summary.kv_cache_share_mean, summary.kv_cache_share_max) == (pytest.approx(0.5), 0.9)
    assert summary.generation_tokens_per_s == 40


def test_what_a_server_does_not_tell_is_not_zero() -> None:
    summary = summarise([look(0, n_running=1), look(1, failure="TimeoutError"), look(2, n_running=1)])
    assert summary is not None
    assert (summary.n_scrapes, summary.n_failed_scrapes) == (3, 1)
    told = {name for name, value in summary.model_dump(exclude={"n_replicas"}).items() if value is not None}
    assert told == {"n_scrapes", "n_failed_scrapes", "watched_s", "n_running_mean", "n_running_max"}


def test_a_cache_that_was_never_asked_has_no_share_of_hits() -> None:
    idle = summarise([look(0, prefix_cache_hits=0, prefix_cache_queries=0)])
    used = summarise([look(0, prefix_cache_hits=3, prefix_cache_queries=4)])
    assert (idle and idle.prefix_cache_hit_share, used and used.prefix_cache_hit_share) == (None, 0.75)


def test_nobody_asked_is_no_summary() -> None:
    assert summarise([]) is None


@pytest.mark.parametrize(("total_s", "at_least", "at_most"), [(2, 2, 3), (3600, 300, 600), (36_000, 900, 1_200)])
def test_looks_grow_rarer(total_s: int, at_least: int, at_most: int) -> None:
    looks, passed_s = 0, 0.0
    while passed_s < total_s:
        passed_s += interval_s(passed_s)
        looks += 1
    assert at_least <= looks <= at_most


def test_the_table_in_the_docstring_is_the_names() -> None:
    from eval_pipelines.serving import metrics

    table = [line.split("|") for line in (metrics.__doc__ or "").splitlines() if line.startswith("| `")]
    assert [name.strip(" `") for row in table for name in row[1].split(",")] == list(NAMES)
    counters = {name.strip(" `") for row in table if "counter" in row[2] for name in row[1].split(",")}
    assert counters == COUNTERS


def test_every_metric_has_a_column_of_its_kind() -> None:
    from eval_pipelines.warehouse.shapes import SHAPES

    assert {name for name, type_ in SHAPES["server_metrics"].items() if type_ in ("int?", "real?")} == set(NAMES)


@pytest.mark.parametrize("name", plugins.names("serving.backends"))
def test_a_backend_names_only_metrics_we_know(name: str) -> None:
    module = plugins.load("serving.backends", name, kind="backend")
    told = [value for key, value in vars(module).items() if key.strip("_") == "METRICS"]
    assert {ours for names in told for ours in names} <= set(NAMES)
    assert all(Wanted(names).read("") == {} for names in told)
