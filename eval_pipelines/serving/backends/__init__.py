"""What to run, one file per backend, found by its name.

A backend module offers `Spec` (its options in evals.yaml, a frozen pydantic model) and one of

- `command(spec, model, *, host, port) -> ServerCommand`: a server this project starts, or
- `bind(spec, model) -> Binding`: an address that someone else runs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eval_pipelines.models import Model

__all__ = ["Binding", "Cause", "Model", "ServerCommand", "likely_cause"]


@dataclass(frozen=True, slots=True)
class Cause:
    """A line in a server's own log that says why it ended, and what to change."""

    pattern: str
    advice: str


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """One server to start.

    Attributes:
        argv: Command line. Never holds a secret: every user of the machine can read it.
        env: Variables added to the launcher's environment.
        key_env: Variable through which the server takes the key its clients must send; None if it takes none.
        health_path: Route that answers 200 once the server listens.
        base_path: Where the OpenAI-style routes start.
        causes: How to read its failures.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    key_env: str | None = None
    health_path: str = "/health"
    base_path: str = "/v1"
    causes: Sequence[Cause] = ()


@dataclass(frozen=True, slots=True)
class Binding:
    """An address that someone else runs.

    Attributes:
        key_env: Name of the environment variable that holds the key; read when a lease needs it.
    """

    url: str
    served_name: str
    key_env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


_COMMON = (
    Cause(r"address already in use|errno 98", "the port is taken: leave `port` out, or choose a free one"),
    Cause(r"no module named|modulenotfounderror", "a Python package is missing from the server's environment"),
    Cause(
        r"out of memory|cannot allocate|bad_alloc|oom",
        "not enough memory: a smaller context or cache, or another machine",
    ),
    Cause(r"no such file|not found|does not exist", "a path does not exist on the machine that serves"),
    Cause(r"permission denied", "a file may not be read by the user that serves"),
)


def likely_cause(log: Sequence[str], causes: Sequence[Cause]) -> str | None:
    """The advice for the last log line that a known cause explains; the backend's own causes first."""
    for known in (causes, _COMMON):
        for line in reversed(log):
            for cause in known:
                if re.search(cause.pattern, line, re.IGNORECASE):
                    return cause.advice
    return None
