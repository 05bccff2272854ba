"""The program in an answer: what a completion continues, or what stands in a chat's fenced blocks."""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator

# a fence as Markdown has it, also one that the answer was cut off in
_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>```+|~~~+)[ \t]*(?P<language>[\w+.-]*)[^\n]*\n(?P<code>.*?)(?:^[ \t]*(?P=fence)[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)
_PYTHON = {"", "python", "py", "python3", "py3"}
_STARTS_CODE = re.compile(r"^(?:from|import|def|class|async def)\s|^@", re.MULTILINE)
_MAX_LINES_OF_PROSE = 40


def fenced_blocks(answer: str) -> Iterator[str]:
    """Code in the answer's fences that are Python or of no stated language."""
    for found in _FENCE.finditer(answer):
        if found["language"].lower() in _PYTHON:
            yield textwrap.dedent(found["code"]) if found["indent"] else found["code"]


def defines(code: str, name: str) -> bool:
    """Whether code has a function of this name at its top."""
    return re.search(rf"^(?:async\s+)?def\s+{re.escape(name)}\b", code, re.MULTILINE) is not None


def of_chat(answer: str, names: tuple[str, ...] = ()) -> str:
    """The program in a chat's answer.

    The first fenced block that defines one of `names`; else the first block. Without a fence: from the first line that
    is code, without the prose behind it; else the whole answer.
    """
    blocks = list(fenced_blocks(answer))
    for block in blocks:
        if any(defines(block, name) for name in names):
            return block
    return blocks[0] if blocks else _unfenced(answer)


def _unfenced(answer: str) -> str:
    start = _STARTS_CODE.search(answer)
    if start is None:
        return answer
    lines = answer[start.start() :].split("\n")
    for n_prose in range(min(len(lines), _MAX_LINES_OF_PROSE)):
        code = "\n".join(lines[: len(lines) - n_prose])
        if _is_code(code):
            return code
    return "\n".join(lines)


def _is_code(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def as_body(code: str) -> str:
    """Code indented as the body of a function, whether it came indented or not."""
    first = next((line for line in code.split("\n") if line.strip()), "")
    return code if first.startswith((" ", "\t")) else textwrap.indent(code, "    ")
