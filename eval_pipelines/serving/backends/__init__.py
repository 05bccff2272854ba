"""What to run, one file per backend, found by its name.

A backend module offers `Spec` (its options in evals.yaml, a frozen pydantic model) and one of

- `command(spec, model, *, host, port) -> ServerCommand`: a server this project starts, or
- `bind(spec, model) -> Binding`: an address that someone else runs.

and `READS`: the layouts (see layouts.py) of the weights it can load; empty where it loads none.

Optional
    N_PORTS             consecutive ports a server takes, the first being `port`; 1 if left out
    Spec.n_gpus         GPUs its parallelism multiplies to; 0 if left out
    reads(spec)         the part of READS that a server with these options loads; READS if left out
    needs_weights(spec) whether a model must name weights; if left out: whether it reads any
    N_PER_REQUEST       answers to one request (`n`), where answer i of seed s is that of seed s + i asked alone; 1 if
                        left out
    NEEDS_CONTAINER     True where the server exists as an image only: its `argv` holds what follows the image
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
        base_path: Where the routes start.
        causes: How to read its failures.
        protocol: How it is spoken to: picks the files in client/dialects/.
        path_suffix: Ends every route; some servers answer only with a trailing slash.
        metrics_port: Offset to the port that tells Prometheus metrics at `metrics_path`.
        metrics_path: None if the server tells none.
        metric_names: Our name of a metric (see serving/metrics.py) → its name in the server's Prometheus metrics.
        served_name: What the server calls the model, where that cannot be the model key; None: the model key.
        pass_env: Variables of the launcher's environment that hold secrets the server needs; in a container they are
            passed by name.
        binds_all: It listens on every interface whatever it is told: only for a container with a network of its own.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    key_env: str | None = None
    health_path: str = "/health"
    base_path: str = "/v1"
    causes: Sequence[Cause] = ()
    protocol: str = "openai"
    path_suffix: str = ""
    metrics_port: int = 0
    metrics_path: str | None = None
    metric_names: Mapping[str, str] = field(default_factory=dict)
    served_name: str | None = None
    pass_env: Sequence[str] = ()
    binds_all: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """An address that someone else runs.

    Attributes:
        urls: Where its routes start; several are replicas of one model.
        key_env: Name of the environment variable that holds the key; read when a lease needs it.
        key_header: Header that carries the key.
        key_prefix: What stands before the key in that header.
        protocol: How it is spoken to: picks the files in client/dialects/.
        path_suffix: Ends every route, a query included.
        renames: Our name of a request parameter → what the server calls it; None: it is left out.
        lists_models: False where the server's list of models says nothing about this model.
        requests_per_minute: Attempts that may start in any 60 s at each address; None: no limit.
        tokens_per_minute: Tokens these may hold, prompt and answer together; None: no limit.
        n_per_request: Repeats of a question that one request may ask, as its operator says; 1: none.
        proxy: URL of an HTTP proxy on the way, without credentials.
        proxy_credentials_env: Name of the variable that holds `user:password` for it.
    """

    urls: Sequence[str]
    served_name: str
    key_env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    protocol: str = "openai"
    path_suffix: str = ""
    renames: Mapping[str, str | None] = field(default_factory=dict)
    lists_models: bool = True
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    n_per_request: int = 1
    proxy: str | None = None
    proxy_credentials_env: str | None = None


_COMMON = (
    Cause(r"address already in use|errno 98", "the port is taken: leave `port` out, or choose a free one"),
    Cause(r"no module named|modulenotfounderror", "a Python package is missing from the server's environment"),
    Cause(
        r"out of memory|outofmemory|cannot allocate|bad_alloc|\boom\b",
        "not enough memory: a smaller context or cache, or another machine",
    ),
    Cause(
        r"no such file|command not found|file not found|filenotfound|does not exist",
        "a path does not exist on the machine that serves",
    ),
    Cause(r"permission denied", "a file may not be read by the user that serves"),
)

_IS_ERROR = re.compile(r"error\b|exception\b|errno", re.IGNORECASE)
_IS_CHATTER = re.compile(r"^(?:(?!ERROR).){0,60}?(?<!=)\b(DEBUG|INFO|WARN|WARNING)\b|Warning:")
_IS_FRAME = re.compile(r"(File \"|raise\b|[\^~]+$)")
# what stands before a server's own words: the process, the level, the time, the place in the source
_PREFIX = re.compile(r"^(\([\w ]*pid=\d+\) *)?([A-Z]+ [\d-]+ [\d:.,]+ )?(\[[\w./]+:\d+\] *)?")
_MAX_WORDS = 240


def likely_cause(log: Sequence[str], causes: Sequence[Cause]) -> str | None:
    """What to change, and the line of the log that says so; None if no known cause explains any line.

    The last error counts, because earlier ones may have been dealt with. The backend's own causes come before the
    common ones anywhere in the log: a server that dies drags others down, whose errors say nothing of the reason.
    """
    loud = [words for words in map(_words, (line for line in log if not _IS_CHATTER.search(line))) if words]
    errors = [words for words in loud if _IS_ERROR.search(words)]
    for known in (causes, _COMMON):
        for lines in (errors, loud):
            for words in reversed(lines):
                for cause in known:
                    if re.search(cause.pattern, words, re.IGNORECASE):
                        return f"{cause.advice} (it said: {words[:_MAX_WORDS]}{' …' * (len(words) > _MAX_WORDS)})"
    return None


def _words(line: str) -> str:
    """What a line says, without colours and prefix; nothing for the frames of a traceback."""
    words = _PREFIX.sub("", re.sub(r"\x1b\[[\d;]*m", "", line), count=1).strip()
    return "" if _IS_FRAME.match(words) else words
