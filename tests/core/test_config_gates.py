"""`gates` of evals.yaml: what may be written, and what is told of a mistake."""

import re
from pathlib import Path

import pytest
import yaml

from eval_pipelines.config import Config
from eval_pipelines.config.gates import Gate, GateLimits
from eval_pipelines.errors import ConfigError, UnknownNameError

pytestmark = pytest.mark.unit

BENCHMARKS = "benchmarks: {gsm8k: {task: gsm8k}, mmlu: {task: mmlu}}\n"


def parse(gates: str, rest: str = "") -> Config:
    return Config.parse(f"gates: {gates}\n{BENCHMARKS}{rest}", path=Path("evals.yaml"))


def problem(gates: str, rest: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(gates, rest)
    return str(caught.value).removeprefix("evals.yaml:1: gates.")


def test_what_a_benchmark_does_not_say_is_as_the_gates_defaults_say() -> None:
    config = parse(
        "{release: {defaults: {max_drop: 0.03, tier: supporting}, benchmarks: {gsm8k: , mmlu: {tier: critical, max_drop: 0}}}}"
    )
    gate = config.gate("release")
    gsm8k, mmlu = gate.policy("gsm8k"), gate.policy("mmlu")
    assert (gsm8k.tier, gsm8k.required, gsm8k.max_drop, gsm8k.min_coverage) == ("supporting", False, 0.03, 0.95)
    assert (mmlu.tier, mmlu.required, mmlu.max_drop) == ("critical", True, 0)
    assert (gate.baseline, gate.significance, gate.correction) == ("previous", 0.05, "holm")
    assert gate.applies_to("any")


def test_a_gate_may_be_for_some_families_only() -> None:
    models = "deployments: {d: {backend: hosted, base_url: 'http://x/v1'}}\nmodels: {a@1: {deployment: d}, b@1: {deployment: d}}"
    gate = parse("{g: {families: [a], baseline: a@1, benchmarks: {gsm8k: {max_drop: 0.1}}}}", models).gate("g")
    assert (gate.applies_to("a"), gate.applies_to("b")) == (True, False)


@pytest.mark.parametrize(
    ("gates", "told"),
    [
        ("{g: {benchmarks: {}}}", "g.benchmarks: must not be empty"),
        ("{g: {}}", "g.benchmarks: required, but missing: Benchmark → what it may lose."),
        ("{g: {benchmarks: {gsm8k: {}}}}", "g: gsm8k has no limit: set one of max_drop, max_relative_drop, min_value, max_value, "
         "there or in `defaults`"),
        ("{g: {benchmarks: {gsm8: {max_drop: 0.1}}}}", "g.benchmarks.gsm8: no benchmark is called 'gsm8'. Did you mean 'gsm8k'? "
         "Known: gsm8k, mmlu."),
        ("{g: {benchmarks: {gsm8k: {max_dorp: 0.1}}}}", "g.benchmarks.gsm8k.max_dorp: unknown key. Did you mean 'max_drop'?"),
        ("{g: {benchmarks: {gsm8k: {max_drop: -0.1}}}}", "g.benchmarks.gsm8k.max_drop: must be at least 0, not -0.1"),
        ("{g: {benchmarks: {gsm8k: {max_drop: 0.1, tier: criticl}}}}", "g.benchmarks.gsm8k.tier: must be 'critical', 'supporting' "
         "or 'advisory'. Did you mean 'critical'?"),
        ("{g: {benchmarks: {gsm8k: {max_drop: 0.1, relative_guard_below: 0.3}}}}", "g: gsm8k has relative_guard_below without the "
         "max_relative_drop that it guards"),
        ("{g: {benchmarks: {gsm8k: {min_value: 0.5, max_value: 0.3}}}}", "g: gsm8k: min_value 0.5 is above max_value 0.3"),
        ("{g: {benchmarks: {gsm8k: {max_relative_drop: 5}}}}", "g: gsm8k: max_relative_drop 5 is 500% of the baseline's value: "
         "write 0.05 for 5 %, or say `direction: lower_is_better` if it may rise so far"),
        ("{g: {benchmarks: {gsm8k: {max_drop: 0.1, metric: 'a,b,c'}}}}", "g.benchmarks.gsm8k.metric: must read `metric` or "
         "`metric,filter`, such as `exact_match,flexible-extract`"),
        ("{g: {baseline: prev, benchmarks: {gsm8k: {max_drop: 0.1}}}}", "g.baseline: must be `previous`, `best` or a model key such "
         "as smol@main, not 'prev'"),
        ("{g: {significance: 0.5, benchmarks: {gsm8k: {max_drop: 0.1}}}}", "g.significance: must be less than 0.5, not 0.5"),
        ("{g: {correction: bonferroni, benchmarks: {gsm8k: {max_drop: 0.1}}}}", "g.correction: must be 'holm', "
         "'benjamini_hochberg' or 'none'. Allowed: benjamini_hochberg, holm, none."),
        ("{re-lease: {benchmarks: {gsm8k: {max_drop: 0.1}}}}", "re-lease: a name here takes only lower-case letters, digits, '_', "
         "because it names Dagster assets: for example 're_lease'"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(gates: str, told: str) -> None:
    assert problem(gates) == told


def test_families_and_baselines_are_checked_where_they_can_be_known() -> None:
    models = "deployments: {d: {backend: hosted, base_url: 'http://x/v1'}}\nmodels: {smol@1: {deployment: d}}"
    gates = "{g: {families: [smoll], baseline: smol@2, benchmarks: {gsm8k: {max_drop: 0.1}}}}"
    assert problem(gates, models).splitlines() == [
        "g.baseline: no model is called 'smol@2'. Did you mean 'smol@1'? Known: smol@1.",
        "evals.yaml:1: gates.g.families[0]: no family is called 'smoll'. Did you mean 'smol'? Known: smol.",
    ]


def test_where_lower_is_better_more_than_all_of_it_may_be_gained() -> None:
    gate = parse("{g: {defaults: {direction: lower_is_better}, benchmarks: {gsm8k: {max_relative_drop: 1.5}}}}").gate(
        "g"
    )
    assert gate.policy("gsm8k").max_relative_drop == 1.5


def test_an_unknown_gate_is_told() -> None:
    with pytest.raises(UnknownNameError, match=r"no gate is called 'relase'\. Did you mean 'release'\?"):
        parse("{release: {benchmarks: {gsm8k: {max_drop: 0.1}}}}").gate("relase")


DOCUMENTED = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[2] / "docs" / "gates.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("text", DOCUMENTED, ids=range(len(DOCUMENTED)))
def test_every_policy_in_the_docs_is_right(text: str) -> None:
    names = {name for gate in yaml.safe_load(text)["gates"].values() for name in gate["benchmarks"]}
    benchmarks = "".join(f"  {name}: {{task: {name}}}\n" for name in sorted(names))
    models = "deployments: {d: {backend: embedded}}\nwatched: [{path: c, deployment: d, suite: gsm8k}]\n"
    config = Config.parse(f"{text}\n{models}benchmarks:\n{benchmarks}", path=Path("evals.yaml"))
    assert len(config.gates) == 1


def test_the_docs_name_every_key_of_a_policy() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gates.md").read_text()
    keys = {*Gate.model_fields, *GateLimits.model_fields} - {"benchmarks", "defaults"}
    assert [key for key in sorted(keys) if f"`{key}" not in text and f"{key}:" not in text] == []
