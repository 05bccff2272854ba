"""What a header of a configuration may be: one that can be sent, and none that holds a secret."""

import re
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_HOLDS_A_SECRET = re.compile(r"auth|key|token|secret|password|cookie|credential", re.IGNORECASE)
_SECRET_STARTS = ("bearer ", "basic ", "sk-", "hf_", "nvapi-")


def sendable(headers: Mapping[str, str]) -> None:
    """Raises ValueError, which does not quote a value, for what can be no HTTP header (RFC 9110, section 5)."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise ValueError(f"{name!r} with its value can be no HTTP header")


def without_secrets(headers: Mapping[str, str], instead: str) -> None:
    """Raises ValueError for a header that looks like one that holds a secret; `instead`: what would be right."""
    for name, value in headers.items():
        if _HOLDS_A_SECRET.search(name) or value.lower().startswith(_SECRET_STARTS):
            raise ValueError(f"{name!r} looks like one that holds a secret: {instead.format(name=name)}")
