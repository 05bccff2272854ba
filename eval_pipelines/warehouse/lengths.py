"""From which landed files to learn how long answers are: a few, however many models were asked."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from eval_pipelines.warehouse.files import safe_name

MOST_TEACHERS = 3
_MOST_FILES = 8
_MOST_FILES_OF_A_MODEL = 2
_MOST_FOLDERS = 32


def teachers(folder: Path, model_key: str, benchmark: str) -> Iterator[Path]:
    """Files of landed responses, the likeliest to hold answers as long as this model's first.

    Another version of the same weights comes first, then the family's other revisions, the last ones first, then
    others. Of one model the largest files: the newest may hold the last few of many answers.

    Args:
        folder: `landing/responses`, with a folder for each model.
    """
    name = f"benchmark={safe_name('benchmark', benchmark)}"
    models = sorted(_names(folder), key=lambda one: _nearness(one, model_key), reverse=True)
    files = itertools.chain.from_iterable(_largest(folder / f"model={one}" / name) for one in models[:_MOST_FOLDERS])
    return itertools.islice(files, _MOST_FILES)


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name.removeprefix("model=") for entry in folder.iterdir()]
    except FileNotFoundError:
        return []


def _nearness(one: str, model_key: str) -> tuple[bool, bool, list[int], str]:
    family, _, revision = one.partition("@")
    # by their numbers: step-900 comes before step-1000
    return one == model_key, family == model_key.partition("@")[0], [*map(int, re.findall(r"\d+", revision))], one


def _largest(folder: Path) -> list[Path]:
    try:
        sizes = {path: path.stat().st_size for path in folder.glob("[!.]*.parquet")}
    except OSError:
        return []
    return sorted(sizes, key=lambda path: (-sizes[path], path.name))[:_MOST_FILES_OF_A_MODEL]
