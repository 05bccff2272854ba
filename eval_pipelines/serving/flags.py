"""Extra arguments of a server's command line: what they may not say, found before anything is started."""

import re
from collections.abc import Mapping, Sequence


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
