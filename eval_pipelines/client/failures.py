"""What a bad reply means, and whether it is worth asking again.

The kind is decided from the status, the body and the exception, so that an outage is never read as an answer.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from eval_pipelines.client.redaction import SECRET
from eval_pipelines.records import Failure, FailureKind, utc_now

RETRYABLE = frozenset(
    {FailureKind.TIMEOUT, FailureKind.CONNECTION, FailureKind.OVERLOADED, FailureKind.MALFORMED, FailureKind.EMPTY}
)

_CONTEXT = re.compile(
    r"context.{0,12}(length|size)|maximum context|context window|too many tokens|prompt is too long|max_model_len"
    r"|longer than the (maximum|model)|input.{0,20}too long",
    re.IGNORECASE,
)
_FILTER = re.compile(r"content.?filter|content.?policy|content management policy|safety system", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"not (supported|implemented)|unsupported|unrecognized|unknown (field|parameter)", re.IGNORECASE
)
_BUSY = re.compile(r"overload|rate.?limit|try again|capacity|internal", re.IGNORECASE)
_MAX_MESSAGE = 500


class NoAnswer(Exception):
    """Raised inside the client only: one attempt ended in a failure."""

    def __init__(self, failure: Failure, *, retry_after_s: float | None = None) -> None:
        super().__init__(failure.message)
        self.failure, self.retry_after_s = failure, retry_after_s


@dataclass(frozen=True, slots=True)
class Backoff:
    """Wait before attempt n+1: `base_s` doubled each time up to `cap_s`; a server's Retry-After wins.

    A server may ask for at most `retry_after_cap_s`; a longer wish counts as the cap.
    """

    base_s: float = 0.5
    cap_s: float = 20.0
    retry_after_cap_s: float = 120.0

    def wait_s(self, n_attempts: int, retry_after_s: float | None, jitter: float) -> float:
        """Seconds to wait after `n_attempts` attempts. `jitter` in [0, 1) spreads waiters over the upper half."""
        if retry_after_s is not None:
            return min(retry_after_s, self.retry_after_cap_s) * (1 + 0.1 * jitter)
        full = min(self.cap_s, self.base_s * 2.0 ** min(n_attempts - 1, 30))
        return full * (0.5 + 0.5 * jitter)


def failure(kind: FailureKind, message: str, *, status: int | None = None) -> Failure:
    """A failure with its message shortened and cleared of anything that looks like a key."""
    text = SECRET.sub(r"\1***", " ".join(message.split()))
    return Failure(kind=kind, message=text[:_MAX_MESSAGE] or kind.value, http_status=status)


def without(failed: Failure, secrets: Iterable[str]) -> Failure:
    """The failure with these very texts taken out of its message: a key need not look like one."""
    message = failed.message
    for secret in sorted(secrets, key=len, reverse=True):
        message = message.replace(secret, "***")
    return failed if message == failed.message else failed.model_copy(update={"message": message})


def from_exception(error: Exception) -> Failure:
    """What an HTTP client exception means."""
    name = type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return failure(FailureKind.TIMEOUT, f"{name}: {error}")
    if isinstance(error, httpx.DecodingError):
        return failure(FailureKind.MALFORMED, f"{name}: {error}")
    return failure(FailureKind.CONNECTION, f"{name}: {error}")


def from_status(status: int, body: bytes) -> Failure:
    """What a reply with a status other than 2xx means."""
    text = error_text(body)
    return failure(_kind_of(status, text), text or f"HTTP {status} without a body", status=status)


def from_error_object(error: Any, *, status: int = 200) -> Failure:
    """An error object in a 2xx reply: decided by the code it names, else by its words."""
    text = (
        error
        if isinstance(error, str)
        else str(error.get("message") or error)
        if isinstance(error, dict)
        else repr(error)
    )
    code = error.get("code") if isinstance(error, dict) else None
    named = int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdigit()) else None
    if named is not None and 400 <= named < 600:
        kind = _kind_of(named, f"{code} {text}")
    else:
        kind = _kind_of(400, f"{code or ''} {text}")
        # "try again with a shorter prompt" is no overload: the more exact kinds come first
        if kind is FailureKind.REJECTED and _BUSY.search(text):
            kind = FailureKind.OVERLOADED
    return failure(kind, f"error object in an HTTP {status} reply: {text}", status=status)


def error_text(body: bytes) -> str:
    """The server's own words in an error body: OpenAI's, FastAPI's or plain text."""
    try:
        data = json.loads(body)
    except ValueError:
        return body[:2000].decode(errors="replace")
    if isinstance(data, dict):
        error = data.get("error", data)
        if isinstance(error, dict):
            parts = [error.get("code"), error.get("message") or error.get("detail")]
            return " ".join(str(part) for part in parts if part) or json.dumps(error)
        return str(error)
    return str(data)


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date, or from `retry-after-ms`; None without.

    A date is read by the server's own clock if it tells one: ours may go wrong by more than the wait.
    Source: RFC 9110, section 10.2.3; the `openai` package for `retry-after-ms`.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    until = _date(headers.get("retry-after"))
    return None if until is None else max(0.0, (until - (_date(headers.get("date")) or utc_now())).total_seconds())


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, IndexError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _kind_of(status: int, text: str) -> FailureKind:
    if status == 408:
        return FailureKind.TIMEOUT
    if status == 429 or (status >= 500 and status != 501):
        return FailureKind.OVERLOADED
    if status == 501:
        return FailureKind.UNSUPPORTED
    if status in (400, 413, 422) and _CONTEXT.search(text):
        return FailureKind.CONTEXT_LENGTH
    if status in (400, 403) and _FILTER.search(text):
        return FailureKind.CONTENT_FILTER
    if status in (400, 422) and _UNSUPPORTED.search(text):
        return FailureKind.UNSUPPORTED
    return FailureKind.REJECTED
