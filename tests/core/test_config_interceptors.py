"""`interceptors` of evals.yaml: mistakes on their lines, versions that change with the right ones, the schema."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval_pipelines import plugins
from eval_pipelines.config import BenchmarkSpec, Config
from eval_pipelines.config.interceptors import FOLDER
from eval_pipelines.config.schema import config_schema
from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import ModelKey
from eval_pipelines.models import interceptors_of, resolve

pytestmark = pytest.mark.unit

HEAD = """deployments: {d: {backend: hosted, base_url: "http://h/v1"}}
benchmarks:
  b:
    task: t
    protocol: chat
    interceptors:
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.parse(text, path=Path("evals.yaml"))
    return [line.removeprefix("evals.yaml:") for line in str(caught.value).splitlines()]


def spec(*listed: Any) -> BenchmarkSpec:
    return BenchmarkSpec.model_validate({"task": "t", "interceptors": [*listed]})


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            ["- reasonin"],
            "7: benchmarks.b.interceptors[0]: no interceptor is called 'reasonin'. Did you mean 'reasoning'?",
        ),
        (
            ["- log", "- reasoning: {start_tokn: x}"],
            "8: benchmarks.b.interceptors[1].reasoning.start_tokn: unknown key. Did you mean 'start_token'?",
        ),
        (
            ["- system_message"],
            "7: benchmarks.b.interceptors[0].text: required, but missing: What the system message says",
        ),
        (["- log: {first_n: -1}"], "7: benchmarks.b.interceptors[0].log.first_n: must be at least 0, not -1"),
        (["- caching: {reuse: nevr}"], "7: benchmarks.b.interceptors[0].caching.reuse: must be 'always', 'never' or"),
        (["- {log: {}, reasoning: {}}"], "7: benchmarks.b.interceptors[0]: must be the name of an interceptor, or one"),
        (["  log"], "6: benchmarks.b.interceptors: must be a list, not text"),
        (["  log: {}"], "6: benchmarks.b.interceptors: must be a list, not a mapping"),
        (["- 3"], "7: benchmarks.b.interceptors[0]: must be the name of an interceptor, or one name with its options"),
        (["- log", "- log"], "8: benchmarks.b.interceptors[1]: 'log' is listed already"),
        (
            ["- system_message: {text: a}", "- system_message: {text: b, mode: replace}"],
            "8: benchmarks.b.interceptors[1]: `mode: replace` throws away what an earlier system_message says ('a')",
        ),
        (
            ["- payload: {params_to_add: {seed: 1}}", "- drop_params: {params: [seed]}"],
            "8: benchmarks.b.interceptors[1]: drops seed, which an earlier payload adds or changes",
        ),
        (
            ["- payload: {headers_to_add: {X-A: b}}", "- payload: {headers_to_remove: [x-a]}"],
            "8: benchmarks.b.interceptors[1]: removes x-a, which an earlier payload adds",
        ),
        (
            ["- modify_tools: {add_properties: {a: {}}}", "- modify_tools: {strip_properties: [a]}"],
            "8: benchmarks.b.interceptors[1]: strips a, which an earlier modify_tools adds",
        ),
        (
            ["- modify_tools: {add_properties: {a: {}}}", "- payload: {params_to_remove: [tools]}"],
            "8: benchmarks.b.interceptors[1]: removes the tools that an earlier modify_tools changes",
        ),
    ],
)
def test_a_mistake_is_told_once_with_its_line_and_what_would_be_right(lines: list[str], problem: str) -> None:
    (found,) = problems(HEAD + "".join(f"      {line}\n" for line in lines))
    assert found.startswith(problem)


def test_what_does_not_go_together_across_two_lists_is_told_at_the_models() -> None:
    listed = "      - system_message: {text: a}\n"
    models = "models:\n  m@a:\n    deployment: d\n    interceptors:\n      - system_message: {text: b, mode: replace}\n"
    (found,) = problems(HEAD + listed + models)
    assert found.startswith("12: models.m@a.interceptors[0]: after those of benchmark b: `mode: replace` throws away")


def test_a_list_that_is_right_becomes_typed_options_in_its_order() -> None:
    config = Config.parse(HEAD + "      - log: {first_n: 2}\n      - reasoning:\n", path=Path("/x/evals.yaml"))
    first, second = config.benchmark("b").interceptors
    assert (first.name, first.spec.first_n, second.name) == ("log", 2, "reasoning")  # type: ignore[attr-defined]


def test_a_list_without_interceptors_is_the_version_it_always_was() -> None:
    assert spec().code_version == BenchmarkSpec(task="t").code_version == BenchmarkSpec(task="t").asking_version


def test_only_what_changes_the_question_changes_the_version_of_asking() -> None:
    plain = spec()
    for grading in ("reasoning", "log", {"caching": {"reuse": "never"}}):
        assert spec(grading).asking_version == plain.asking_version
        assert spec(grading).code_version != plain.code_version
    for asking in ({"system_message": {"text": "a"}}, {"turn_limit": {"max_turns": 3}}):
        assert spec(asking).asking_version != plain.asking_version
    assert spec({"log": {"first_n": 50}}).code_version == spec("log").code_version, "a default written out"


def test_the_schema_completes_every_interceptor_where_one_may_stand() -> None:
    schema = json.loads(json.dumps(config_schema()))
    items = schema["$defs"]["interceptors"]["items"]["oneOf"]
    assert [name for one in items[1:] for name in one["properties"]] == plugins.names(FOLDER)
    assert {"reasoning", "log"} <= {*items[0]["enum"]}
    assert "system_message" not in items[0]["enum"], "it needs options"
    for places in (
        schema["properties"]["models"]["additionalProperties"],
        schema["properties"]["watched"]["items"],
        schema["properties"]["benchmarks"]["additionalProperties"],
    ):
        assert places["properties"]["interceptors"] == {"$ref": "#/$defs/interceptors"}


# whose they are

WATCHED = """deployments: {{d: {{backend: vllm}}}}
benchmarks: {{b: {{task: t}}}}
watched:
  - {{path: {a}, deployment: d, suite: b, family: llama, interceptors: [reasoning]}}
  - {{path: {b}, deployment: d, suite: b, interceptors: [{other}]}}
"""


@pytest.mark.parametrize("key", ["llama@step-1", "qwen@step-1"])
def test_a_checkpoint_has_the_interceptors_of_its_folder_while_it_is_there(tmp_path, key) -> None:
    places = {"llama@step-1": tmp_path / "a" / "step-1", "qwen@step-1": tmp_path / "b" / "qwen" / "step-1"}
    for place in places.values():
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"w")
        (place / "config.json").write_text("{}")
    text = WATCHED.format(a=tmp_path / "a", b=tmp_path / "b", other="log")
    config = Config.parse(text, path=tmp_path / "evals.yaml")
    names = {"llama@step-1": ["reasoning"], "qwen@step-1": ["log"]}
    assert [one.name for one in interceptors_of(config, ModelKey.parse(key))] == names[key]


def test_a_checkpoint_that_is_gone_has_those_that_every_folder_would_give_it(tmp_path) -> None:
    same = Config.parse(WATCHED.format(a="a", b="b", other="reasoning"), path=tmp_path / "evals.yaml")
    assert [one.name for one in interceptors_of(same, ModelKey("llama", "gone"))] == ["reasoning"]
    differing = Config.parse(WATCHED.format(a="a", b="b", other="log"), path=tmp_path / "evals.yaml")
    with pytest.raises(ConfigError, match=r"llama@gone: .*list different `interceptors`"):
        interceptors_of(differing, ModelKey("llama", "gone"))


def test_a_model_named_by_hand_has_its_own_and_they_are_no_part_of_which_model_it_is(tmp_path) -> None:
    head = 'deployments: {d: {backend: hosted, base_url: "http://h/v1"}}\nmodels: {m@a: {deployment: d'
    with_, without = (
        resolve(Config.parse(head + end, path=tmp_path / "evals.yaml"), ModelKey("m", "a"))
        for end in (", interceptors: [reasoning]}}", "}}")
    )
    assert [one.name for one in with_.interceptors] == ["reasoning"]
    assert (with_, hash(with_)) == (without, hash(without))
