"""The letter of the choice that an answer settles on.

A letter that is ruled out ("not B", "B is wrong") or one of several ("A or B") settles nothing. Of what is left, the
plainest way of saying it counts: a box, a sentence that says so, a line of its own, the answer's end, its start, a label.
"""

import re
from functools import lru_cache

from eval_pipelines.benchmarks.own_scoring import LETTERS, UNPARSEABLE

# no part of a word, a number, a formula or C++
_ALONE, _ENDS = r"(?<![A-Za-z0-9_'-])", r"(?![A-Za-z0-9_'+#-])"
_SURELY = r"(?:\s+(?:therefore|thus|then|hence|clearly|probably|likely|most likely|definitely|indeed|obviously))?"
_IS = rf"(?:\s+(?:is|would be|should be|must be|will be|has to be){_SURELY})"
_SAYS = (
    rf"(?i:\b(?:answer(?:\s+(?:to|for)\s[^.\n]{{0,60}}?\s+is|{_SURELY}(?:{_IS})?)"
    rf"|(?:option|choice|solution){_SURELY}(?:{_IS}|(?=\W{{0,3}}[:=]))"
    r"|it(?:\s+is|'s|\s+must\s+be)"
    r"|I(?:'d|\s+would|\s+will|'ll)?\s+(?:choose|pick|select|say|think|guess|believe|conclude|go\s+(?:with|for))))"
    r"(?:\s*[:=,])?[^\w\n]{0,6}\s*[^\w\n]{0,3}(?i:(?:option|choice|answer)\s+[^\w\n]{0,3})?"
)
_RULED_OUT_BEFORE = re.compile(
    r"(?i:\b(?:not|cannot|never|nor|neither|except|excluding|without|unlike|than|instead of|eliminate|rule out|"
    r"ruled out|exclude|reject)|n't)\s+(?:be\s+)?(?:(?:option|choice|answer)\s+)?[^\w\n]{0,3}$|"
    r"(?i:n't|\bnot)\s+(?i:think|believe|say|choose|pick|select)\b[^.\n]{0,40}$"
)
_RULED_OUT_AFTER = re.compile(
    r"[^\w\n]{0,3}\s*(?i:(?:is|are|was|were|seems?|looks?|must be|would be)\s+(?:(?:\w+ly|also|just|a|the)\s+)*"
    r"(?:not\b|wrong|incorrect|false|invalid|too\b|out\b|ruled out|impossible|eliminated|excluded)|"
    r"(?:is|are|was|does|do|can|could|would)n't\b|cannot\b|can\s+not\b|(?:does|do|could|would)\s+not\b)"
)


_ARTICLE_OR_PRONOUN = re.compile(r"\s+(?!(?:because|since|as|is|for|and|or|which|due|with)\b)[a-z]|,")


Way = tuple[re.Pattern[str], ...]


def letter_in(text: str, n_choices: int) -> str:
    """The letter, or `[invalid]` where the answer settles on none."""
    upper, text = LETTERS[:n_choices], text.replace("\u2019", "'")
    ways, start, label = _ways(upper)
    for way in ways:
        if found := _settled(way, text, upper):
            return found[-1]
    # who only says all choices over again settles on none by that
    is_repeated = len({one["letter"].upper() for one in _all(label, text)}) == n_choices > 1
    for way in (start, label):
        found = _settled(way, text, upper)
        if found and not (is_repeated and (way is label or found[-1] == "A")):
            return found[-1]
    return UNPARSEABLE


def _settled(way: Way, text: str, upper: str) -> list[str]:
    return [one["letter"].upper() for one in _all(way, text) if _settles(one, text, upper)]


def _all(way: Way, text: str) -> list[re.Match[str]]:
    """In the order of their places."""
    return sorted((one for pattern in way for one in pattern.finditer(text)), key=lambda one: one.start("letter"))


def _settles(found: re.Match[str], text: str, upper: str) -> bool:
    start, end = found.span("letter")
    letter, before, after = text[start], text[max(0, start - 60) : start], text[end : end + 60]
    if _RULED_OUT_BEFORE.search(before) or _RULED_OUT_AFTER.match(after):
        return False
    if letter in "AI" and (article := _ARTICLE_OR_PRONOUN.match(after)) and (letter == "I" or article[0] != ","):
        return False
    others = upper.replace(letter.upper(), "")
    if not others:
        return True
    other = rf"[^\w\n]{{0,2}}\b[{others}]\b[^\w\n]{{0,2}}"
    joined = r"\s*(?:,?\s*\b(?:or|and)\b|/|&)\s*"
    one_of_several = (
        re.search(rf"{other}{joined}[^\w\n]{{0,2}}$", before)
        or re.match(rf"[^\w\n]{{0,2}}{joined}{other}", after)
        or re.match(rf"[^\w\n,]{{0,2}},{other}\s*(?:,|\bor\b|\band\b|[.;\n]|$)", after)
        or (
            re.search(rf"\b[{others}]\b[^\w\n,]{{0,2}},\s*[^\w\n]{{0,2}}$", before)
            and re.match(r"[^\w\n]*(?:\n|$)", after)
        )
    )
    return not one_of_several


@lru_cache(maxsize=len(LETTERS))
def _ways(upper: str) -> tuple[list[Way], Way, Way]:
    """Ways to settle on a letter, from the plainest; at the answer's start; by the label of a choice."""
    lower = upper.lower()
    letter, small = rf"{_ALONE}(?P<letter>[{upper}]){_ENDS}", rf"(?P<letter>[{lower}])"
    # a small one is an article, unless nothing or a bracket follows it
    either = rf"{_ALONE}(?P<letter>[{upper}]{_ENDS}|[{lower}](?=[^\w\s'-]|\s*$))"
    right = r"(?i:(?:is|must be|seems?|would be)\s+(?:(?:the|most|\w+ly)\s+)*(?:correct|right|best|answer|true))\b"
    ways = (
        (rf"\\boxed\{{\s*(?:\\\w+\{{)?\W{{0,2}}(?P<letter>[{upper}{lower}])\b",),
        (rf"{_SAYS}{either}", rf"{letter}[^\w\n]{{0,3}}\s*{right}"),
        (rf"^[^\w\n]*{letter}[^\w\n]*$", rf"\A\W*{small}\W*\Z"),
        (rf"{letter}\W*\Z",),
        (rf"(?i:\b(?:option|choice|solution)\W{{0,4}}){either}",),
    )
    start = (
        rf"\A\W*{letter}(?=[^\w\s]|\s*\n|\s+(?:because|since|as|[-\u2013\u2014:])\W)",
        rf"\A\W*{small}(?=[).:])",
    )
    label = (rf"(?<!\w)\((?P<letter>[{upper}{lower}])\)", rf"(?:^|\s)(?P<letter>[{upper}])[.):]")
    return [_compiled(way) for way in ways], _compiled(start), _compiled(label)


def _compiled(way: tuple[str, ...]) -> Way:
    return tuple(re.compile(pattern, re.MULTILINE) for pattern in way)
