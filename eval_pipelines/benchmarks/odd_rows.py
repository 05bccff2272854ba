"""Which row it is that no question can be made of, and why: what tasks and authors' functions raise names no row."""

import sysconfig
import traceback
from pathlib import Path
from typing import Any

from eval_pipelines.benchmarks.own_file import SAMPLE_ID

_MAKING = ("doc_to_text", "doc_to_target", "doc_to_choice")
_NOT_THE_AUTHORS = (str(Path(__file__).parents[1]), sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), "<")


def sample_id_of(task: str, doc: Any, place: int) -> str:
    """The id of the sample that a row is: by the name that it has, or else by its place from 0."""
    return f"{task}/{doc.get(SAMPLE_ID, place) if isinstance(doc, dict) else place}"


def odd_sample(task: Any) -> str | None:
    """The id of the first sample that no question, target or choices can be made of; None if it is none of them."""
    made = [getattr(task, name) for name in _MAKING if name != "doc_to_choice" or task.config.doc_to_choice]
    for place, doc in enumerate(task.eval_docs):
        try:
            for make in made:
                make(doc)
        except Exception:  # noqa: BLE001 - whatever an author's function raises
            return sample_id_of(task.config.task, doc, place)
    return None


def is_of_a_row(error: Exception) -> bool:
    """Whether it was raised while a row was made into a question."""
    return any(frame.name in _MAKING for frame in traceback.extract_tb(error.__traceback__))


def in_words(error: BaseException, *, anywhere: bool = False) -> str:
    """What was raised, and where in a file of the author's; `anywhere`: or else wherever it was."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [one for one in frames if not one.filename.startswith(_NOT_THE_AUTHORS)]
    at = theirs[-1] if theirs else frames[-1] if anywhere else None
    return f"{type(error).__name__}: {error}{f' ({at.filename}:{at.lineno})' if at else ''}"
