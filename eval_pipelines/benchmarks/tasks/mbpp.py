"""MBPP: the program in an answer, and the assertions that judge it.

Source  Austin et al. (2021), "Program Synthesis with Large Language Models"
"""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from eval_pipelines.benchmarks import code_answers
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
    """The program, then the data set's own set-up in its process; its imports and assertions outside."""
    told = [*(doc.get("test_imports") or []), doc.get("test_setup_code") or ""]
    setup = ast.parse("\n".join(told)).body
    imports = [ast.unparse(one) for one in setup if isinstance(one, ast.Import | ast.ImportFrom)]
    others = [ast.unparse(one) for one in setup if not isinstance(one, ast.Import | ast.ImportFrom)]
    return Job(
        program=program,
        after_program=("\n".join([*imports, *others]),) if setup else (),
        setup="\n".join(imports),
        tests="\n".join(doc["test_list"]),
        asked=tuple(sorted(set(_called(doc)) & _defined(doc.get("code") or ""))),
    )


def _called(doc: Row) -> tuple[str, ...]:
    """Names of the functions that the assertions call, the outermost first."""
    calls = [node.func for one in doc["test_list"] for node in ast.walk(ast.parse(one)) if isinstance(node, ast.Call)]
    return tuple(dict.fromkeys(call.id for call in calls if isinstance(call, ast.Name)))


def _defined(code: str) -> set[str]:
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return set()
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
