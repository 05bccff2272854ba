"""Landing: append-only Parquet under `<data root>/landing/`, the truth everything else is derived from.

    landing/samples/benchmark=…/<ask version>.parquet
    landing/responses/model=…/benchmark=…/<evaluation id>-<run id>.parquet       only what this run was newly answered
    landing/server_metrics/model=…/benchmark=…/<evaluation id>-<run id>.parquet  what its servers told meanwhile
    landing/evaluations/model=…/benchmark=…/<evaluation id>-<run id>.parquet     after both
    landing/scores/model=…/benchmark=…/<evaluation id>-<score version>-<run id>.parquet
    landing/judgements/…                                                         what judges said of the answers, if any
    landing/metrics/…                                                            after its scores: the commit
    landing/gate_verdicts/model=…/gate=…/<run id>.parquet                        what a gate said of it
    landing/configured/by=…/<moment>.parquet                                     what an evals.yaml asks for since then

Any number of processes and machines may land at once, without a lock: names are unique and nothing is overwritten.
"""

import itertools
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from eval_pipelines.errors import WarehouseError
from eval_pipelines.judgements import Judgement
from eval_pipelines.keys import ModelKey, digest
from eval_pipelines.records import Evaluation, Metric, Place, Request, Response, Sample, Score, ServerMetrics
from eval_pipelines.warehouse import lengths, response_rows
from eval_pipelines.warehouse.files import safe_name, write_new
from eval_pipelines.warehouse.landed_rows import read, write
from eval_pipelines.warehouse.mirror import Mirror, Synced
from eval_pipelines.warehouse.noticed import announced_by
from eval_pipelines.warehouse.response_rows import Row
from eval_pipelines.warehouse.stores import Store

_FEW = 1_000


class Landing:
    """The landing folder of one data root. Holds no state: two of them on one root are the same.

    With a store, the folder is this machine's copy: what is landed is kept there too, and what other machines landed
    is fetched before it is read.
    """

    def __init__(self, root: Path, store: Store | None = None) -> None:
        self.folder = root / "landing"
        self._mirror = Mirror(self.folder, store) if store is not None else None

    def sync(self) -> Synced:
        """Fetch what other machines landed, and keep what only this one has. Raises WarehouseError."""
        return self._mirror.sync() if self._mirror is not None else Synced(0, 0)

    def land_samples(self, benchmark: str, ask_version: str, samples: Iterable[Sample]) -> Path | None:
        """Land the samples of a benchmark version that are not landed yet; None if all are. Raises WarehouseError."""
        folder = self.folder / "samples" / f"benchmark={safe_name('benchmark', benchmark)}"
        target = folder / f"{safe_name('benchmark version', ask_version)}.parquet"
        known = {
            row["sample_id"]
            for row in read(
                "samples", _parquet_files(self._fetched(folder)), ["sample_id"], ds.field("ask_version") == ask_version
            )
        }
        new = [sample for sample in samples if sample.sample_id not in known]
        if not new:
            return None
        if known:
            # "First 100, now all": a second file with the rest. Its name is its content, so two processes agree on it.
            target = target.with_name(f"{target.stem}+{digest([s.sample_id for s in new], n_bytes=6)}.parquet")
        rows = ({"benchmark": benchmark, "ask_version": ask_version, **sample.model_dump()} for sample in new)
        return self._land("samples", target, rows)

    def land_responses(
        self, evaluation: Evaluation, responses: Iterable[tuple[Request | Place, Response]]
    ) -> Path | None:
        """Land what this run was newly answered, failures included; streams. None if there was nothing new.

        Answers that earlier evidence gave (`answered`) are not landed again. Raises WarehouseError.
        """
        rows = (response_rows.row_of(evaluation, request, response) for request, response in responses)
        first = next(rows, None)
        if first is None:
            return None
        return self._land("responses", self._cell_file("responses", evaluation), itertools.chain([first], rows))

    def land_server_metrics(self, evaluation: Evaluation, records: Iterable[ServerMetrics]) -> Path | None:
        """Land what the servers told while they were asked; None if they told nothing. Raises WarehouseError."""
        identity = {name: getattr(evaluation, name) for name in ("evaluation_id", "run_id", "model_key", "benchmark")}
        rows = [{**identity, **one.model_dump()} for one in records]
        return self._land("server_metrics", self._cell_file("server_metrics", evaluation), rows) if rows else None

    def land_evaluation(self, evaluation: Evaluation) -> Path:
        """Land an evaluation, after its responses: a crash in between leaves no evaluation without evidence."""
        return self._land("evaluations", self._cell_file("evaluations", evaluation), [evaluation.model_dump()])

    def land_scores(
        self,
        evaluation: Evaluation,
        scores: Iterable[Score],
        metrics: Iterable[Metric],
        *,
        score_version: str,
        run_id: str,
        recorded_at: datetime,
        graded_as: str | None = None,
        judgements: Sequence[Judgement] = (),
        judged_by: str | None = None,
    ) -> Path:
        """Land one grading of an evaluation: scores, then metrics. Scores without metrics are never published.

        Args:
            score_version: the scorer's version; with `ask_version` it makes two numbers comparable.
            run_id: the run that graded (not the one that asked).
            recorded_at: aware; ties scores and metrics of one grading together.
            graded_as: JSON of the interceptors that the answers were read through; None: as they came.
            judgements: what judges said, if there are any.
            judged_by: JSON of the judges' versions, and of the baseline's; None without judges.

        Returns:
            The metrics file. Raises WarehouseError.
        """
        common: Row = {
            name: getattr(evaluation, name)
            for name in ("evaluation_id", "run_id", "model_key", "family", "revision", "step", "fingerprint")
        } | {
            "benchmark": evaluation.benchmark,
            "ask_version": evaluation.ask_version,
            "score_version": score_version,
            "score_run_id": run_id,
            "recorded_at": recorded_at,
        }
        name = f"{safe_name('score version', score_version)}-{safe_name('run id', run_id)}"
        told = {"graded_as": graded_as, "judged_by": judged_by}

        def land(kind: str, rows: Iterable[Row]) -> Path:
            folder = self._cell(evaluation.model_key, evaluation.benchmark, kind)
            return self._land(kind, folder / f"{evaluation.evaluation_id}-{name}.parquet", rows)

        land("scores", ({**common, **score.model_dump()} for score in scores))
        if judgements:
            land("judgements", ({**common, **one.model_dump()} for one in judgements))
        return land(
            "metrics", ({**common, **metric.model_dump(), "coverage": metric.coverage, **told} for metric in metrics)
        )

    def land_gate_verdict(self, gate: str, model_key: str, run_id: str, rows: Iterable[Row]) -> Path:
        """Land what a gate said of a model: one row for the whole and one for each benchmark. Raises WarehouseError."""
        model = safe_name("model key", model_key)
        folder = self.folder / "gate_verdicts" / f"model={model}" / f"gate={safe_name('gate', gate)}"
        return self._land("gate_verdicts", folder / f"{safe_name('run id', run_id)}.parquet", rows)

    def land_configured(self, by: str, changes: Mapping[tuple[str, str], bool], now: datetime) -> Path:
        """Land what the configuration `by` asks for from now on, and what no longer. Raises WarehouseError."""
        common = {"configured_by": by, "recorded_at": now}
        rows = [{**common, "model_key": m, "benchmark": b, "is_configured": is_} for (m, b), is_ in changes.items()]
        return self._land("configured", self.configured_folder(by) / f"{now:%Y%m%dT%H%M%S%f}.parquet", rows)

    def configured_folder(self, by: str) -> Path:
        """Where all that the configuration `by` ever asked for lies. Raises WarehouseError."""
        return self._fetched(self.folder / folder_of(by))

    def answered(
        self, model_key: ModelKey | str, fingerprint: str, *, with_greedy: bool = False
    ) -> dict[str, datetime]:
        """When each landed answer (no failure) of one model version was asked for, by request digest; the newest wins.

        A request digest does not depend on the benchmark, so all of the model's benchmarks are searched.

        Args:
            with_greedy: only log-likelihoods that say whether the continuation is greedy.

        Raises:
            WarehouseError: a file of another shape.
        """
        wanted = (ds.field("fingerprint") == fingerprint) & ds.field("failure_kind").is_null()
        if with_greedy:
            wanted &= ds.field("logprob").is_null() | ~ds.field("is_greedy").is_null()
        return _asked_at(self._responses(model_key, wanted, ["request_digest", "asked_at"]))

    def unfinished(self, model_key: ModelKey | str, benchmark: str, evaluation_id: str) -> dict[str, datetime]:
        """When each answer was asked for that tries at this evaluation landed since one was complete. Raises WarehouseError."""
        tries = _parquet_files(self._fetched(self._cell(str(model_key), benchmark, "evaluations")), f"{evaluation_id}-")
        found = [Evaluation.model_validate(row) for row in read("evaluations", tries)]
        wanted = ds.field("failure_kind").is_null()
        if complete := [one.recorded_at for one in found if one.is_complete]:
            wanted &= ds.field("asked_at") > pa.scalar(max(complete), response_rows.TIME)
        files = _parquet_files(self._fetched(self._cell(str(model_key), benchmark, "responses")), f"{evaluation_id}-")
        return _asked_at(read("responses", files, ["request_digest", "asked_at"], wanted))

    def untold(self, model_key: ModelKey | str, benchmark: str, fingerprint: str) -> Iterator[Response]:
        """Answers in no evaluation's cost: of tries killed before they landed theirs, and none was landed in the cell since."""
        folders = [self._fetched(self._cell(str(model_key), benchmark, kind)) for kind in ("evaluations", "responses")]
        told, landed = ({path.name: path for path in _parquet_files(folder)} for folder in folders)
        if not (killed := landed.keys() - told.keys()):
            return
        wanted = (ds.field("fingerprint") == fingerprint) & ds.field("failure_kind").is_null()
        if last := self.latest_evaluation(model_key, benchmark):
            wanted &= ds.field("asked_at") > pa.scalar(last.recorded_at, response_rows.TIME)
        for name in killed:
            rows = read("responses", [landed[name]], response_rows.COLUMNS, wanted)
            yield from response_rows.newest(rows, None).values()

    def responses_for(
        self, model_key: ModelKey | str, fingerprint: str, digests: Collection[str], *, of: Evaluation | None = None
    ) -> dict[str, Response]:
        """The newest answer to each of these requests, or its newest failure if none.

        Args:
            of: only what this evaluation could use. A failure of its own is no answer because there was one before.

        Raises:
            WarehouseError: a file of another shape.
        """
        keep = set(digests)
        if not keep:  # a set of no texts has no type to look for
            return {}
        wanted = ds.field("fingerprint") == fingerprint
        if of is not None and of.answers_since is not None:
            is_own = (ds.field("evaluation_id") == of.evaluation_id) & (ds.field("run_id") == of.run_id)
            wanted &= is_own | (ds.field("asked_at") >= pa.scalar(of.answers_since, response_rows.TIME))
        if len(keep) <= _FEW:  # a filter of many values is slower than a look at each row
            wanted &= ds.field("request_digest").isin(sorted(keep))
        rows = (row for row in self._responses(model_key, wanted) if row["request_digest"] in keep)
        return response_rows.newest(rows, of)

    def expected_tokens(self, model_key: ModelKey | str, benchmark: str, wanted: Container[str]) -> dict[str, int]:
        """Completion tokens by request digest, as earlier answers had them: of this model, of its family, of others.

        Looks into a few files only, however many models were asked. What cannot be read teaches nothing.
        """
        found: dict[str, int] = {}
        n_taught = 0
        for path in lengths.teachers(self.folder / "responses", str(model_key), benchmark):
            n_known = len(found)
            try:
                for row in read("responses", [path], ["request_digest", "completion_tokens"]):
                    if row["completion_tokens"] and row["request_digest"] in wanted:
                        found.setdefault(row["request_digest"], row["completion_tokens"])
            except (WarehouseError, OSError, pa.ArrowException):
                continue
            n_taught += len(found) > n_known
            if n_taught == lengths.MOST_TEACHERS:
                break
        return found

    def latest_evaluation(self, model_key: ModelKey | str, benchmark: str) -> Evaluation | None:
        """The evaluation of this cell that was recorded last, within its budget or not. Raises WarehouseError.

        Args:
            benchmark: `Evaluation.cell` where a judge was asked.
        """
        files = _parquet_files(self._fetched(self._cell(str(model_key), benchmark, "evaluations")))
        found = [Evaluation.model_validate(row) for row in read("evaluations", files)]
        return max(found, key=lambda evaluation: evaluation.recorded_at, default=None)

    def _responses(
        self, model_key: ModelKey | str, wanted: ds.Expression, columns: list[str] | None = None
    ) -> Iterator[Row]:
        folder = self.folder / "responses" / f"model={safe_name('model key', str(model_key))}"
        files = sorted(self._fetched(folder).glob("benchmark=*/[!.]*.parquet"))
        return read("responses", files, columns or response_rows.COLUMNS, wanted)

    def _cell(self, model_key: str, benchmark: str, kind: str) -> Path:
        model, name = safe_name("model key", model_key), safe_name("benchmark", benchmark)
        return self.folder / kind / f"model={model}" / f"benchmark={name}"

    def _cell_file(self, kind: str, evaluation: Evaluation) -> Path:
        name = f"{safe_name('evaluation id', evaluation.evaluation_id)}-{safe_name('run id', evaluation.run_id)}"
        return self._cell(evaluation.model_key, evaluation.cell, kind) / f"{name}.parquet"

    def _land(self, kind: str, target: Path, rows: Iterable[Row]) -> Path:
        landed = write_new(target, lambda sink: write(kind, sink, rows), announced_by(self.folder))
        return landed if self._mirror is None else self._mirror.keep(landed)

    def _fetched(self, folder: Path) -> Path:
        """The folder, with what other machines landed in it."""
        if self._mirror is not None:
            self._mirror.fetch(folder.relative_to(self.folder).as_posix())
        return folder


def folder_of(by: str) -> str:
    """The folder of one configuration, relative to the landing."""
    return f"configured/by={digest([by], n_bytes=6)}"


def _asked_at(rows: Iterable[Row]) -> dict[str, datetime]:
    found: dict[str, datetime] = {}
    for row in rows:
        digest_, asked_at = row["request_digest"], row["asked_at"]
        if digest_ not in found or found[digest_] < asked_at:
            found[digest_] = asked_at
    return found


def _parquet_files(folder: Path, start: str = "") -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*.parquet") if path.name.startswith(start))
