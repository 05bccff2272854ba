"""What is to be known of an answer beside its verdict: whether it was cut, and whether it is a refusal."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from eval_pipelines.records import FailureKind, Response

# A refusal is recognised by how it begins, and by little else: what is missed is graded like any answer, and so is what
# is found. "I cannot determine" is an answer.
_REFUSALS = re.compile(
    r"""
    (?:(?:(?:i\ am|we\ are)\ (?:very\ |really\ |so\ |truly\ )?sorry|sorry|i\ apologi[sz]e|my\ apologies|unfortunately)[,.;:!]?\ (?:but\ )?)?
    (?:as\ an\ ai\b[^,]{0,40},\ )?
    i\ (?:
        (?:(?:can|will)\ not|am\ unable\ to|am\ not\ able\ to|must\ decline\ to)\ (?:be\ able\ to\ )?
        (?:assist|help|comply|fulfil|answer\ (?:that|this)|respond|provide|share|continue|engage|create|write|generate|produce
            |discuss|support|participate|do\ (?:that|this))
        | (?:must|have\ to)\ (?:respectfully\ )?(?:decline|refuse)
    )
    """,
    re.VERBOSE,
)
_SPELT = (
    ("\u2019", "'"),
    ("i'm", "i am"),
    ("we're", "we are"),
    ("can't", "can not"),
    ("cannot", "can not"),
    ("won't", "will not"),
)
_STARTS = ("i ", "i'", "i\u2019", "we", "sorry", "my apologies", "unfortunately", "as an ai")
_SEEN = 300
_MARKUP = " \t\r\n\"'*_>#-"


class Flags(NamedTuple):
    """Of all answers to one sample: True if one of them is so; None where there is no text, or nobody said how it ended."""

    is_truncated: bool | None
    is_refused: bool | None


def flags_of(responses: Iterable[Response | None]) -> Flags:
    """Of one sample. A failure of the content filter is a refusal, too."""
    given = [response for response in responses if response is not None]
    texts = [response for response in given if response.text is not None]
    is_filtered = any(one.failure is not None and one.failure.kind is FailureKind.CONTENT_FILTER for one in given)
    if not texts:
        return Flags(None, True if is_filtered else None)
    ends = {response.finish_reason for response in texts}
    is_truncated = True if "length" in ends else None if None in ends else False
    is_refused = is_filtered or "content_filter" in ends or any(looks_refused(one.text or "") for one in texts)
    return Flags(is_truncated, is_refused)


def looks_refused(text: str) -> bool:
    """Whether an answer begins as refusals do."""
    opening = text[:_SEEN].lstrip(_MARKUP).lower()
    if not opening.startswith(_STARTS):
        return False
    opening = " ".join(opening.split())
    for written, spelt in _SPELT:
        opening = opening.replace(written, spelt)
    return _REFUSALS.match(opening) is not None
