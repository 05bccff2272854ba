"""`judge` of a benchmark: what it means, and how its mistakes are told."""

from pathlib import Path
from typing import Any

import pytest

from eval_pipelines.config import BenchmarkSpec, Config
from eval_pipelines.config.judges import needs_reference, template, template_names
from eval_pipelines.config.schema import config_schema
from eval_pipelines.errors import ConfigError

pytestmark = pytest.mark.unit

FILE = """
deployments: {h: {backend: hosted, base_url: "http://x/v1", served_name: m}}
models: {m@a: {deployment: h}, j@a: {deployment: h}}
benchmarks:
  b: {task: gsm8k, judge: %s}
"""


def spec(judge: str) -> BenchmarkSpec:
    return Config.parse(FILE % judge, path=Path("/x/evals.yaml")).benchmark("b")


@pytest.mark.parametrize(
    ("judge", "problem"),
    [
        ("{models: j@b, template: correctness}", "b.judge.models: no model is called 'j@b'. Did you mean 'j@a'?"),
        ("{models: [j@a, j@a], template: correctness}", "names a judge twice"),
        ("{models: j@a, template: corectness}", "no template is called 'corectness'. Did you mean 'correctness'?"),
        ("{models: j@a}", "needs exactly one of `template` (correctness, pairwise, rubric_1_10) and `prompt`"),
        ("{models: j@a, template: pairwise}", "the template 'pairwise' is for `kind: pairwise`"),
        ("{models: j@a, kind: pairwise, template: pairwise}", "`kind: pairwise` needs `baseline`"),
        (
            "{models: j@a, kind: pairwise, template: pairwise, baseline: m@b}",
            "b.judge.baseline: no model is called 'm@b'. Did you mean 'm@a'?",
        ),
        ("{models: j@a, template: correctness, baseline: m@a}", "`baseline` and `swap` are for `kind: pairwise`"),
        ("{models: j@a, prompt: '{{ answr }}', labels: {A: 1}}", "the prompt names answr; there are question, answer"),
        ("{models: j@a, prompt: '{{ question }}', labels: {A: 1}}", "the prompt never shows {{ answer }}"),
        ("{models: j@a, prompt: '{{ answer', labels: {A: 1}}", "the prompt is no Jinja text: line 1"),
        ("{models: j@a, prompt: '{{ answer }}'}", "needs a `scale` or `labels`"),
        ("{models: j@a, template: correctness, labels: {A: 2}}", "the label 'A' must have a value from 0 to 1"),
        ("{models: j@a, template: correctness, labels: {Yes: 1, YES: 0}}", "the labels 'Yes' and 'YES' are one"),
        ("{models: j@a, template: correctness, labels: {A.: 1, B.: 0}}", "the label 'A.' is never read"),
        ("{models: j@a, template: correctness, labels: {' A': 1}, extract: {json_field: x}}", "write 'A'"),
        ("{models: j@a, template: rubric_1_10, aggregate: majority}", "numbers of a `scale` have no majority"),
        ("{models: j@a, template: correctness, repeats: 3}", "gives the same verdict 3 times"),
        ("{models: j@a, template: correctness, extract: {regex: x}}", "must have one group, the verdict, not 0"),
        (
            "{models: j@a, template: correctness, extract: {regex: (x), json_field: y}}",
            "needs exactly one of `regex`, `last_line` and `json_field`",
        ),
        ("{models: j@a, template: correctness, scale: {low: 2, high: 1}}", "`low` must be less than `high`"),
        ("{models: j@a, template: correctness, lables: {A: 1}}", "b.judge.lables: unknown key. Did you mean 'labels'?"),
    ],
)
def test_a_mistake_is_told_with_what_would_be_right(judge: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec(judge)
    assert problem in str(caught.value)
    assert "/x/evals.yaml:5: benchmarks.b.judge" in str(caught.value)


def test_a_baseline_may_be_a_checkpoint_that_is_still_to_come() -> None:
    judge = "{models: j@a, kind: pairwise, template: pairwise, baseline: smol@step-1}"
    watched = "watched: [{path: runs, family: smol, deployment: c, suite: b}]\n"
    text = (FILE % judge).replace("h: {", 'c: {backend: command, argv: ["s", "{weights}", "{port}"]}, h: {', 1)
    assert Config.parse(text + watched, path=Path("/x/evals.yaml")).benchmark("b").judge is not None


def test_what_judges_are_asked_and_what_is_made_of_it_have_versions_of_their_own() -> None:
    def versions(**fields: Any) -> tuple[str, str, str]:
        given = {"models": "j@a", "template": "correctness", **fields}
        found = BenchmarkSpec.model_validate({"task": "gsm8k", "judge": given})
        return found.asking_version, found.judging_version, found.code_version

    plain = versions()
    regraded = versions(labels={"CORRECT": 1, "INCORRECT": 0.5})
    reworded = versions(template=None, prompt="{{ answer }}", labels={"CORRECT": 1, "INCORRECT": 0})
    assert [a == b for a, b in zip(plain, regraded, strict=True)] == [True, True, False]
    assert [a == b for a, b in zip(plain, reworded, strict=True)] == [True, False, False]
    assert BenchmarkSpec(task="gsm8k").asking_version == plain[0], "who judges is no part of what a model is asked"


@pytest.mark.parametrize("name", template_names())
def test_every_template_is_whole(name: str) -> None:
    found = template(name)
    beside = {"kind": "pairwise", "baseline": "m@a"} if found.kind == "pairwise" else {}
    rules = spec(str({"models": "j@a", "template": name, **beside}).replace("'", '"')).judge.rules  # type: ignore[union-attr]
    assert (rules.prompt, rules.extract) == (found.prompt, found.extract)
    assert len(found.description) > 20


def test_editors_know_the_keys_of_a_judge() -> None:
    assert set(config_schema()["$defs"]["JudgeSpec"]["properties"]) >= {"models", "template", "baseline", "extract"}


@pytest.mark.parametrize(
    ("prompt", "needs_it"),
    [
        ("{{ answer }} {{ reference }}", True),
        ("{% if choices %}{{ reference }}{% endif %}", True),
        ("{{ answer }}", False),
        ("{% if reference %}It is {{ reference }}.{% endif %}", False),
        ("{{ reference if reference else 'unknown' }}", False),
        ("{{ reference or 'unknown' }}", False),
    ],
)
def test_a_prompt_needs_a_reference_that_it_shows_in_any_case(prompt: str, needs_it: bool) -> None:
    assert needs_reference(prompt) is needs_it
