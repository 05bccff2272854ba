"""A server's command line: typed options as flags, and what extra arguments may not say."""

import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from pydantic import BaseModel


def flag(field: str) -> str:
    """`max_model_len` → `--max-model-len`."""
    return "--" + field.replace("_", "-")


def flag_with_underscores(field: str) -> str:
    """`max_seq_len` → `--max_seq_len`, for servers that take no other spelling."""
    return f"--{field}"


def arguments(spec: BaseModel, *, leave_out: Collection[str], flag: Callable[[str], str] = flag) -> list[str]:
    """The options that differ from their default, as flags, in the order of the fields."""
    found: list[str] = []
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if name in leave_out or value == field.default:
            continue
        if isinstance(value, bool):
            found.append(flag(name) if value else flag(f"no_{name}"))
        else:
            found += [flag(name), json.dumps(value) if isinstance(value, dict) else str(value)]
    return found


def program(name: str) -> str:
    """A program by its name or its full path. Raises ValueError for a path that depends on the folder one is in."""
    path = os.path.expanduser(name)
    if "/" in path and not path.startswith("/"):
        raise ValueError("must be a command on the PATH or a full path: the server starts in another folder")
    return path


def names(args: Sequence[str]) -> list[str]:
    """The flags among arguments, in one spelling: `--no-max_model_len=8` and `--max-model-len.x` → `--max-model-len`."""
    return [_spelled(arg) for arg in args if re.match(r"--?[A-Za-z]", arg)]


def check_extra_args(args: Sequence[str], *, owned: Mapping[str, str], gone: Mapping[str, str]) -> None:
    """Refuse flags that have a place of their own, and flags that no longer exist.

    Args:
        owned: Flag → what says the same, and where.
        gone: Flag → its successor.

    Raises:
        ValueError: all problems at once.
    """
    problems = []
    for name in names(args):
        # command lines take unambiguous abbreviations too
        meant = next((flag for flag in owned if name == flag or (len(name) > 4 and flag.startswith(name))), None)
        if name in gone:
            problems.append(f"{name} was removed from the server: {gone[name]}")
        elif meant is not None:
            problems.append(f"{name} does not belong here: {owned[meant]}")
    if problems:
        raise ValueError("; ".join(problems))


def _spelled(arg: str) -> str:
    name = arg.split("=")[0]
    if not name.startswith("--"):
        return name
    return re.sub("^--no-", "--", name.split(".")[0].replace("_", "-"))
