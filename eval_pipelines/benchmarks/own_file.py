"""A benchmark of one's own in one file: data, prompt, extractor and metric; as YAML, or as Python with a scorer.

Either becomes the configuration of an lm-eval task, so that prompts, few-shot examples, filters and versions go the
one way that all benchmarks go. Reading a file imports no lm-eval; a YAML file runs nothing.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from eval_pipelines.benchmarks.own_mistakes import mistakes_in
from eval_pipelines.benchmarks.own_modules import load_module
from eval_pipelines.benchmarks.own_scoring import (
    ExtractBy,
    ExtractName,
    FunctionScorer,
    Gold,
    MetricBy,
    MetricName,
    RowFunction,
    Scorer,
    metric_in_words,
)
from eval_pipelines.benchmarks.reach import reached
from eval_pipelines.config import BenchmarkSpec, DataSource
from eval_pipelines.config.generation import MAX_STOPS_OF_CHAT
from eval_pipelines.errors import ConfigError
from eval_pipelines.keys import digest

EVALUATED, EXAMPLES = "test", "examples"
# columns that such a file adds to its rows: a sample's name, and an answer that must score 1.0
SAMPLE_ID, GOLD = "_sample_id", "_gold"
# what a Python file's own function stands for in its place
FUNCTION = "a function"
_FUNCTIONS = ("prompt", "target", "score")


class OwnBenchmark(BaseModel):
    """What such a file says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    data: str | dict[str, Any] = Field(
        description="A file beside this one (.jsonl, .json, .csv, .parquet), or what `data` takes in evals.yaml."
    )
    prompt: str = Field(min_length=1, description="Jinja, from the columns of a row.")
    target: str = Field(description="Jinja: the right answer, or a list of them; of choices, their text.")
    choices: str | list[str] | None = Field(
        default=None, description="Texts, or an expression or column that gives them."
    )
    id: str | None = Field(default=None, description="Jinja: a sample's name that stays when rows are added.")
    gold: str | None = Field(default=None, description="Jinja: an answer that must score 1.0; None: the target.")
    answer_in_prompt: bool = Field(default=False, description="Finding the answer in the prompt is the task.")
    extract: ExtractName | ExtractBy = Field(default="text", description="What of the answer is graded.")
    metric: MetricName | MetricBy | list[MetricName | MetricBy] = Field(
        default="exact_match", description="The first is the one to quote. `judged`: only models judge the answers."
    )
    examples: str | None = Field(default=None, description="File with few-shot examples, beside this one.")
    num_fewshot: int = Field(default=0, ge=0)
    stop: list[str] = Field(default_factory=list, description="Ends an answer.")
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0, ge=0)
    system: str = Field(default="", description="Stands before the question, or is the system message of a chat.")
    description: str = ""
    version: str | int | float = Field(default=1, description="Bumped by a person when the meaning changes.")
    higher_is_better: bool = True
    tag: str | list[str] | None = None
    metrics: list[str] | None = Field(default=None, description="Python: the names that `score` gives, first to quote.")

    @field_validator("prompt", "target", "choices", "id", "gold", "system")
    @classmethod
    def _is_a_template(cls, text: Any) -> Any:
        from jinja2 import Environment, TemplateSyntaxError

        try:
            if isinstance(text, str) and not text.startswith("="):
                Environment(autoescape=True).parse(text)
        except TemplateSyntaxError as error:
            raise ValueError(f"{text!r} is no Jinja template: {error.message}") from None
        return text

    @model_validator(mode="before")
    @classmethod
    def _judged_needs_no_target(cls, given: Any) -> Any:
        is_judged = isinstance(given, dict) and given.get("metric") in ("judged", ["judged"])
        return {"target": "", **given} if is_judged else given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.metric_list:
            raise ValueError("`metric` names none: give one, or leave it out for exact_match")
        if self.by_likelihood and self.choices is None:
            raise ValueError("`metric: choice` compares the log-likelihoods of `choices`: give them")
        if self.by_likelihood and len(self.metric_list) > 1:
            raise ValueError("`metric: choice` stands alone: answers that are read have no log-likelihoods")
        if "judged" in self.metric_list and len(self.metric_list) > 1:
            raise ValueError("`metric: judged` stands alone: with another metric, judges may judge as well")
        if not self.target and not self.is_judged:
            raise ValueError("`target` must not be empty")
        if self.extract == "choice_letter" and self.choices is None:
            raise ValueError("`extract: choice_letter` needs `choices`: it looks for the letter of one")
        if self.num_fewshot and self.examples is None and not isinstance(self.data, dict):
            raise ValueError("`num_fewshot` needs `examples`: a file with rows that are not evaluated")
        return self

    @property
    def metric_list(self) -> list[MetricName | MetricBy]:
        """The metrics as a list."""
        return list(self.metric) if isinstance(self.metric, list) else [self.metric]

    @property
    def is_judged(self) -> bool:
        """Whether nothing but models that judge says how good an answer is."""
        return "judged" in self.metric_list

    @property
    def by_likelihood(self) -> bool:
        """Whether choices are compared by their log-likelihood; nothing is generated then."""
        return "choice" in self.metric_list


class OwnTask(BaseModel):
    """One file, read.

    Attributes:
        config: of lm-eval's task, without data; names of functions are resolved.
        source: of the rows that the file names.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    config: dict[str, Any]
    source: DataSource
    said: OwnBenchmark


def read_own(path: Path) -> OwnTask:
    """The benchmark in a file, named as the file is.

    Raises:
        ConfigError: it does not hold what a benchmark needs; all that is wrong, with its place.
    """
    written, module = (_read_yaml(path), None) if path.suffix == ".yaml" else _read_python(path)
    functions = {name: getattr(module, name) for name in _FUNCTIONS if callable(getattr(module, name, None))}
    fields = written | {name: FUNCTION for name in functions if name != "score"}
    try:
        said = OwnBenchmark.model_validate(fields)
    except ValidationError as invalid:
        raise _wrong(path, mistakes_in(invalid, OwnBenchmark)) from None
    try:
        source = _source(said, path.parent)
    except ValidationError as invalid:
        raise _wrong(path, mistakes_in(invalid, DataSource, inside="data")) from None
    config = _config(said, path.stem) | _functions(said, functions, path)
    return OwnTask(config=config, source=source, said=said)


def _wrong(path: Path, mistakes: list[str]) -> ConfigError:
    return ConfigError("\n".join(f"{path}: {one}" for one in mistakes))


def too_many_stops(config: dict[str, Any], spec: BenchmarkSpec) -> str | None:
    """What is wrong where a chat would be asked with fewer stops than the file says."""
    stop = (config.get("generation_kwargs") or {}).get("until") or []
    if spec.protocol != "chat" or "stop" in spec.generation or len(stop) <= MAX_STOPS_OF_CHAT:
        return None
    return f"`stop` of {config['task']} has {len(stop)} texts, and chat endpoints take {MAX_STOPS_OF_CHAT}"


def _config(said: OwnBenchmark, name: str) -> dict[str, Any]:
    common: dict[str, Any] = {
        "task": name,
        "test_split": EVALUATED,
        "fewshot_split": EXAMPLES if said.examples or (isinstance(said.data, dict) and said.num_fewshot) else None,
        "doc_to_text": said.prompt,
        "doc_to_target": said.target,
        "description": said.system,
        "num_fewshot": said.num_fewshot,
        "metadata": {"version": said.version},
    }
    gold = Gold(said.target, said.choices)
    if said.by_likelihood:
        metrics = [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in ("acc", "acc_norm")]
        choice = {"output_type": "multiple_choice", "doc_to_choice": said.choices, "doc_to_target": gold}
        return common | choice | {"metric_list": metrics}
    step = _filter_step(said)
    name = step.get("function", "text")
    asked = common | {
        "output_type": "generate_until",
        "generation_kwargs": {"until": said.stop, "max_gen_toks": said.max_tokens, "temperature": said.temperature},
        "filter_list": [{"name": name, "filter": [*([step] if step else []), {"function": "take_first"}]}],
    }
    if said.is_judged:
        return asked | {"metric_list": [{"metric": "bypass", "aggregation": "bypass", "higher_is_better": True}]}
    scorer = Scorer([metric_in_words(one) for one in said.metric_list], gold, name)
    return asked | {"process_results": scorer, "metric_list": _metric_list(scorer.names, said)}


def _functions(said: OwnBenchmark, functions: dict[str, Callable[..., Any]], path: Path) -> dict[str, Any]:
    """What a Python file's own functions replace."""
    given: dict[str, Any] = {
        f"doc_to_{kind}": RowFunction(functions[name], name, _version(path, name))
        for kind, name in (("text", "prompt"), ("target", "target"))
        if name in functions
    }
    if "score" in functions:
        if said.by_likelihood:
            raise ConfigError(f"{path}: `score` reads answers, and METRIC = 'choice' asks for none: leave one out")
        names = tuple(said.metrics or ("score",))
        given["process_results"] = FunctionScorer(functions["score"], names, _version(path))
        given["metric_list"] = _metric_list(names, said)
    return given


def _metric_list(names: tuple[str, ...], said: OwnBenchmark) -> list[dict[str, Any]]:
    return [{"metric": name, "aggregation": "mean", "higher_is_better": said.higher_is_better} for name in names]


def _filter_step(said: OwnBenchmark) -> dict[str, Any]:
    """What is taken of an answer; nothing where all of it is graded."""
    if isinstance(said.extract, ExtractBy):
        if said.extract.regex is not None:
            return {"function": "regex", "regex_pattern": said.extract.regex, "group_select": -1}
        return {"function": "json_field", "field": said.extract.json_field}
    if said.extract == "choice_letter":
        return {"function": "choice_letter", "choices": said.choices}
    return {} if said.extract == "text" else {"function": said.extract}


def _source(said: OwnBenchmark, folder: Path) -> DataSource:
    given: dict[str, Any] = dict(said.data) if isinstance(said.data, dict) else {"splits": {EVALUATED: said.data}}
    if not {"hub", "package"} & {*given}:
        given.setdefault("folder", ".")
    if said.examples is not None:
        given["splits"] = {**given.get("splits", {}), EXAMPLES: said.examples}
    added = {SAMPLE_ID: said.id, GOLD: said.gold}
    given["columns"] = {**given.get("columns", {}), **{name: text for name, text in added.items() if text is not None}}
    # a path is text in YAML
    source = DataSource.model_validate(given, strict=False)
    return source.model_copy(update={"folder": folder / source.folder}) if source.folder else source


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(written, dict):
        raise ConfigError(f"{path} holds no mapping of names to values")
    return written


def _read_python(path: Path) -> tuple[dict[str, Any], ModuleType]:
    module = load_module(path)
    constants = {
        name.lower(): list(value) if isinstance(value, tuple) else value
        for name, value in vars(module).items()
        if name.isupper() and name.lower() in OwnBenchmark.model_fields
    }
    return {"description": (module.__doc__ or "").strip()} | constants, module


def _version(path: Path, *roots: str) -> str:
    """A digest of what a Python file does, comments apart: all of it, or what some of its functions reach."""
    tree = ast.parse(path.read_text(encoding="utf-8-sig"), str(path))
    return digest([ast.dump(reached(tree, roots) if roots else tree)], n_bytes=6)
