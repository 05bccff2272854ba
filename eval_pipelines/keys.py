"""Identity: model keys, digests, and names that are safe as partitions and as paths.

A model key is `family@revision`. It is a Dagster partition, a served model name and a folder name
at once, so it is checked here: Dagster itself accepts keys that it later drops without a word.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from eval_pipelines.errors import ModelKeyError

_PART = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_STEP = re.compile(r"(?:^|[^a-z0-9])(?:step|iter|checkpoint|global_step|ckpt)[-_]?0*(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class ModelKey:
    """`family@revision`, for example `smollm2-135m@step-01200`."""

    family: str
    revision: str

    def __post_init__(self) -> None:
        for what, part in (("family", self.family), ("revision", self.revision)):
            if not _PART.fullmatch(part) or ".." in part:
                raise ModelKeyError(
                    f"{part!r} is no usable {what} of a model key: 1 to 100 lower-case letters, digits, "
                    f"'.', '_' and '-', starting with a letter or digit, without '..'. "
                    f"A model key reads family@revision, for example 'smollm2-135m@step-01200'."
                )

    def __str__(self) -> str:
        return f"{self.family}@{self.revision}"

    @classmethod
    def parse(cls, text: str) -> "ModelKey":
        """Read `family@revision`. Raises ModelKeyError, saying what is allowed."""
        family, at, revision = text.partition("@")
        if not at:
            raise ModelKeyError(
                f"{text!r} is no model key: it must read family@revision, for example {slug(text)}@main."
            )
        return cls(family, revision)

    @property
    def step(self) -> int | None:
        """The training step named in the revision (`step-01200` → 1200), if it names one."""
        found = _STEP.search(self.revision)
        return int(found.group(1)) if found else None


def slug(name: str) -> str:
    """The nearest usable part of a model key: lower case, everything else a dash."""
    text = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:100]
    return re.sub(r"\.{2,}", ".", text) or "unnamed"


# made once: every request has a digest
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def cell_name(benchmark: str, judged_model: str | None) -> str:
    """What a cell of the landing is called; a judge has one for each model it judges."""
    return benchmark if judged_model is None else f"{benchmark}+{judged_model}"


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text."""
    return _CANONICAL.encode(value)


def digest(value: Any, *, n_bytes: int = 16) -> str:
    """Hex digest of a JSON-able value; 16 bytes tell any two requests apart, 6 are enough for a label."""
    return hashlib.blake2b(canonical(value).encode(), digest_size=n_bytes).hexdigest()
