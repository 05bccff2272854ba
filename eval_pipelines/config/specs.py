"""What one entry of `evals.yaml` may hold: frozen, strictly checked records.

`config.py` reads the file, resolves paths and checks that names which are referred to exist.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    field_validator,
    model_validator,
)

from eval_pipelines.config.generation import MAX_STOPS_OF_CHAT, Generation
from eval_pipelines.config.interceptors import ASKING, Interceptors
from eval_pipelines.config.judges import JudgeSpec
from eval_pipelines.config.stopping import StopEarly
from eval_pipelines.errors import ModelKeyError
from eval_pipelines.keys import ModelKey, digest
from eval_pipelines.records import Record

DATA_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")


_ONLY_GRADING = ("unparseable", "grading_timeout_s", "judge")


class SpecRecord(Record):
    """Frozen, refuses unknown keys and numbers that are none."""

    model_config = ConfigDict(allow_inf_nan=False)


def _whole_number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_or_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len({*names}) < len(names):
        raise ValueError("names a deployment twice")
    return names


def _names_a_metric(name: str) -> str:
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 2 or not all(parts):
        raise ValueError("must read `metric` or `metric,filter`, such as `exact_match,flexible-extract`")
    return ",".join(parts)


MetricName = Annotated[str, AfterValidator(_names_a_metric)]
DeploymentNames = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    AfterValidator(_each_once),
    BeforeValidator(_one_or_several, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]),
]
_DEPLOYMENT = "the name of a deployment above, or a list of them: the first that reads the weights' layout serves them"


class ModelEntry(SpecRecord):
    """A model named by hand."""

    deployment: DeploymentNames = Field(description=_DEPLOYMENT)
    weights: Path | None = Field(default=None, description="Folder or file; not needed where someone else serves it.")
    served_name: str | None = Field(default=None, min_length=1, description="What the address calls the model.")
    interceptors: Interceptors = Field(default=(), description="After those of the benchmark, in this order.")


class WatchedRoot(SpecRecord):
    """A folder in which finished checkpoints appear."""

    path: Path = Field(description="a folder that holds <family>/<revision>, or <revision> if `family` is given")
    family: str | None = Field(default=None, description="None: the name of the folder above the checkpoint.")
    deployment: DeploymentNames = Field(description=_DEPLOYMENT)
    suite: str = Field(description="the name of a suite or benchmark")
    done_marker: str | None = Field(default=None, description="File whose presence means finished, e.g. `DONE`.")
    settle_s: float = Field(default=0, ge=0, description="Without a marker: seconds its newest file must be old.")
    interceptors: Interceptors = Field(default=(), description="After those of the benchmark, in this order.")

    @field_validator("done_marker")
    @classmethod
    def _marker_is_a_file_name(cls, marker: str | None) -> str | None:
        if marker is not None and (not marker.strip(".") or "/" in marker):
            raise ValueError("must be a file name without a folder, such as `DONE`")
        return marker

    @field_validator("family")
    @classmethod
    def _family_is_part_of_a_key(cls, family: str | None) -> str | None:
        if family is not None:
            try:
                ModelKey(family, "main")
            except ModelKeyError as error:
                raise ValueError(str(error)) from None
        return family


class DataSource(SpecRecord):
    """Where a benchmark's samples come from, in place of the task's own source."""

    package: str | None = Field(default=None, description="An installed Python package that carries the files.")
    folder: Path | None = Field(default=None, description="A folder, relative to evals.yaml.")
    hub: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$", description="A data set there: `org/name`.")
    config: str | None = Field(default=None, min_length=1, description="Of a hub data set: which of its parts.")
    revision: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{40}$", description="Of a hub data set: the commit, 40 hex digits."
    )
    splits: dict[str, str] = Field(
        min_length=1, description="split name → file in that package or folder, or split of the hub data set"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="Target column → Jinja text; starts with `=`: Jinja expression."
    )
    subset_column: str | None = Field(default=None, description="Column that tells the subtasks apart.")

    @field_validator("package")
    @classmethod
    def _package_is_a_module_name(cls, package: str | None) -> str | None:
        if package is not None and not all(part.isidentifier() for part in package.split(".")):
            raise ValueError("must be the import name of a Python package, such as `my_evals.data`")
        return package

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(one is not None for one in (self.package, self.folder, self.hub)) != 1:
            raise ValueError("needs exactly one of `package`, `folder` and `hub`")
        if self.hub is None and (self.config or self.revision):
            raise ValueError("`config` and `revision` are of a `hub` data set, and none is named")
        if self.hub is not None and self.revision is None:
            raise ValueError(
                "a hub data set needs its `revision` (the commit, 40 hex digits): a branch may hold other rows tomorrow"
            )
        return self

    @model_validator(mode="after")
    def _files_can_be_read(self) -> Self:
        for split, file in self.splits.items() if self.hub is None else ():
            if not file.endswith(DATA_SUFFIXES):
                raise ValueError(f"the file of {split!r} must end in {', '.join(DATA_SUFFIXES)}")
            if PurePosixPath(file).is_absolute():
                raise ValueError(f"the file of {split!r} must be relative to its package or folder")
        return self

    @property
    def in_words(self) -> str:
        """Where the rows come from."""
        if self.hub is not None:
            return " ".join(one for one in (f"hub {self.hub}", self.config, f"@{str(self.revision)[:12]}") if one)
        return str(self.package or self.folder)


class BenchmarkSpec(SpecRecord):
    """What is asked, and how: an lm-eval task with its parameters."""

    task: str = Field(min_length=1, description="an lm-eval task, group or tag, or a benchmark of your own")
    protocol: Literal["chat", "completions"] = "completions"
    num_fewshot: int | None = Field(default=None, ge=0, description="None: the task's own number.")
    fewshot_split: str | None = Field(default=None, min_length=1, description="None: the task's own split.")
    fewshot_sampler: Literal["default", "first_n"] | None = Field(
        default=None, description="`default` draws at random, `first_n` takes the first; None: the task's own."
    )
    fewshot_seed: int = Field(default=1234, ge=0, description="Draws the examples; lm-eval's own by default.")
    fewshot_as_multiturn: bool = Field(
        default=True, description="Chat: each example is a question and an answer of its own. Off: all in one message."
    )
    split: str | None = Field(default=None, min_length=1, description="Evaluated; None: the task's own split.")
    limit: int | None = Field(default=None, ge=1, description="First samples per subtask; None: all.")
    headline: MetricName | None = Field(
        default=None, description="The number people quote: `metric` or `metric,filter`."
    )
    version: Annotated[str, BeforeValidator(_whole_number_as_text, json_schema_input_type=str | int)] = Field(
        default="1", min_length=1, description="Bumped by a person when the meaning changes."
    )
    max_failed_share: float = Field(default=0.05, ge=0, le=1, description="Share of requests that may fail.")
    max_attempts: int = Field(default=4, ge=1, description="HTTP round trips one request may take.")
    stop_early: StopEarly | None = Field(default=None, description="When asking may end before its end.")
    repeats: int | None = Field(
        default=None, ge=1, description="Answers to each question, whose mean counts; None: the task's own number."
    )
    generation: Generation = Field(default_factory=dict, description="max_tokens, temperature, stop, seed …")
    system_prompt: str | None = None
    unparseable: Literal["wrong", "ungraded"] | None = Field(
        default=None, description="What an answer counts as in which nothing was found; None: as the scorer says."
    )
    cluster: str | None = Field(
        default=None,
        min_length=1,
        description="Column that questions share which belong together, or `subtask`; None: as known of the task.",
    )
    grading_timeout_s: float = Field(default=10, gt=0, description="CPU seconds the grading of one answer may take.")
    data: DataSource | None = Field(default=None, description="In place of the task's own source.")
    include: Path | None = Field(
        default=None, description="Folder with your own benchmarks; None: `benchmarks` beside evals.yaml."
    )
    judge: JudgeSpec | None = Field(default=None, description="Models that judge the answers.")
    interceptors: Interceptors = Field(default=(), description="What stands around its requests, in this order.")

    _code_version: str = PrivateAttr(default="")
    _asking_version: str = PrivateAttr(default="")

    def model_post_init(self, _context: Any, /) -> None:
        """Take the digest of what was written, before paths are made absolute: a moved checkout is no change."""
        # Defaults stay out, so that a release that adds a field does not mark every cell as outdated.
        written = self.model_dump(mode="json", exclude_defaults=True)
        self._code_version = digest(written, n_bytes=6)
        if self.judge is not None:
            # a template counts by what it says
            rules = self.judge.rules
            self._code_version = digest([self._code_version, rules.asked, rules.graded], n_bytes=6)
        asked = {name: value for name, value in written.items() if name not in _ONLY_GRADING}
        if self.interceptors:
            asking = [entry.in_words for entry in self.interceptors if entry.is_of(ASKING)]
            left = {name: value for name, value in asked.items() if name != "interceptors"}
            asked = left | ({"interceptors": asking} if asking else {})
        self._asking_version = digest(asked, n_bytes=6)

    @property
    def asking_version(self) -> str:
        """As `code_version`, but the same for what only changes how answers are graded."""
        return self._asking_version

    @property
    def judging_version(self) -> str:
        """Digest of what decides which questions judges are asked, and who is; empty without `judge`."""
        if self.judge is None:
            return ""
        return digest([self._asking_version, self.judge.models, self.judge.baseline, self.judge.rules.asked], n_bytes=6)

    @property
    def code_version(self) -> str:
        """Digest of everything in this entry as the file has it, 12 hex digits; changes with any of its values."""
        return self._code_version

    @model_validator(mode="after")
    def _repeats_can_differ(self) -> Self:
        if (self.repeats or 1) > 1 and self.generation.get("temperature") == 0:
            raise ValueError(
                f"`repeats: {self.repeats}` at temperature 0 gives the same answer {self.repeats} times: "
                f"set `generation: {{temperature: 0.7}}`, or leave `repeats` out"
            )
        return self

    @model_validator(mode="after")
    def _stops_fit_a_chat(self) -> Self:
        stop = self.generation.get("stop")
        if self.protocol == "chat" and isinstance(stop, list) and len(stop) > MAX_STOPS_OF_CHAT:
            raise ValueError(f"`generation.stop` has {len(stop)} texts, and chat endpoints take {MAX_STOPS_OF_CHAT}")
        return self


class SuiteEntry(RootModel[Annotated[tuple[str, ...], Field(min_length=1)]]):
    """The names of the benchmarks in a suite."""
