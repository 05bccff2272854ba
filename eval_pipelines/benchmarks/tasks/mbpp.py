"""MBPP: the program in an answer, and the assertions that judge it.

Source  Austin et al. (2021), "Program Synthesis with Large Language Models"
"""

import ast
import builtins
from collections.abc import Mapping, Sequence
from typing import Any

from eval_pipelines.benchmarks import code_answers
from eval_pipelines.scoring.in_sandbox.tests import taken_from_outside
from eval_pipelines.scoring.sandbox import Job

Row = Mapping[str, Any]
_END = "[DONE]"


def completed(resps: Sequence[Sequence[str]], docs: Sequence[Row]) -> list[list[str]]:
    """Programs: completions as they are, up to the stop."""
    del docs
    return [[answer.split(_END)[0] for answer in answers] for answers in resps]


def extracted(resps: Sequence[Sequence[str]], docs: Sequence[Row]) -> list[list[str]]:
    """Programs in the answers of a chat."""
    return [
        [code_answers.of_chat(answer, _called(doc)) for answer in answers]
        for answers, doc in zip(resps, docs, strict=True)
    ]


def job(doc: Row, program: str) -> Job:
    """The program, with the data set's own set-up behind it; the same set-up before the assertions, outside.

    Outside only classes stand for the program's: values that assertions compare with must not come from its process.
    """
    setup = ast.parse("\n".join([*(doc.get("test_imports") or []), doc.get("test_setup_code") or ""])).body
    inside = "\n".join(ast.unparse(one) for one in setup)
    outside = [ast.unparse(one) for one in setup if not isinstance(one, ast.ClassDef)]
    tests = "\n".join([*outside, *doc["test_list"]])
    solution = _parsed(doc.get("code") or "")
    used = taken_from_outside(tests)
    # assertions may use a module that only the reference's program imports
    imports = [one for one in solution if _imported([one]) & {*used, "*"}]
    defined = _defined([*solution, *setup]) if solution else {*_called(doc)} - vars(builtins).keys()
    return Job(
        program=program,
        after_program=(inside,) if inside else (),
        setup="\n".join(ast.unparse(one) for one in imports),
        tests=tests,
        asked=tuple(sorted(used & defined)),
    )


def _called(doc: Row) -> tuple[str, ...]:
    """Names of the functions that the assertions call, the outermost first."""
    calls = [node.func for one in doc["test_list"] for node in ast.walk(ast.parse(one)) if isinstance(node, ast.Call)]
    return tuple(dict.fromkeys(call.id for call in calls if isinstance(call, ast.Name)))


def _parsed(code: str) -> list[ast.stmt]:
    try:
        return ast.parse(code).body
    except SyntaxError:
        return []


def _imported(code: Sequence[ast.stmt]) -> set[str]:
    found = [one.names for one in code if isinstance(one, ast.Import | ast.ImportFrom)]
    return {alias.asname or alias.name.partition(".")[0] for names in found for alias in names}


def _defined(code: Sequence[ast.stmt]) -> set[str]:
    """Functions and classes, and what else is assigned at the top."""
    found = {one.name for one in code if isinstance(one, ast.FunctionDef | ast.ClassDef)}
    assigned = [one.targets for one in code if isinstance(one, ast.Assign)]
    return found | {target.id for targets in assigned for target in targets if isinstance(target, ast.Name)}
