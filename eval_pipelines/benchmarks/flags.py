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
    """Of all answers to one sample: True if one of them is so; None where there is no text to look at."""

    is_truncated: bool | None
    is_refused: bool | None


def flags_of(responses: Iterable[Response | None]) -> Flags:
    """Of one sample. A failure of the content filter is a refusal, too."""
    texts = False
    is_truncated = is_refused = is_filtered = False
    for response in responses:
        if response is None:
            continue
        if response.text is not None:
            texts = True
            is_truncated |= response.finish_reason == "length"
            is_refused |= response.finish_reason == "content_filter" or looks_refused(response.text)
        elif response.failure is not None:
            is_filtered |= response.failure.kind is FailureKind.CONTENT_FILTER
    return Flags(is_truncated if texts else None, is_refused or is_filtered if texts or is_filtered else None)


def looks_refused(text: str) -> bool:
    """Whether an answer begins as refusals do."""
    opening = text[:_SEEN].lstrip(_MARKUP).lower()
    if not opening.startswith(_STARTS):
        return False
    opening = " ".join(opening.split())
    for written, spelt in _SPELT:
        opening = opening.replace(written, spelt)
    return _REFUSALS.match(opening) is not None
