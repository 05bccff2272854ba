"""log: what was sent and what came back, as one JSON line for each attempt, in a file of the run.

The first so many that were answered, and every failure; how many there were of each status. Texts are shortened,
values of headers and what looks like a key are left out. A disk that cannot be written to ends the log, not the run.

Stage   attempt
Source  NeMo Evaluator, "Request Logging", "Response Logging", 0.3 "http_pairs_dump"
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from eval_pipelines.client.interception import Attempt, Context, Interceptor
from eval_pipelines.client.redaction import Redactor, secrets_in
from eval_pipelines.records import utc_now

if TYPE_CHECKING:
    from eval_pipelines.client.report import AskReport
    from eval_pipelines.endpoint import Endpoint

ONCE = True


class Spec(BaseModel):
    """Options of log."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    first_n: int = Field(default=50, ge=0, description="Answered attempts that are logged; failures always are.")
    request_bodies: bool = Field(default=True, description="Log what was sent.")
    request_headers: bool = Field(default=True, description="Log names of headers; values only of harmless ones.")
    response_bodies: bool = Field(default=True, description="Log what came back.")
    max_body_chars: int = Field(default=16_384, ge=0, description="Characters kept of one body.")
    max_bytes: int = Field(default=64 * 2**20, ge=1024, description="Of the file: then failures go without bodies.")
    max_files: int = Field(default=5, ge=1, description="Runs of one evaluation whose logs are kept.")


@dataclass(slots=True)
class _Log(Interceptor):
    spec: Spec
    context: Context
    name: str = "log"
    statuses: Counter[str] = field(default_factory=Counter)
    n_logged: int = 0
    n_answers: int = 0
    n_left_out: int = 0
    n_bytes: int = 0
    _file: FileIO | None = None
    _path: Path | None = None
    _is_given_up: bool = False
    _secrets: set[str] = field(default_factory=set)
    _headers: Mapping[str, str] = field(default_factory=dict)

    def begin(self, report: "AskReport", endpoint: "Endpoint") -> None:
        del report
        self._headers = endpoint.headers
        self._secrets = secrets_in(endpoint.headers)
        for replica in endpoint.replicas:
            self._secrets |= secrets_in(replica.headers)

    def _open(self) -> FileIO:
        """Opened with the first line: a run that asks nothing leaves no file, and pushes none out."""
        if self._file is None:
            folder = self.context.folder
            self._path = folder / f"{self.name}-{self.context.run_id or 'run'}.jsonl"
            folder.mkdir(parents=True, exist_ok=True)
            _remove_old(folder, self.name, self.spec.max_files - 1)
            self._file = self._path.open("ab", buffering=0)
        return self._file

    def received(self, attempt: Attempt) -> None:
        failed = attempt.failure
        self.statuses["200" if failed is None else str(failed.http_status or failed.kind.value)] += 1
        if failed is None:
            self.n_answers += 1
        is_full = self.n_bytes >= self.spec.max_bytes
        if self._is_given_up or (failed is None and (self.n_answers > self.spec.first_n or is_full)):
            self.n_left_out += 1
            return
        line = self._line(attempt, with_bodies=not is_full)
        try:
            self.n_bytes += self._open().write(line)
            self.n_logged += 1
        except OSError as error:
            self._give_up(error)

    def _line(self, attempt: Attempt, *, with_bodies: bool) -> bytes:
        spec, request, failed = self.spec, attempt.request, attempt.failure
        redactor = Redactor(self._secrets | secrets_in(attempt.headers))
        told: dict[str, Any] = {
            "at": utc_now().isoformat(timespec="milliseconds"),
            "sample_id": request.sample_id,
            "part": request.part,
            "repeat": request.repeat,
            "request_digest": request.digest,
            "n_attempt": attempt.n_attempt,
            "latency_s": round(attempt.latency_s, 4),
        }
        if failed is not None:
            told["failure"] = {"kind": failed.kind.value, "http_status": failed.http_status}
            told["failure"]["message"] = redactor.text(failed.message, 2000)
        if spec.request_headers and with_bodies:
            told["headers"] = redactor.headers({**self._headers, **attempt.headers})
        if spec.request_bodies and with_bodies:
            told["request"] = redactor.json(attempt.body, spec.max_body_chars)
        if spec.response_bodies and with_bodies and attempt.reply is not None:
            told["response"] = redactor.json(attempt.reply, spec.max_body_chars)
        return json.dumps(told, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"

    def _give_up(self, error: OSError) -> None:
        self.context.log(f"log: {self._path} cannot be written ({error.strerror}): nothing more is logged")
        self._is_given_up = True
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    async def finish(self) -> Mapping[str, Any]:
        self._close()
        if not self.statuses:
            return {}
        counts = {"statuses": dict(self.statuses.most_common()), "n_logged": self.n_logged}
        where = {"path": str(self._path)} if self._path is not None else {}
        return counts | {"n_left_out": self.n_left_out, **where}


def _remove_old(folder: Path, name: str, n_kept: int) -> None:
    found = sorted(folder.glob(f"{name}-*.jsonl"), key=lambda path: path.stat().st_mtime)
    for path in found[: max(0, len(found) - n_kept)]:
        path.unlink(missing_ok=True)


def attempt(spec: Spec, context: Context) -> Interceptor:
    """Writes them."""
    return _Log(spec, context)
