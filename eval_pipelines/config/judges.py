"""`judge` of a benchmark: which models judge its answers, what they are asked, and how their verdicts are read.

judge: {models: [judge@main], template: correctness}
judge: {models: [one@main, two@main, three@main], kind: pairwise, template: pairwise, baseline: smol@main}
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from eval_pipelines.config.generation import Generation
from eval_pipelines.errors import ConfigError, UnknownNameError
from eval_pipelines.keys import digest
from eval_pipelines.records import Record

FOLDER: Final = Path(__file__).parents[1] / "benchmarks" / "judging"
Kind = Literal["rubric", "pairwise"]
Aggregate = Literal["majority", "mean"]
# what a prompt may name, by kind
VARIABLES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "rubric": ("question", "answer", "reference", "choices", "doc"),
    "pairwise": ("question", "answer_a", "answer_b", "reference", "choices", "doc"),
}
_ANSWERS: Final[Mapping[Kind, tuple[str, ...]]] = {"rubric": ("answer",), "pairwise": ("answer_a", "answer_b")}
_SIDES = ("a", "b", "tie")
# what a last line is taken without
AROUND_A_LINE: Final = " \t*_`\"'."


class _Spec(Record):
    model_config = ConfigDict(allow_inf_nan=False)


class Scale(_Spec):
    """The numbers a judge may give; scores are normalised to 0..1."""

    low: float = Field(description="The worst.")
    high: float = Field(description="The best.")

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.low >= self.high:
            raise ValueError("`low` must be less than `high`")
        return self


class Extraction(_Spec):
    """Where in a judge's answer its verdict stands. Anything else there is no verdict."""

    regex: str | None = Field(default=None, description="Its only group is the verdict; all matches must say the same.")
    last_line: Literal[True] | None = Field(default=None, description="The last line is the verdict and nothing else.")
    json_field: str | None = Field(
        default=None, min_length=1, description="This field of the last JSON object in the answer is the verdict."
    )

    @field_validator("regex")
    @classmethod
    def _regex_has_one_group(cls, regex: str | None) -> str | None:
        if regex is not None:
            try:
                n_groups = re.compile(regex).groups
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from None
            if n_groups != 1:
                raise ValueError(f"must have one group, the verdict, not {n_groups}: such as `Rating: (\\d+)`")
        return regex

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(value is not None for value in (self.regex, self.last_line, self.json_field)) != 1:
            raise ValueError("needs exactly one of `regex`, `last_line` and `json_field`")
        return self


class Template(_Spec):
    """A named prompt with the verdicts it asks for: a file in eval_pipelines/benchmarks/judging/."""

    description: str
    kind: Kind
    system: str | None = None
    prompt: str
    scale: Scale | None = None
    labels: dict[str, float | str] | None = None
    extract: Extraction


def template_names() -> list[str]:
    """Of all built-in templates."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@lru_cache
def template(name: str) -> Template:
    """The built-in template of that name. Raises UnknownNameError, ConfigError."""
    if name not in template_names():
        add = f"create eval_pipelines/benchmarks/judging/{name}.yaml, or write a `prompt`"
        raise UnknownNameError("template", name, known=template_names(), add=add)
    path = FOLDER / f"{name}.yaml"
    try:
        return Template.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        raise ConfigError(f"{path}: {error}") from None


def _one_or_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class JudgeSpec(_Spec):
    """Who judges the answers of a benchmark, and how."""

    models: Annotated[
        tuple[str, ...],
        Field(min_length=1),
        BeforeValidator(_one_or_several, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]),
    ] = Field(description="the key of a model under `models`, or a list of them: each judges every answer")
    kind: Kind = Field(default="rubric", description="Each answer by itself, or beside the baseline's.")
    template: str | None = Field(default=None, min_length=1, description="Name of a built-in prompt.")
    prompt: str | None = Field(default=None, min_length=1, description="Your own prompt: Jinja text.")
    system: str | None = Field(default=None, description="System message; None: the template's, if any.")
    scale: Scale | None = Field(default=None, description="Verdicts are numbers between these.")
    labels: dict[str, float | str] | None = Field(
        default=None, description="Verdict → value from 0 to 1; `a`, `b` or `tie` where two answers are compared."
    )
    extract: Extraction | None = Field(default=None, description="Where the verdict stands in a judge's answer.")
    baseline: str | None = Field(default=None, description="Model whose answers are the others of a comparison.")
    swap: bool = Field(default=True, description="Ask each comparison in both orders; who wins in one only, has a tie.")
    aggregate: Aggregate | None = Field(
        default=None, description="Of several judges' verdicts; None: the mean of numbers, else the majority."
    )
    repeats: int = Field(default=1, ge=1, description="Answers of each judge to each question.")
    generation: Generation = Field(default_factory=dict, description="max_tokens, temperature, seed …")
    self_judging: bool = Field(default=False, description="Whether a model may judge its own answers.")
    max_failed_share: float | None = Field(
        default=None, ge=0, le=1, description="Share of answers that may stay without a verdict; None: the benchmark's."
    )

    _template: Template | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if (self.template is None) == (self.prompt is None):
            raise ValueError(f"needs exactly one of `template` ({', '.join(template_names())}) and `prompt`")
        if self.template is not None:
            try:
                self._template = template(self.template)
            except UnknownNameError as error:
                raise ValueError(str(error)) from None
            if self._template.kind != self.kind:
                raise ValueError(f"the template {self.template!r} is for `kind: {self._template.kind}`")
        if len({*self.models}) < len(self.models):
            raise ValueError("names a judge twice: use `repeats` for several answers of one judge")
        self._check_kind()
        check_prompt(self.rules.prompt, self.kind)
        if self.repeats > 1 and self.generation.get("temperature", 0) == 0:
            raise ValueError(
                f"`repeats: {self.repeats}` at temperature 0 gives the same verdict {self.repeats} times: "
                f"set `generation: {{temperature: 0.7}}`, or leave `repeats` out"
            )
        return self

    def _check_kind(self) -> None:
        is_pairwise = self.kind == "pairwise"
        if is_pairwise and self.baseline is None:
            raise ValueError("`kind: pairwise` needs `baseline`: the model whose answers are the others")
        if is_pairwise and self.scale is not None:
            raise ValueError("`kind: pairwise` takes `labels` (`a`, `b`, `tie`), not a `scale`")
        if not is_pairwise and (self.baseline is not None or not self.swap):
            raise ValueError("`baseline` and `swap` are for `kind: pairwise`")
        if self.scale is not None and self.labels is not None:
            raise ValueError("takes `scale` or `labels`, not both")
        rules = self.rules
        self._check_labels(rules)
        if rules.scale is None and not rules.labels:
            raise ValueError("needs a `scale` or `labels`: which verdicts are there?")
        if is_pairwise and not {"a", "b"} <= {*(rules.labels or {}).values()}:
            raise ValueError("needs a label for `a` and one for `b`")
        if rules.aggregate == "majority" and rules.scale is not None:
            raise ValueError("numbers of a `scale` have no majority: leave `aggregate` out, or set it to mean")

    def _check_labels(self, rules: "JudgeRules") -> None:
        seen: dict[str, str] = {}
        for label, value in (rules.labels or {}).items():
            if self.kind == "pairwise" and value not in _SIDES:
                raise ValueError(f"the label {label!r} must stand for `a`, `b` or `tie`")
            if self.kind != "pairwise" and (isinstance(value, str) or not 0 <= value <= 1):
                raise ValueError(f"the label {label!r} must have a value from 0 to 1")
            read = label.strip(AROUND_A_LINE if rules.extract.last_line else None)
            if read != label:
                raise ValueError(
                    f"the label {label!r} is never read, as verdicts are taken without what stands around them: write {read!r}"
                )
            if (other := seen.setdefault(label.casefold(), label)) != label:
                raise ValueError(f"the labels {other!r} and {label!r} are one: upper and lower case do not count")

    @property
    def rules(self) -> "JudgeRules":
        """This entry with what its template gives."""
        own = self._template
        # verdicts that the entry states replace the template's of either sort
        stated = self.scale is not None or self.labels is not None
        scale = self.scale if stated or own is None else own.scale
        labels = self.labels if stated or own is None else own.labels
        if labels is None and self.kind == "pairwise":
            labels = {"A": "a", "B": "b", "TIE": "tie"}
        return JudgeRules(
            kind=self.kind,
            system=self.system if self.system is not None or own is None else own.system,
            prompt=self.prompt or (own.prompt if own else ""),
            scale=scale,
            labels=labels,
            extract=self.extract or (own.extract if own else Extraction(last_line=True)),
            swap=self.kind == "pairwise" and self.swap,
            repeats=self.repeats,
            generation=self.generation,
            aggregate=self.aggregate or ("majority" if scale is None else "mean"),
        )


class JudgeRules(_Spec):
    """What judges are asked, and what is made of what they say."""

    kind: Kind
    system: str | None
    prompt: str
    scale: Scale | None
    labels: dict[str, float | str] | None
    extract: Extraction
    swap: bool
    repeats: int
    generation: dict[str, Any]
    aggregate: Aggregate

    @property
    def metric(self) -> str:
        """Name of the number people quote."""
        return "win_rate" if self.kind == "pairwise" else "judge_score"

    @property
    def asked(self) -> str:
        """Digest of what decides the questions."""
        return digest([self.kind, self.system, self.prompt, self.swap, self.repeats, self.generation], n_bytes=6)

    @property
    def graded(self) -> str:
        """Digest of what decides what is made of the judges' answers."""
        return digest(self.model_dump(mode="json", include={"scale", "labels", "extract", "aggregate"}), n_bytes=6)


def check_prompt(prompt: str, kind: Kind) -> None:
    """Raises ValueError for what is no Jinja text, names something unknown, or never shows what is judged."""
    from jinja2 import Environment, TemplateSyntaxError, meta

    try:
        named = meta.find_undeclared_variables(Environment(autoescape=False).parse(prompt))  # noqa: S701 - no HTML
    except TemplateSyntaxError as error:
        raise ValueError(f"the prompt is no Jinja text: line {error.lineno}: {error.message}") from None
    if unknown := sorted(named - {*VARIABLES[kind]}):
        raise ValueError(f"the prompt names {', '.join(unknown)}; there are {', '.join(VARIABLES[kind])}")
    if missing := [name for name in _ANSWERS[kind] if name not in named]:
        raise ValueError(f"the prompt never shows {{{{ {missing[0]} }}}}")


def needs_reference(prompt: str) -> bool:
    """Whether a prompt shows the `reference` without looking first whether there is one: `{% if reference %}`."""
    from jinja2 import Environment, nodes

    def names_it(node: nodes.Node) -> bool:
        found = [*([node] if isinstance(node, nodes.Name) else []), *node.find_all(nodes.Name)]
        return any(one.name == "reference" for one in found)

    tree = Environment(autoescape=False).parse(prompt)  # noqa: S701 - no HTML
    looks: list[nodes.Node] = [one.test for one in tree.find_all(nodes.If)]
    looks += [one.test for one in tree.find_all(nodes.CondExpr)]
    looks += [one.left for one in tree.find_all(nodes.Or)]
    return names_it(tree) and not any(names_it(one) for one in looks)
