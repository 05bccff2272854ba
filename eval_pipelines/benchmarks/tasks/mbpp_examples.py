"""The examples that MBPP shows. A file of its own: what decides verdicts changes no question."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

from eval_pipelines.errors import DataError


def examples() -> list[dict[str, Any]]:
    """The three solved tasks that lm-eval shows. They are read from its file: importing it would run code."""
    found = importlib.util.find_spec("lm_eval")
    assert found is not None, "lm-eval is a dependency of this project"
    assert found.origin, "lm-eval is a package"
    tree = ast.parse((Path(found.origin).parent / "tasks" / "mbpp" / "utils.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "list_fewshot_samples":
            (told,) = [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
            rows: list[dict[str, Any]] = ast.literal_eval(told) if told else []
            return rows
    raise DataError("the installed lm-eval shows no examples of MBPP: set `num_fewshot: 0`, or give a `fewshot_split`")
