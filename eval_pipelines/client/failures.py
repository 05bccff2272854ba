"""What a bad reply means, and what follows from it: one row of `POLICIES` for each kind of failure.

The kind is decided from the status, the body and the exception, so that an outage is never read as an answer.

Source  RFC 9110, section 15; OpenAI API reference, "Error codes"; Anthropic API reference, "Errors" (529);
        Cloudflare documentation, "5xx errors" (520 to 526)
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from eval_pipelines.client.redaction import SECRET
from eval_pipelines.records import Failure, FailureKind, utc_now


@dataclass(frozen=True, slots=True)
class Policy:
    """What follows from a failure of one kind.

    Attributes:
        is_retried: The same server is asked again, after a while.
        goes_elsewhere: Where there are replicas, one that has not failed at this request is asked first, at once.
        counts_against_server: Three in a row leave a replica out. Where not: its word is as good as an answer.
        stops_asking: A few in a row, without an answer in between, end the asking.
        breaks_budget: Too many end the asking. Where not: it is a verdict on the sample, and says nothing of others.
    """

    is_retried: bool
    goes_elsewhere: bool
    counts_against_server: bool
    stops_asking: bool
    breaks_budget: bool


_MAY_PASS = Policy(True, True, counts_against_server=True, stops_asking=False, breaks_budget=True)
_BAD_REQUEST = Policy(False, False, counts_against_server=False, stops_asking=False, breaks_budget=True)
_BAD_SAMPLE = Policy(False, False, counts_against_server=False, stops_asking=False, breaks_budget=False)

POLICIES: Mapping[FailureKind, Policy] = {
    FailureKind.TIMEOUT: _MAY_PASS,
    FailureKind.CONNECTION: _MAY_PASS,
    FailureKind.OVERLOADED: _MAY_PASS,
    FailureKind.MALFORMED: _MAY_PASS,
    FailureKind.EMPTY: _MAY_PASS,
    FailureKind.REJECTED: _BAD_REQUEST,
    # nobody gets an answer there until somebody changes something; a replica may have a key and a name of its own
    FailureKind.DENIED: Policy(False, True, counts_against_server=True, stops_asking=True, breaks_budget=True),
    FailureKind.CONTEXT_LENGTH: _BAD_SAMPLE,
    FailureKind.CONTENT_FILTER: _BAD_SAMPLE,
    FailureKind.UNSUPPORTED: _BAD_REQUEST,
}
RETRYABLE = frozenset(kind for kind, policy in POLICIES.items() if policy.is_retried)
# below this many, one odd reply among good ones is no verdict on the key, the name or the route
N_TO_STOP = 5

_CONTEXT = re.compile(
    r"context.{0,12}(length|size)|maximum context|context window|too many tokens|prompt is too long|max_model_len"
    r"|longer than the (maximum|model)|input.{0,20}too long"
    # TGI and Together; TensorRT-LLM; Gemini; xAI; Anthropic
    r"|`inputs` (tokens|must have less than)|prompt length.{0,80}(should not|must not|cannot) exceed"
    r"|token count.{0,40}exceeds|maximum prompt length|exceeds? (the )?context limit",
    re.IGNORECASE,
)
_FILTER = re.compile(r"content.?filter|content.?policy|content management policy|safety system", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"not (supported|implemented)|unsupported|unrecognized|unknown (field|parameter)", re.IGNORECASE
)
_NO_CREDIT = re.compile(
    r"insufficient.?(quota|balance|funds|credit)|billing.?hard.?limit|credit balance is too low", re.IGNORECASE
)
_NO_ENTRY = re.compile(
    r"invalid.?api.?key|api key (not valid|is invalid)|(model|deployment).?not.?found", re.IGNORECASE
)
_CERTIFICATE = re.compile(r"certificate|unknown ?issuer|self.signed", re.IGNORECASE)
_NO_SUCH_HOST = re.compile(r"name or service not known|no address associated|nodename nor servname", re.IGNORECASE)
_NO_TLS = re.compile(r"InvalidContentType|wrong version number", re.IGNORECASE)
_CUT = re.compile(r"unexpected eof|end of file", re.IGNORECASE)  # somebody hung up in the middle of a reply
_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1", re.IGNORECASE | re.DOTALL)
_HTML = re.compile(rb"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)", re.IGNORECASE | re.DOTALL)
_BUSY = re.compile(r"overload|rate.?limit|try again|capacity|internal", re.IGNORECASE)
_STATUS = re.compile("[0-9]{3}")
_MAX_MESSAGE = 500
_LEAST_OF_SECRET = 6  # fewer characters of its beginning tell nothing, and may be a word's


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
    retry_after_cap_s: float = 600.0

    def wait_s(self, n_attempts: int, retry_after_s: float | None, jitter: float) -> float:
        """Seconds to wait after `n_attempts` attempts. `jitter` in [0, 1) spreads waiters over the upper half."""
        if retry_after_s is not None:
            return min(retry_after_s, self.retry_after_cap_s) * (1 + 0.1 * jitter)
        full = min(self.cap_s, self.base_s * 2.0 ** min(n_attempts - 1, 30))
        return full * (0.5 + 0.5 * jitter)


def failure(kind: FailureKind, message: str, *, status: int | None = None) -> Failure:
    """A failure with its message shortened and cleared of anything that looks like a key."""
    # JSON can carry half a character, and no file can
    whole = message.encode(errors="replace").decode()
    text = SECRET.sub(r"\1***", " ".join(whole.split()))
    return Failure(kind=kind, message=text[:_MAX_MESSAGE] or kind.value, http_status=status)


def without(failed: Failure, secrets: Iterable[str]) -> Failure:
    """The failure with these very texts taken out of its message: a key need not look like one."""
    message = failed.message
    longest_first = sorted(secrets, key=len, reverse=True)
    for secret in longest_first:
        message = message.replace(secret, "***")
    # and what is left of one that was cut
    for secret in longest_first:
        for n_chars in range(len(secret) - 1, _LEAST_OF_SECRET - 1, -1):
            if secret[:_LEAST_OF_SECRET] not in message:
                break
            message = message.replace(secret[:n_chars], "***")
    return failed if message == failed.message else failed.model_copy(update={"message": message})


def from_exception(error: Exception) -> Failure:
    """What an HTTP client exception means."""
    why = str(error)  # ends in what is at the bottom of it
    text = f"{type(error).__name__}: {why}"
    if isinstance(error, httpx.TimeoutException):
        return failure(FailureKind.TIMEOUT, text)
    if isinstance(error, httpx.DecodingError) or _CUT.search(why):
        return failure(FailureKind.MALFORMED, text)
    if isinstance(error, httpx.ConnectError) and _CERTIFICATE.search(why):
        hint = "Its certificate does not hold: have it renewed, or set base_url to the name that it was issued for."
        return failure(FailureKind.DENIED, f"{text}. {hint}")
    if _NO_SUCH_HOST.search(why):
        text += ". No such host: check base_url, and this machine's name resolution."
    elif _NO_TLS.search(why):
        text += ". It does not speak TLS: base_url may have to begin with http://."
    return failure(FailureKind.CONNECTION, text)


def from_status(status: int, body: bytes) -> Failure:
    """What a reply with a status other than 2xx means."""
    words, text = _words(body)
    return failure(_kind_of(status, words), text or f"HTTP {status} without a body", status=status)


def from_error_object(error: Any, *, status: int = 200) -> Failure:
    """An error object in a 2xx reply: decided by the code it names, else by its words."""
    words, text = _told(error)
    code = error.get("code") if isinstance(error, dict) else None
    named = int(code) if isinstance(code, int) or (isinstance(code, str) and _STATUS.fullmatch(code)) else None
    if named is not None and 400 <= named < 600:
        kind = _kind_of(named, words)
    else:
        kind = _kind_of(400, words)
        # "try again with a shorter prompt" is no overload: the more exact kinds come first
        if kind is FailureKind.REJECTED and _BUSY.search(words):
            kind = FailureKind.OVERLOADED
    return failure(kind, f"error object in an HTTP {status} reply: {text}", status=status)


def no_json(status: int, body: bytes, headers: Mapping[str, str]) -> Failure:
    """A 2xx reply that is no JSON: a page of somebody else on the way, a text cut off, a coding nobody asked for."""
    if not body:
        return failure(FailureKind.MALFORMED, f"HTTP {status} without a body", status=status)
    if page := _page(body):
        hint = "a proxy or a login page may stand between, or base_url is not where the API's routes begin"
        return failure(FailureKind.MALFORMED, f"the reply is no JSON but {page}: {hint}", status=status)
    coded = f", content-encoding {headers['content-encoding']!r}" if "content-encoding" in headers else ""
    start = body[:80].decode(errors="replace")
    return failure(FailureKind.MALFORMED, f"the reply is no JSON (it starts {start!r}{coded})", status=status)


def what_to_check(failed: Failure) -> str:
    """For the operator: what a failure of the kind that stops the asking may come from."""
    if _NO_CREDIT.search(failed.message) or failed.http_status == 402:
        return "Check the account's credit and limits."
    if failed.http_status in (400, 401, 403, 407):
        return "Check the key, whether it is still valid and may use this model, in the variable of `api_key_env`."
    if failed.http_status is not None:
        return "Check `base_url`, and the model's name there (`served_name`)."
    return "Check `base_url`."


def _words(body: bytes) -> tuple[str, str]:
    """What an error body says: all that its kind is decided by, and the server's own words for the reader."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        text = _page(body) or body[:2000].decode(errors="replace")
        return text, text
    return _told(data.get("error") or data if isinstance(data, dict) else data)


def _told(error: Any) -> tuple[str, str]:
    if not isinstance(error, dict):
        text = error if isinstance(error, str) else repr(error)
        return text, text
    code, said = error.get("code"), error.get("message") or error.get("detail")
    text = " ".join(str(part) for part in (code, said) if part) or json.dumps(error)
    return f"{error.get('type') or ''} {error.get('status') or ''} {text}", text


def _page(body: bytes) -> str:
    """What an HTML page is, in words; empty for anything else."""
    if not _HTML.match(body[:2000]):
        return ""
    title = _TITLE.search(body[:20000].decode(errors="replace"))
    named = " ".join(re.sub(r"<[^>]*>", " ", title[2]).split()) if title else ""
    return f"an HTML page, {named!r}" if named else "an HTML page"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
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
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if _NO_CREDIT.search(text):  # no wait brings credit, even where the status says 429
        return FailureKind.DENIED
    if status == 429 or status >= 500:
        return FailureKind.OVERLOADED
    if status in (400, 413, 422) and _CONTEXT.search(text):
        return FailureKind.CONTEXT_LENGTH
    if status in (400, 403) and _FILTER.search(text):
        return FailureKind.CONTENT_FILTER
    if status in (401, 403) or (status == 400 and _NO_ENTRY.search(text)):
        return FailureKind.DENIED
    if status in (400, 422) and _UNSUPPORTED.search(text):
        return FailureKind.UNSUPPORTED
    return FailureKind.REJECTED


_BY_STATUS: Mapping[int, FailureKind] = {
    **dict.fromkeys((408, 504, 524), FailureKind.TIMEOUT),
    # somebody on the way found nobody there
    **dict.fromkeys((521, 522, 523), FailureKind.CONNECTION),
    # another request holds what this one needs, or the server does not want it yet
    **dict.fromkeys((409, 423, 425), FailureKind.OVERLOADED),
    **dict.fromkeys((402, 404, 405, 407, 410), FailureKind.DENIED),
    **dict.fromkeys((501, 505), FailureKind.UNSUPPORTED),
}
