"""`make bench-concurrency`: eight writers, a publisher and six kinds of readers on one record, for ten minutes.

    python -m tests.bench.concurrency [SECONDS] [flat-out]

Each writer lands an evaluation every five seconds, each reader asks every second, and the publisher publishes every two:
far more than evaluations of minutes and people do, and still less than two cores can do. `flat-out`: nobody pauses, and
what shows is who gets a core. Each reader checks what it reads: the counts in `meta` are those of the tables, generations
only grow, a state that is held open never changes. A wait is the wall time of one whole operation; the machine's own
slowness is in it.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty
from typing import Any

N_WRITERS = 8
WRITER_S, PUBLISHER_S, READER_S = 5.0, 2.0, 1.0
CHECK = """
SELECT
    meta.generation,
    meta.n_metrics = (SELECT count(*) FROM metrics)
    AND meta.n_scores = (SELECT count(*) FROM scores)
    AND meta.n_evaluations = (SELECT count(*) FROM evaluations)
    AND (SELECT count(*) FROM leaderboard) = (SELECT count(DISTINCT (model_key, benchmark)) FROM metrics)
FROM meta
"""


@dataclass
class Told:
    """What one process saw: operations, how many seconds they took, and what went wrong."""

    name: str
    n: int
    longest_s: float
    p99_s: float
    median_s: float
    errors: list[str]


def write(root: Path, number: int) -> Iterator[None]:
    """Evaluations of 200 samples, landed one after the other."""
    import numpy as np
    import pyarrow as pa

    from tests.bench.landed_world import WORDS, land_evaluation

    rng = np.random.default_rng(number)
    texts = pa.array([" ".join(rng.choice(WORDS, 30)) for _ in range(100)])
    for n in range(1_000_000):
        land_evaluation(root, number + 1_000 * n, f"bench-{number:02}", 200, rng, texts, announced=True)
        yield


def publish_on(root: Path, _: int) -> Iterator[None]:
    """One publication after the other."""
    from eval_pipelines.warehouse.publish import publish

    while True:
        assert not [test.name for test in publish(root).failing if test.name != "no_score_without_a_sample"]
        yield


def hold(root: Path, _: int) -> Iterator[None]:
    """An analyst who opened the file once, as anyone would, and keeps asking."""
    import duckdb

    connection = duckdb.connect(str(root / "scores.duckdb"), read_only=True)
    sql = "SELECT count(*), sum(value) FROM stg_scores"
    first = connection.execute(sql).fetchall()
    while True:
        assert connection.execute(sql).fetchall() == first
        assert connection.execute(CHECK).fetchall()[0][1]
        yield


def open_anew(root: Path, _: int) -> Iterator[None]:
    """A program that opens the newest state for each question."""
    from eval_pipelines.warehouse.read import open_published

    yield from _growing(lambda: _closing(open_published(root)))


def refresh(root: Path, _: int) -> Iterator[None]:
    """A long-lived process with one reader."""
    from eval_pipelines.warehouse.read import Reader

    with Reader(root) as reader:

        def look() -> tuple[int, bool]:
            reader.refresh()
            return tuple(reader.connection.execute(CHECK).fetchall()[0])

        yield from _growing(look)


def command_line(root: Path, _: int) -> Iterator[None]:
    """The duckdb command line, of another version than ours."""
    program = Path(sys.executable).with_name("duckdb")

    def look() -> tuple[int, bool]:
        command = [str(program), "-readonly", "-json", str(root / "scores.duckdb"), CHECK]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        generation, is_whole = json.loads(done.stdout)[0].values()
        return generation, is_whole

    yield from _growing(look)


def pandas(root: Path, _: int) -> Iterator[None]:
    """A notebook."""
    import duckdb

    def look() -> tuple[int, bool]:
        with duckdb.connect(str(root / "scores.duckdb"), read_only=True) as connection:
            frame = connection.execute("SELECT * FROM leaderboard").df()
            found = connection.execute(CHECK).df().iloc[0]
            assert len(frame) == len(frame[["model_key", "benchmark"]].drop_duplicates())
            return int(found.iloc[0]), bool(found.iloc[1])

    yield from _growing(look)


def sqlalchemy(root: Path, _: int) -> Iterator[None]:
    """What dashboards use."""
    import sqlalchemy as sa

    options: dict[str, Any] = {"connect_args": {"read_only": True}, "poolclass": sa.pool.NullPool}
    engine = sa.create_engine(f"duckdb:///{root / 'scores.duckdb'}", **options)

    def look() -> tuple[int, bool]:
        with engine.connect() as connection:
            generation, is_whole = connection.execute(sa.text(CHECK)).fetchall()[0]
            return generation, is_whole

    yield from _growing(look)


READERS: tuple[Callable[[Path, int], Iterator[None]], ...] = (
    hold, open_anew, refresh, command_line, pandas, sqlalchemy,
)  # fmt: skip


def run(root: Path, seconds: float, n_writers: int = N_WRITERS, *, is_flat_out: bool = False) -> list[Told]:
    """Everybody at once on one data root, each in a process of its own, until the time is over."""
    from eval_pipelines.warehouse.publish import publish

    next(write(root, 0))
    publish(root)
    until = time.time() + seconds
    pace = 0 if is_flat_out else 1
    actors = [
        *((write, n, WRITER_S * pace) for n in range(n_writers)),
        (publish_on, 0, PUBLISHER_S * pace),
        *((reader, 0, READER_S * pace) for reader in READERS),
    ]
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    processes = [context.Process(target=_act, args=(root, *actor, until, told)) for actor in actors]
    for process in processes:
        process.start()
    found = []
    try:
        for _ in processes:
            found.append(Told(**told.get(timeout=seconds + 120)))
    except Empty:
        found.append(Told("somebody", 0, 0, 0, 0, ["did not end"]))
    for process in processes:
        process.join(timeout=10)
        process.kill()
    return sorted(found, key=lambda one: one.name)


def _act(
    root: Path, actor: Callable[[Path, int], Iterator[None]], number: int, every_s: float, until: float, told: Any
) -> None:
    waits: list[float] = []
    errors: list[str] = []
    steps = actor(root, number)
    while time.time() < until and not errors:
        began = time.perf_counter()
        try:
            next(steps)
        except Exception:  # noqa: BLE001  whatever it is, it is what we look for
            errors.append(traceback.format_exc())
        waits.append(time.perf_counter() - began)
        time.sleep(max(0.0, every_s - waits[-1]))
    # the first operation imports and opens
    later = sorted(waits[1:]) or [0.0]
    name = actor.__name__ + (f" {number}" if actor is write else "")
    told.put(asdict(Told(name, len(waits), later[-1], later[len(later) * 99 // 100], later[len(later) // 2], errors)))


def _closing(connection: Any) -> tuple[int, bool]:
    try:
        return tuple(connection.execute(CHECK).fetchall()[0])
    finally:
        connection.close()


def _growing(look: Callable[[], tuple[int, bool]]) -> Iterator[None]:
    newest = 0
    while True:
        generation, is_whole = look()
        assert is_whole, f"generation {generation} is torn"
        assert generation >= newest, f"generation {generation} after {newest}"
        newest = generation
        yield


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    with tempfile.TemporaryDirectory() as folder:
        print("| who | operations | median s | 99 % s | longest s | errors |\n|---|---|---|---|---|---|")
        for one in run(Path(folder), seconds, is_flat_out="flat-out" in sys.argv[2:]):
            print(
                f"| {one.name} | {one.n:,} | {one.median_s:.2f} | {one.p99_s:.2f} | {one.longest_s:.2f} | {len(one.errors)} |"
            )
            for error in one.errors:
                print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
