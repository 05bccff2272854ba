"""What may be written down of what was sent and answered: shortened, and without anything that looks like a secret."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# what every request carries; any other header may hold a key
PLAIN_HEADERS = frozenset({"accept", "accept-encoding", "connection", "content-type", "user-agent"})
SECRET = re.compile(r"(?i)(bearer\s+|sk-|hf_|nvapi-|api[_-]?key[\"'=:\s]+)[A-Za-z0-9._~+/=-]{6,}")
_KEYS = re.compile(r"(?i)authorization|api[_-]?key|[_-]token$|(^|[_-])(secret|password|cookie|credentials?)$")
_MIN_SECRET = 5  # shorter parts are words such as "Key"
# a secret may begin before the cut: nothing this near to it is kept
_MARGIN = 4096
_MAX_ITEMS = 1000
_MAX_DEPTH = 40


def secrets_in(headers: Mapping[str, str]) -> set[str]:
    """The values of headers that may be secret, and their parts."""
    return {
        part
        for name, value in headers.items()
        if name.lower() not in PLAIN_HEADERS
        for part in {value, *value.split()}
        if len(part) >= _MIN_SECRET
    }


class Redactor:
    """Takes these very texts out, and anything that looks like a key."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets = sorted({*secrets}, key=len, reverse=True)

    def text(self, text: str, n_chars: int) -> str:
        """The text without secrets, cut after `n_chars`; says how much longer it was."""
        n_all, is_cut = len(text), len(text) > n_chars + 2 * _MARGIN
        found = text[: n_chars + 2 * _MARGIN] if is_cut else text
        for secret in self.secrets:
            found = found.replace(secret, "***")
        found = SECRET.sub(r"\1***", found)
        if is_cut:
            found = found[:-_MARGIN]
        return found if not is_cut and len(found) <= n_chars else f"{found[:n_chars]}… ({n_all:,} characters)"

    def json(self, value: Any, n_chars: int) -> Any:
        """A JSON value whose texts together keep about `n_chars` characters; the rest is named by its size."""
        return self._json(value, [n_chars], 0)

    def _json(self, value: Any, left: list[int], depth: int, key: str = "") -> Any:
        if key and _KEYS.search(key) and value is not None:
            return "***"
        if depth > _MAX_DEPTH:
            return "…"
        if isinstance(value, str):
            found = self.text(value, max(left[0], 0))
            left[0] -= len(found)
            return found
        left[0] -= 8
        if isinstance(value, Mapping):
            kept: dict[str, Any] = {}
            for name, one in value.items():
                if (left[0] <= 0 and len(kept) >= 3) or len(kept) >= _MAX_ITEMS:
                    kept["…"] = f"{len(value) - len(kept)} more"
                    break
                kept[self.text(str(name), 200)] = self._json(one, left, depth + 1, str(name))
            return kept
        if isinstance(value, list | tuple):
            items: list[Any] = []
            for one in value:
                if left[0] <= 0 or len(items) >= _MAX_ITEMS:
                    items.append(f"… {len(value) - len(items)} more")
                    break
                items.append(self._json(one, left, depth + 1))
            return items
        return value

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers by name; the value of any that may hold a key is not told."""
        return {
            name: self.text(value, 200) if name.lower() in PLAIN_HEADERS else "***" for name, value in headers.items()
        }
