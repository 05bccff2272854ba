"""MLflow: a run for each family, by its REST API; nothing of MLflow is installed or imported here.

A run is never changed, only continued. Where a number was replaced (other bytes, another version of a benchmark), a new
run takes the former's place, and that one goes into MLflow's trash, from which it can be restored.

Needs   a tracking server of MLflow 2 or 3
Source  MLflow documentation, "REST API": experiments, runs/search, runs/create, runs/log-batch, metrics/get-history
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, TypeVar

import httpx

from eval_pipelines.errors import ConfigError, EvalPipelinesError
from eval_pipelines.exporters import Course, Sent, Target, values_of
from eval_pipelines.keys import digest

TO: Final = "the tracking server's URL, with `#name` for an experiment of another name than `eval-pipelines`"
_EXPERIMENT: Final = "eval-pipelines"
_COURSE: Final = "eval_pipelines.course"
_STATE: Final = "eval_pipelines.state"
# of log-batch: 1,000 metrics, 100 tags
_N_METRICS: Final = 900
_N_TAGS: Final = 90
_TIMEOUT_S: Final = 60.0

Told = dict[tuple[str, int], float]
Item = TypeVar("Item")


def export(courses: Sequence[Course], target: Target) -> Sent:
    """Bring each course's run up to date.

    Raises:
        ConfigError: the address is none, or no MLflow answers there.
        EvalPipelinesError: MLflow refused something; with its own words.
    """
    url, _, name = target.to.partition("#")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{target.to!r} is no address of an MLflow server: it must read http://host:port.")
    if httpx.URL(url).userinfo:
        raise ConfigError("a password has no place in an address: name the variable with a token by --token-env.")
    headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
    done = []
    with httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=_TIMEOUT_S) as client:
        server = _Server(client)
        experiment = server.experiment(name or _EXPERIMENT)
        for course in courses:
            done.append(_bring(server, experiment, course))
    totals = [sum(column) for column in zip(*done, strict=True)] if done else [0, 0, 0, 0]
    return Sent(f"{url}/#/experiments/{experiment}", *totals)


def _bring(server: "_Server", experiment: str, course: Course) -> tuple[int, int, int, int]:
    """(new runs, new numbers, known numbers, replaced runs)."""
    wanted: Told = {(key, point.step): value for point in course.points for key, value in values_of(point).items()}
    at = {(key, point.step): point for point in course.points for key in values_of(point)}
    state = digest(sorted([key, step, value] for (key, step), value in wanted.items()))
    run, seen, replaced = *server.run_of(experiment, course.name), 0
    if run and seen == state:
        return 0, 0, len(course.points), 0
    known = server.told(run, sorted({key for key, _ in wanted})) if run else {}
    if run and any(wanted.get(place) != value for place, value in known.items()):
        server.post("runs/delete", {"run_id": run})
        run, known, replaced = None, {}, 1
    is_new = run is None
    if run is None:
        run = server.create(experiment, course)
    missing = [place for place in wanted if place not in known]
    for part in _in_parts(missing, _N_METRICS):
        metrics = [
            {"key": key, "value": wanted[key, step], "step": step, "timestamp": _ms(at[key, step].recorded_at)}
            for key, step in part
        ]
        server.post("runs/log-batch", {"run_id": run, "metrics": metrics})
    # the state is told last: a run that was left half-way is asked for all it holds
    for tags in _in_parts([*course.tags.items(), (_STATE, state)], _N_TAGS):
        server.post(
            "runs/log-batch", {"run_id": run, "tags": [{"key": key, "value": value[:5_000]} for key, value in tags]}
        )
    n_new = sum(1 for point in course.points if (point.key, point.step) not in known)
    return int(is_new), n_new, len(course.points) - n_new, replaced


def _in_parts(items: Sequence[Item], n: int) -> Iterator[Sequence[Item]]:
    yield from (items[start : start + n] for start in range(0, len(items), n))


def _ms(moment: Any) -> int:
    return int(moment.timestamp() * 1000)


class _Server:
    """The few calls of the REST API that an export takes."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def experiment(self, name: str) -> str:
        """The experiment's id; made if there is none."""
        found = self._client_get("experiments/get-by-name", {"experiment_name": name}, missing={})
        if found:
            if found["experiment"]["lifecycle_stage"] != "active":
                raise ConfigError(
                    f"the experiment {name!r} is in MLflow's trash: restore it, or name another with #name."
                )
            return str(found["experiment"]["experiment_id"])
        return str(self.post("experiments/create", {"name": name})["experiment_id"])

    def run_of(self, experiment: str, course: str) -> tuple[str | None, str]:
        """The id of a course's run, if there is one, and the state that it was last brought to."""
        told = {"experiment_ids": [experiment], "filter": f"tags.`{_COURSE}` = '{course}'", "max_results": 2}
        runs = self.post("runs/search", told).get("runs", [])
        if not runs:
            return None, ""
        tags = {tag["key"]: tag["value"] for tag in runs[0]["data"].get("tags", [])}
        return str(runs[0]["info"]["run_id"]), tags.get(_STATE, "")

    def create(self, experiment: str, course: Course) -> str:
        """A new run, finished at once: it only ever holds what was measured before."""
        started, ended = (_ms(pick(point.recorded_at for point in course.points)) for pick in (min, max))
        made = self.post("runs/create", {
            "experiment_id": experiment, "run_name": course.name, "start_time": started,
            "tags": [{"key": _COURSE, "value": course.name}, {"key": "mlflow.source.name", "value": "eval-pipelines"}],
        })  # fmt: skip
        run = str(made["run"]["info"]["run_id"])
        self.post("runs/update", {"run_id": run, "status": "FINISHED", "end_time": ended})
        return run

    def told(self, run: str, keys: Sequence[str]) -> Told:
        """What a run holds of these metrics."""
        return {(point["key"], int(point.get("step", 0))): float(point["value"])
                for point in chain.from_iterable(self._history(run, key) for key in keys)}  # fmt: skip

    def _history(self, run: str, key: str) -> Iterator[dict[str, Any]]:
        page: str | None = None
        while True:
            asked = {"run_id": run, "metric_key": key} | ({"page_token": page} if page else {})
            found = self._client_get("metrics/get-history", asked, missing={})
            yield from found.get("metrics", [])
            page = found.get("next_page_token")
            if not page:
                return

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call. Raises ConfigError, EvalPipelinesError."""
        return self._call(path, "POST", json=body)

    def _client_get(self, path: str, params: dict[str, Any], *, missing: dict[str, Any]) -> dict[str, Any]:
        return self._call(path, "GET", params=params, missing=missing)

    def _call(self, path: str, verb: str, *, missing: dict[str, Any] | None = None, **told: Any) -> dict[str, Any]:
        try:
            reply = self._client.request(verb, f"/api/2.0/mlflow/{path}", **told)
        except httpx.HTTPError as error:
            raise ConfigError(f"no MLflow answers at {self._client.base_url}: {error}") from None
        if reply.status_code == 404 and missing is not None and "RESOURCE_DOES_NOT_EXIST" in reply.text:
            return missing
        if reply.status_code in (401, 403):
            raise ConfigError(
                f"MLflow at {self._client.base_url} wants to know who asks: name the variable with a token by --token-env."
            )
        try:
            found: dict[str, Any] = reply.json()
        except ValueError:
            raise ConfigError(
                f"what answers at {self._client.base_url} is no MLflow server: {reply.text[:200]}"
            ) from None
        if reply.is_error:
            raise EvalPipelinesError(f"MLflow refused {path}: {found.get('message', reply.text)[:500]}")
        return found
