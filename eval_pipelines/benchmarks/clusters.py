"""Which questions belong together: those on one passage, or the same question in another language.

Such questions are right or wrong together, so they tell less than as many that stand alone. The subtasks of a group are
no clusters by themselves: which subjects there are is fixed, not drawn.
"""

from collections.abc import Mapping
from typing import Any

from eval_pipelines.errors import DataError
from eval_pipelines.keys import digest

# what `cluster` may name beside a column
SUBTASK = "subtask"
_INDEX = "index"

# task or the start of its name → the column that its questions share
_KNOWN: Mapping[str, str] = {
    "belebele": "flores_passage",
    "boolq": "passage",
    "drop": "passage",
    "mgsm": _INDEX,
    "multirc": "paragraph",
    "qasper": "abstract",
    "race": "article",
    "record": "passage",
    "squad_completion": "title",
    "squadv2": "context",
}
_SHORT = 64


def cluster_of(task: Any, doc: Any, doc_id: int, wanted: str | None, *, benchmark: str) -> str | None:
    """What a question shares with others, short; None: it stands alone, or nobody knows.

    Args:
        wanted: `cluster` of the benchmark; None: as it is known of the task.

    Raises:
        DataError: the column that is wanted is not there.
    """
    name = str(task.config.task)
    column = wanted or next((_KNOWN[known] for known in _KNOWN if name == known or name.startswith(f"{known}_")), None)
    if column is None:
        return None
    if column == SUBTASK:
        return name
    if column == _INDEX and column not in doc:
        return str(doc_id)
    if column in doc:
        text = str(doc[column])
        return text if len(text) <= _SHORT else digest([text], n_bytes=6)
    if wanted is None:
        return None
    raise DataError(
        f"benchmarks.{benchmark}.cluster: {name} has no column {wanted!r}, only {', '.join(sorted(doc))}; "
        f"`{SUBTASK}` takes the subtask"
    )
