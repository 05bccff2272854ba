"""`benchmarks new`: a small benchmark that works, to be changed into one's own."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eval_pipelines.config import Config
from eval_pipelines.errors import ConfigError

Kind = Literal["generate", "choice", "python"]

_ROWS = [
    {"id": "france", "question": "What is the capital of France?", "answer": "Paris", "choices": ["Lyon", "Paris", "Nice"]},
    {"id": "italy", "question": "What is the capital of Italy?", "answer": "Rome", "choices": ["Rome", "Milan", "Turin"]},
    {"id": "japan", "question": "What is the capital of Japan?", "answer": "Tokyo", "choices": ["Osaka", "Kyoto", "Tokyo"]},
    {"id": "egypt", "question": "What is the capital of Egypt?", "answer": "Cairo", "choices": ["Giza", "Cairo", "Luxor"]},
]  # fmt: skip

_GENERATE = """\
# Asked as it stands in `prompt`, graded as `extract` and `metric` say. Check it with: eval-pipelines benchmarks validate {name}
description: Capitals of countries.
data: {name}.jsonl            # one JSON object a line; .csv, .parquet and hub data sets work too
id: "{{{{id}}}}"                  # names a sample for ever, wherever its row stands
prompt: "{{{{question}}}} Answer with its name only."
target: "{{{{answer}}}}"
extract: first_line           # text, first_line, last_line, number, choice_letter, {{regex: ...}}, {{json_field: ...}}
metric:                       # exact_match, includes, numeric, f1; the first is the one to quote
  - includes
  - exact_match: {{ignore_case: true, ignore_punctuation: true}}
max_tokens: 32
version: 1                    # raise it when the meaning changes
"""

_CHOICE = """\
# Each choice's log-likelihood after the prompt is compared. Check it with: eval-pipelines benchmarks validate {name}
description: Capitals of countries.
data: {name}.jsonl            # one JSON object a line; .csv, .parquet and hub data sets work too
id: "{{{{id}}}}"                  # names a sample for ever, wherever its row stands
prompt: "Question: {{{{question}}}}\\nAnswer:"
choices: choices              # a column, a list, or an expression
target: "{{{{answer}}}}"          # the right choice: its text, its place from 0, or its letter
metric: choice
version: 1                    # raise it when the meaning changes
"""

_PYTHON = '''\
"""Capitals of countries. Check it with: eval-pipelines benchmarks validate {name}"""

from typing import Any

DATA = "{name}.jsonl"
ID = "{{{{id}}}}"
TARGET = "{{{{answer}}}}"
MAX_TOKENS = 32
METRICS = ("correct", "is_short")  # what `score` gives; the first is the one to quote


def prompt(sample: dict[str, Any]) -> str:
    """What is asked; a template in PROMPT does as well."""
    return f"{{sample['question']}} Answer with its name only."


def score(sample: dict[str, Any], answer: str) -> dict[str, float]:
    """How good an answer is; one number alone does as well."""
    return {{"correct": sample["answer"].lower() in answer.lower(), "is_short": len(answer.split()) <= 3}}
'''

_TEXTS: dict[Kind, tuple[str, str]] = {
    "generate": ("yaml", _GENERATE),
    "choice": ("yaml", _CHOICE),
    "python": ("py", _PYTHON),
}


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, and the entry of evals.yaml that names it."""

    paths: tuple[Path, ...]
    entry: str


def write_new(name: str, kind: Kind, folder: Path) -> Written:
    """Write a benchmark and its data. Raises ConfigError where the name is none, or is taken."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{name!r} is no name: take lower-case letters, digits and '_', such as `my_benchmark`")
    suffix, text = _TEXTS[kind]
    paths = (folder / f"{name}.{suffix}", folder / f"{name}.jsonl")
    taken = [path for path in (*paths, folder / f"{name}.yaml", folder / f"{name}.py") if path.exists()]
    if taken:
        raise ConfigError(f"{taken[0]} is there already: choose another name, or change that file")
    folder.mkdir(parents=True, exist_ok=True)
    paths[0].write_text(text.format(name=name))
    paths[1].write_text("".join(json.dumps(row) + "\n" for row in _ROWS))
    protocol = "" if kind == "choice" else ", protocol: chat"
    return Written(paths, f"{name}: {{task: {name}{protocol}}}")


def add_entry(config: Config, entry: str) -> bool:
    """Add an entry to the `benchmarks` of evals.yaml, all else as it is; False where that cannot be done safely."""
    text = config.path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    at = next((i for i, line in enumerate(lines) if re.fullmatch(r"benchmarks:\s*(#.*)?\n?", line)), None)
    if at is None:
        return False
    following = next((line for line in lines[at + 1 :] if line.strip() and not line.lstrip().startswith("#")), "")
    indent = following[: len(following) - len(following.lstrip())] or "  "
    lines.insert(at + 1, f"{indent}{entry}\n")
    changed = "".join(lines)
    try:
        Config.parse(changed, path=config.path)
    except ConfigError:
        return False
    config.path.write_text(changed, encoding="utf-8")
    return True
