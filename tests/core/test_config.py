"""`evals.yaml`: what it means, and how its mistakes are told."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from eval_pipelines import plugins
from eval_pipelines.config import Config, load_config
from eval_pipelines.config.schema import config_schema
from eval_pipelines.errors import ConfigError, UnknownNameError

pytestmark = pytest.mark.unit

GOOD = """
data_root: ../record
deployments:
  small: {backend: local, threads: 4, max_in_flight: 8}
  openai: {backend: hosted, base_url: "https://api.example.com/v1", api_key_env: KEY}
models:
  smol@main: {deployment: small, weights: weights/smol}
  gpt@2024-01-01: {deployment: openai, served_name: gpt-x}
watched:
  - {path: ckpts, deployment: small, suite: quick, done_marker: DONE}
  - {path: /abs/more, family: smol, deployment: small, suite: arc, settle_s: 30}
benchmarks:
  gsm8k:
    task: gsm8k
    protocol: chat
    generation: {temperature: 1e-3, stop: ["Q:"]}
    version: 2
    data: {folder: own, splits: {test: cases.jsonl}}
  arc: {task: arc_easy, include: tasks}
suites:
  quick: [gsm8k, arc]
"""


class LocalSpec(BaseModel):
    """A backend that serves from files."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    threads: int = Field(default=1, ge=1)
    ports: tuple[int, ...] = ()


class HostedSpec(BaseModel):
    """A backend that someone else runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    base_url: str
    api_key_env: str | None = None


@pytest.fixture(autouse=True)
def _two_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    backends: dict[str, Any] = {
        "local": SimpleNamespace(Spec=LocalSpec, READS=frozenset({"gguf"})),
        "hosted": SimpleNamespace(Spec=HostedSpec, READS=frozenset(), bind=None),
    }

    def load(_package: str, name: str, *, kind: str) -> Any:
        if name not in backends:
            raise UnknownNameError(kind, name, known=list(backends))
        return backends[name]

    monkeypatch.setattr(plugins, "load", load)
    monkeypatch.setattr(plugins, "names", lambda _package: sorted(backends))


@pytest.fixture
def parse(tmp_path: Path) -> Callable[[str], Config]:
    return lambda text: Config.parse(text, path=tmp_path / "evals.yaml")


def problems(text: str) -> list[str]:
    """The lines of the error that `text` causes, as `line: place: message`."""
    with pytest.raises(ConfigError) as caught:
        Config.parse(text, path=Path("evals.yaml"))
    lines = str(caught.value).splitlines()
    assert all(line.startswith("evals.yaml:") for line in lines)
    return [line.removeprefix("evals.yaml:") for line in lines]


def test_a_good_file_becomes_specs_with_absolute_paths(parse: Callable[[str], Config], tmp_path: Path) -> None:
    config = parse(GOOD)
    assert (config.folder, config.data_root) == (tmp_path, tmp_path.parent / "record")
    small = config.deployment("small")
    assert (small.name, small.max_in_flight, small.keep_warm_s, small.needs_weights) == ("small", 8, 60, True)
    assert (small.spec, small.options) == (LocalSpec(threads=4), {"threads": 4})
    assert not config.deployment("openai").needs_weights
    assert config.models["smol@main"].weights == tmp_path / "weights/smol"
    assert config.models["gpt@2024-01-01"].served_name == "gpt-x", "a date in a key stays text"
    assert [root.path for root in config.watched] == [tmp_path / "ckpts", Path("/abs/more")]
    gsm8k = config.benchmark("gsm8k")
    assert gsm8k.data is not None
    assert (gsm8k.version, gsm8k.generation["temperature"], gsm8k.data.folder) == ("2", 0.001, tmp_path / "own")


def test_benchmarks_and_suites_expand_in_order_each_once(parse: Callable[[str], Config]) -> None:
    config = parse(GOOD)
    assert config.suite("quick") == ("gsm8k", "arc")
    assert config.expand(["arc", "quick"]) == ("arc", "gsm8k")
    with pytest.raises(UnknownNameError, match=r"no benchmark or suite is called 'quik'\. Did you mean 'quick'\?"):
        config.expand(["quik"])


def test_the_specs_are_frozen(parse: Callable[[str], Config]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(GOOD).benchmark("arc").limit = 3


def test_a_code_version_changes_with_its_own_entry_only(parse: Callable[[str], Config]) -> None:
    before, after = parse(GOOD), parse(GOOD.replace("task: arc_easy", "task: arc_easy, limit: 5"))
    assert before.benchmark("arc").code_version != after.benchmark("arc").code_version
    assert before.benchmark("gsm8k").code_version == after.benchmark("gsm8k").code_version
    assert len(after.benchmark("arc").code_version) == 12


def test_a_code_version_survives_a_moved_checkout_and_a_default_written_out() -> None:
    here = Config.parse(GOOD, path=Path("/here/evals.yaml"))
    there = Config.parse(
        GOOD.replace("task: arc_easy", "task: arc_easy, max_attempts: 4"), path=Path("/there/evals.yaml")
    )
    for name in ("arc", "gsm8k"):
        assert here.benchmark(name).code_version == there.benchmark(name).code_version


def test_one_entry_may_be_based_on_another(parse: Callable[[str], Config]) -> None:
    config = parse("deployments:\n  a: &a {backend: local, threads: 2}\n  b: {<<: *a, threads: 3}\n")
    assert config.deployment("b").spec == LocalSpec(threads=3)


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    assert problems(
        "deployments:\n"
        "  small:\n"
        "    backend: local\n"
        "    max_in_flite: 24\n"
        "    threads: 0\n"
        "models:\n"
        "  smol: {deployment: smal}\n"
    ) == [
        "4: deployments.small.max_in_flite: unknown key. Did you mean 'max_in_flight'?",
        "5: deployments.small.threads: must be at least 1, not 0",
        "7: models.smol: 'smol' is no model key: it must read family@revision, for example smol@main.",
        "7: models.smol.deployment: no deployment is called 'smal'. Did you mean 'small'? Known: small.",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("benchmark: {}", "1: benchmark: unknown key. Did you mean 'benchmarks'?"),
        ("watched: {path: x}", "1: watched: must be a list (lines that start with `- `), not a mapping"),
        ("suites: [a]", "1: suites: must be a mapping of names to values, not a list"),
        (
            "data_root: s3://b/x",
            "1: data_root: must be the path of a folder, such as `data`; an object store goes into `store`",
        ),
        ("deployments: {a: }", "1: deployments.a: must be a mapping of names to values, not empty"),
        (
            "deployments: {a: {backend: lokal}}",
            "1: deployments.a.backend: no backend is called 'lokal'. Did you mean 'local'? Known: hosted, local.",
        ),
        (
            "deployments: {a: {}}",
            "1: deployments.a.backend: required, but missing: the name of a file in eval_pipelines/serving/backends/",
        ),
        ("deployments: {a: {backend: hosted}}", "1: deployments.a.base_url: required, but missing"),
        (
            "deployments:\n  a:\n    backend: local\n    ports:\n      - 1\n      - x",
            "6: deployments.a.ports[1]: must be a whole number, not text",
        ),
        (
            "deployments: {a: {backend: local, env: {OMP: 4}}}",
            "1: deployments.a.env.OMP: must be text, not a number: put it in quotes",
        ),
        (
            "deployments: {a: {backend: local, keep_warm_s: .inf}}",
            "1: deployments.a.keep_warm_s: must be a finite number, not inf",
        ),
        (
            "deployments: {a: {backend: local, max_in_flight: true}}",
            "1: deployments.a.max_in_flight: must be a whole number, not true/false",
        ),
        (
            "deployments: {A b: {backend: local}}",
            "1: deployments.A b: a name here takes only lower-case letters, digits, '_' and '-': for example 'a-b'",
        ),
        ("benchmarks:\n  a: {task: x}\n  a: {task: y}", "3: benchmarks.a: written twice; the first is on line 2"),
        (
            "benchmarks: {a: {task: x, protocol: chats}}",
            "1: benchmarks.a.protocol: must be 'chat' or 'completions'. Did you mean 'chat'?",
        ),
        (
            "benchmarks: {a: {task: x, data: {splits: {test: a.csv}}}}",
            "1: benchmarks.a.data: needs exactly one of `package`, `folder` and `hub`",
        ),
        (
            "benchmarks: {a: {task: x, data: {folder: x, spilts: {}, splits: {test: a.csv}}}}",
            "1: benchmarks.a.data.spilts: unknown key. Did you mean 'splits'?",
        ),
        (
            "benchmarks: {a: {task: x, headline: 'a,b,c'}}",
            "1: benchmarks.a.headline: must read `metric` or `metric,filter`, such as `exact_match,flexible-extract`",
        ),
        (
            "benchmarks: {a: {task: x, version: 1.10}}",
            "1: benchmarks.a.version: must be text, not 1.1: put it in quotes",
        ),
        (
            "benchmarks: {gsm8k: {task: x}}\nsuites:\n  s:\n    - gsm8k\n    - gsm8",
            "5: suites.s[1]: no benchmark is called 'gsm8'. Did you mean 'gsm8k'? Known: gsm8k.",
        ),
        (
            "benchmarks: {a: {task: x}}\nsuites: {a: [a]}",
            "2: suites.a: a benchmark has this name already; give the suite another",
        ),
        ("suites: {s: []}", "1: suites.s: must not be empty"),
        ("suites: !include x.yaml", "1: suites: the tag !include is not supported; write plain YAML"),
        ("suites: &a [*a]", "1: suites[0]: an alias that contains itself"),
    ],
)
def test_a_mistake_is_told_with_its_line_its_place_and_what_would_be_right(text: str, problem: str) -> None:
    assert problem in problems(text)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("models: {a@b: {deployment: d}}", "models.a@b: `weights` is missing: 'd' serves from files, so it needs"),
        ("watched: [{path: x, deployment: h, suite: b}]", "watched[0].deployment: 'h' does not serve from files"),
        ("watched: [{path: x, deployment: d, suite: c}]", "watched[0].suite: no suite is called 'c'"),
        (
            "watched: [{path: x, deployment: d, suite: b}, {path: ./x, deployment: d, suite: b}]",
            "watched[1].path: is watched",
        ),
        (
            "watched: [{path: x, done_marker: a/b, deployment: d, suite: b}]",
            "watched[0].done_marker: must be a file name",
        ),
        (
            "watched: [{path: x, family: Big Model, deployment: d, suite: b}]",
            "watched[0].family: 'Big Model' is no usable",
        ),
    ],
)
def test_entries_must_fit_together(entry: str, problem: str) -> None:
    base = "deployments: {d: {backend: local}, h: {backend: hosted, base_url: u}}\nbenchmarks: {b: {task: b}}\n"
    (found,) = problems(base + entry)
    assert found.startswith(f"3: {problem}")


def test_a_broken_deployment_is_not_also_called_unknown() -> None:
    (found,) = problems("deployments: {d: {backend: local, threads: x}}\nmodels: {a@b: {deployment: d}}")
    assert "threads" in found


def test_an_environment_variable_is_refused_and_no_value_is_ever_quoted() -> None:
    (found,) = problems('deployments: {a: {backend: local, env: {TOKEN: "sk-123${REST}"}}}')
    assert "api_key_env" in found
    assert "sk-123" not in found


def test_the_schema_knows_the_options_of_every_backend() -> None:
    schema = json.loads(json.dumps(config_schema()))
    local = next(
        one for one in schema["properties"]["deployments"]["additionalProperties"]["oneOf"] if one["title"] == "local"
    )
    assert {"threads", "max_in_flight", "backend"} <= set(local["properties"])
    assert local["properties"]["backend"] == {"const": "local"}
    assert "DataSource" in schema["$defs"]
    assert set(schema["properties"]) == {
        "data_root",
        "store",
        "machine",
        "prices",
        "deployments",
        "models",
        "watched",
        "benchmarks",
        "suites",
        "gates",
    }


def test_the_file_of_this_repository_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    config = load_config(Path(__file__).parents[2] / "evals.yaml")
    assert config.benchmarks
    for suite in config.suites:
        assert config.expand([suite])


def test_importing_the_configuration_is_cheap() -> None:
    heavy = "{'dagster', 'pandas', 'pyarrow', 'duckdb', 'numpy', 'lm_eval', 'httpx'}"
    code = f"import sys, eval_pipelines.config; found = {heavy} & set(sys.modules); sys.exit(str(found or '') or 0)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)
