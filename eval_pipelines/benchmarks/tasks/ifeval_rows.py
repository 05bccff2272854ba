"""Rows of IFEval, looked at before anything is asked. A file of its own: what decides verdicts changes no question."""

import random
from collections.abc import Mapping
from typing import Any

from eval_pipelines.benchmarks.tasks.ifeval import checks
from eval_pipelines.errors import DataError


def checked(rows: Any) -> Any:
    """The rows as they are.

    Raises:
        ConfigError: what the checks need is not installed.
        DataError: a row has an instruction without a check, or one that lacks what it is to be checked against.
    """
    known = checks().instructions_registry.INSTRUCTION_DICT
    for row in rows:
        for name, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if name not in known:
                raise DataError(
                    f"ifeval: row {row['key']}: no check is called {name!r}; they are called like {next(iter(known))!r}. "
                    f"`data.columns` can give them other names."
                )
            if _arguments(known[name], name, kwargs, seed=1) != _arguments(known[name], name, kwargs, seed=2):
                raise DataError(
                    f"ifeval: row {row['key']}: {name} lacks some of its arguments, which would be drawn at random"
                )
    return rows


def _arguments(check: Any, name: str, kwargs: Mapping[str, Any], *, seed: int) -> Any:
    """What an instruction would be checked against, if what is not told is drawn with this seed."""
    before = random.getstate()
    random.seed(seed)
    try:
        instruction = check(name)
        instruction.build_description(**{key: value for key, value in kwargs.items() if value})
        return instruction.get_instruction_args()
    finally:
        random.setstate(before)
