"""The interceptors of one cell in their order: the benchmark's, then the model's; on the way back reversed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from eval_pipelines.client.interception import Context, Interceptor
from eval_pipelines.config import InterceptorEntry
from eval_pipelines.endpoint import Endpoint
from eval_pipelines.records import Request, Response


class Chain:
    """What stands around the requests of one benchmark to one model. Pure, but for what `attempts` makes."""

    def __init__(
        self, of_benchmark: Sequence[InterceptorEntry] = (), of_model: Sequence[InterceptorEntry] = ()
    ) -> None:
        self.of_benchmark, self.of_model = tuple(of_benchmark), tuple(of_model)
        self._way_out = {name: self._functions(name) for name in ("request", "headers", "reuses", "attempt")}
        self._way_back = {name: self._functions(name)[::-1] for name in ("response", "remark")}

    def _functions(self, stage: str) -> list[tuple[str, Callable[..., Any], Any]]:
        entries = [*self.of_benchmark, *self.of_model]
        return [(one.name, getattr(one.module, stage), one.spec) for one in entries if hasattr(one.module, stage)]

    def __bool__(self) -> bool:
        return bool(self.of_benchmark or self.of_model)

    @property
    def reads_answers(self) -> bool:
        """Whether answers are graded other than they came."""
        return any(self._way_back.values())

    @property
    def graded_as(self) -> list[dict[str, Any]]:
        """What changes the answers that are graded, as plain JSON, in the order of the lists."""
        return [one.in_words for one in (*self.of_benchmark, *self.of_model) if one.is_of(("response", "remark"))]

    def request(self, request: Request) -> Request:
        """What is really asked. Raises UnsupportedError for what an interceptor cannot do to it."""
        for _, change, spec in self._way_out["request"]:
            request = change(spec, request)
        return request

    def response(self, request: Request, response: Response) -> Response:
        """What is really graded."""
        for _, change, spec in self._way_back["response"]:
            response = change(spec, request, response)
        return response

    def remark(self, request: Request, response: Response) -> str | None:
        """What is to be known of an answer, as it came."""
        found = [note(spec, request, response) for _, note, spec in self._way_back["remark"]]
        return "; ".join(filter(None, found)) or None

    def reusable(
        self,
        answered: Mapping[str, datetime],
        requests: Iterable[Request],
        now: datetime,
        unfinished: Callable[[], Mapping[str, datetime]] = dict,
    ) -> Mapping[str, datetime]:
        """When each landed answer that may be used again was asked for, by request digest.

        Args:
            unfinished: those of tries that were stopped may be, whatever the rules say: otherwise what takes several
                days of a budget would begin anew each day. Looked up only if there are rules.
        """
        rules = self._way_out["reuses"]
        if not rules:
            return answered
        begun, usable = unfinished(), dict[str, datetime]()
        for request in requests:
            asked_at = answered.get(digest := request.digest)
            if asked_at is None or digest in usable:
                continue
            is_begun = digest in begun and begun[digest] <= asked_at
            if is_begun or all(may(spec, request, asked_at, now) for _, may, spec in rules):
                usable[digest] = asked_at
        return usable

    def endpoint(self, endpoint: Endpoint, environment: Mapping[str, str]) -> Endpoint:
        """The endpoint with the headers that are really sent. Raises ConfigError for a variable that is not set."""
        if not self._way_out["headers"]:
            return endpoint

        def changed(headers: Mapping[str, str]) -> Mapping[str, str]:
            for _, change, spec in self._way_out["headers"]:
                headers = change(spec, headers, environment)
            return headers

        replicas = tuple(replace(one, headers=changed(one.headers)) for one in endpoint.replicas)
        return replace(endpoint, headers=changed(endpoint.headers), replicas=replicas)

    def attempts(self, context: Context) -> list[Interceptor]:
        """Interceptors for one evaluation. Nothing is opened before asking begins."""
        made = []
        for name, make, spec in self._way_out["attempt"]:
            interceptor: Interceptor | None = make(spec, context)
            if interceptor is not None:
                interceptor.name = name
                made.append(interceptor)
        return made
