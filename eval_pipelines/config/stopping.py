"""`stop_early` of a benchmark: asking ends once enough is known."""

from typing import Self

from pydantic import Field, model_validator

from eval_pipelines.records import Record


class StopEarly(Record):
    """When asking may end before its end. Questions are then asked in a random order, the same for every model."""

    half_width: float | None = Field(
        default=None,
        gt=0,
        lt=0.5,
        description="As soon as the 95 % interval is this narrow: 0.02 is plus or minus 0.02.",
    )
    decides: float | None = Field(
        default=None, gt=0, lt=1, description="As soon as it is known on which side of this value the result is."
    )
    batch: int = Field(default=100, ge=10, description="Questions between two looks.")
    seed: int = Field(default=0, ge=0, description="Of the random order.")

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        if self.half_width is None and self.decides is None:
            raise ValueError("needs `half_width`, `decides`, or both")
        return self
