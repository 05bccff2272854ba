"""What judges say, as it is landed: a record like those of `records.py`."""

from pydantic import Field, model_validator

from eval_pipelines.records import Record


class Judgement(Record):
    """What one judge said of one answer, asked once: a verdict, or why there is none."""

    sample_id: str
    subtask: str
    answer_repeat: int = Field(ge=0, description="Which answer of the judged model to that sample.")
    judge: str = Field(description="Model key of the judge.")
    judge_fingerprint: str
    judge_evaluation_id: str = Field(description="The evaluation in which the judge was asked.")
    is_swapped: bool | None = Field(description="The judged answer stood second. None: it stood alone.")
    repeat: int = Field(ge=0, description="Which answer of the judge to that question.")
    request_digest: str
    verdict: str | None = Field(description="The label or number; win, loss or tie of a comparison. None: none.")
    value: float | None = Field(description="From 0 (worst) to 1 (best). None exactly if there is no verdict.")
    no_verdict_reason: str | None = Field(default=None, description="judge_unparseable, judge_timeout …")
    no_verdict_why: str | None = Field(default=None, description="In words.")
    text: str | None = Field(default=None, description="What the judge wrote, as it was read.")

    @model_validator(mode="after")
    def _no_verdict_has_a_reason(self) -> "Judgement":
        if (self.verdict is None) != (self.no_verdict_reason is not None) or (self.verdict is None) != (
            self.value is None
        ):
            raise ValueError("a judgement has a verdict with its value, or a reason why it has none")
        return self
