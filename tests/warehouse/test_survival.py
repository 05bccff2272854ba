"""What the warehouse survives: being killed, being read, a disk that is full."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval_pipelines.errors import WarehouseError
from eval_pipelines.warehouse import planning
from eval_pipelines.warehouse.footers import check_shape
from eval_pipelines.warehouse.landing import Landing
from eval_pipelines.warehouse.publish import publish
from eval_pipelines.warehouse.read import query
from eval_pipelines.warehouse.shapes import SHAPES

from .builders import answer, evaluation, land, requests

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}

# Each round is a fork that dies by kill -9 just before its n-th call of one function, or after some milliseconds.
# The delays fall into DuckDB's own work, which no function of ours interrupts.
# Landings are taken as large and segments are merged by twos, so that every step of a publication is there.
KILLS = (
    *(f"fsync {n}" for n in (1, 2, 9, 14, 24, 36, 38, 40)),
    *(f"link {n}" for n in (1, 3, 5)),
    *(f"rename {n}" for n in (1, 2, 3)),
    *(f"replace {n}" for n in (1, 2)),
    *(f"copyfile {n}" for n in (1, 2)),
    *(f"utime {n}" for n in (1,)),
    *(f"scandir {n}" for n in (1, 3, 6)),
    *(f"delay {ms}" for ms in (60, 180, 300, 420)),
)
MORTAL = """
import os, shutil, signal, sys, threading, time
from pathlib import Path
from warehouse.builders import at, evaluation, land
from eval_pipelines.warehouse import planning, segments
from eval_pipelines.warehouse.publish import publish
import dbt_like_sql

planning.FEW_FILES, segments.FAN_IN = 0, 2

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def live(root, n, what, when):
    if what == "delay":
        threading.Timer(when / 1000, die).start()
    else:
        module = shutil if what == "copyfile" else os
        real, calls = getattr(module, what), [0]
        def counted(*args, **kwargs):
            calls[0] += 1
            return die() if calls[0] == when else real(*args, **kwargs)
        setattr(module, what, counted)
    land(root, evaluation(f"tiny@step-{n}", f"bench{n}", recorded_at=at(n)))
    publish(root)

for n, line in enumerate(sys.stdin, start=1):
    what, when = line.split()
    child = os.fork()
    if not child:
        live(Path(sys.argv[1]), n, what, int(when))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def state(root: Path) -> tuple[int, int]:
    """Generation and evaluations of what is published, after checking that it is whole."""
    [meta] = query(root, "FROM meta")
    for table in ("evaluations", "metrics", "scores", "samples"):
        assert query(root, f"SELECT count(*) AS n FROM {table}") == [{"n": meta[f"n_{table}"]}]
    assert query(root, "SELECT count(*) AS n FROM leaderboard") == [{"n": meta["n_metrics"]}]
    return meta["generation"], meta["n_evaluations"]


def test_a_kill_at_any_moment_leaves_whole_files_and_a_readable_publication(tmp_path: Path) -> None:
    land(tmp_path, evaluation())
    publish(tmp_path)
    former, n_killed = state(tmp_path), 0
    command = [sys.executable, "-c", MORTAL, str(tmp_path)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mortal:
        assert mortal.stdin
        assert mortal.stdout
        for kill in KILLS:
            mortal.stdin.write(f"{kill}\n")
            mortal.stdin.flush()
            n_killed += int(mortal.stdout.readline()) == -signal.SIGKILL
            now = state(tmp_path)
            assert now >= former, kill
            former = now
            for kind in SHAPES:
                for path in (tmp_path / "landing" / kind).rglob("[!.]*.parquet"):
                    check_shape(kind, path)
        mortal.stdin.close()

    assert n_killed >= len(KILLS) - 4, "the delays missed: the machine is too fast or too slow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "FEW_FILES", 0)  # found by its note, whoever was killed when
        assert publish(tmp_path).failing == ()
    landed = {path.name for path in (tmp_path / "landing/evaluations").rglob("[!.]*.parquet")}
    published = query(tmp_path, "SELECT path FROM landed_files WHERE kind = 'evaluations'")
    assert {Path(row["path"]).name for row in published} == landed
    assert list(tmp_path.glob(".pub-*")) == []
    assert list((tmp_path / "published").glob(".*")) == []


def test_a_reader_that_keeps_the_file_open_blocks_nobody_and_never_sees_half_a_state(tmp_path: Path) -> None:
    script = """
import sys, duckdb
held = duckdb.connect(sys.argv[1], read_only=True)
print("open", flush=True)
while True:
    con = duckdb.connect(); con.execute(f"ATTACH '{sys.argv[1]}' AS s (READ_ONLY)").fetchall()
    [(generation, n)] = con.execute("SELECT generation, n_metrics FROM s.meta").fetchall()
    [(seen,)] = con.execute("SELECT count(*) FROM s.leaderboard").fetchall()
    con.close()
    print(generation, n - seen, *held.execute("SELECT generation FROM meta").fetchall()[0], flush=True)
"""
    land(tmp_path, evaluation())
    path = publish(tmp_path).path
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == "open\n"
        for n in range(5):
            land(tmp_path, evaluation(f"tiny@step-{n}"))
            assert publish(tmp_path).generation == n + 2
        time.sleep(0.3)
        reader.kill()
        seen = [[int(word) for word in line.split()] for line in reader.stdout.read().splitlines()[:-1]]

    generations = [generation for generation, _, _ in seen]
    assert generations == sorted(generations)
    assert (generations[-1], {torn for _, torn, _ in seen}, {held for *_, held in seen}) == (6, {0}, {1})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB; a publication of almost nothing takes 4 to 6."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount") or os.geteuid() != 0:
        pytest.skip("a small disk can only be mounted by root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, *, except_bytes: int) -> Path:
    """Somebody else's file that leaves so many bytes."""
    path = disk / "others"
    path.write_bytes(bytes(shutil.disk_usage(disk).free - except_bytes))
    return path


def test_a_full_disk_is_named_when_landing_and_leaves_nothing_half_written(small_disk: Path) -> None:
    landing = Landing(small_disk)
    asked = requests(4)
    kept = landing.land_responses(evaluation(run_id="run1"), [(one, answer(one)) for one in asked])
    others = fill(small_disk, except_bytes=500_000)
    noise = [(one, answer(one, os.urandom(1_000_000).hex())) for one in requests(4, salt="long: ")]

    with pytest.raises(WarehouseError, match=r"run2\.parquet could not be written: the disk is full \([\d,]+ bytes"):
        landing.land_responses(evaluation(run_id="run2"), noise)

    there = [path for path in small_disk.rglob("*") if path.is_file() and path != others]
    assert [path for path in there if path.parent.name != ".noticed"] == [kept]
    assert len(landing.answered("tiny@step-100", "bytes-of-tiny@step-100")) == 4


def test_a_full_disk_keeps_the_former_publication(small_disk: Path) -> None:
    land(small_disk, evaluation())
    publish(small_disk)
    others = fill(small_disk, except_bytes=100_000)

    for is_full in (False, True):
        with pytest.raises(WarehouseError, match=r"scores\.duckdb could not be written: the disk is full"):
            publish(small_disk, is_full=is_full)
        assert query(small_disk, "SELECT generation FROM meta") == [{"generation": 1}]

    assert list(small_disk.glob(".pub-*")) == []
    others.unlink()
    assert publish(small_disk).generation == 2


def test_litter_of_killed_writers_is_swept_after_a_day_but_not_before(tmp_path: Path) -> None:
    folder = tmp_path / "landing" / "scores" / "model=m@1" / "benchmark=b"
    folder.mkdir(parents=True)
    old, young = folder / ".a.parquet.tmp-1-aa", folder / ".b.parquet.tmp-2-bb"
    for path in (old, young):
        path.write_bytes(b"PAR1")
    os.utime(old, (time.time() - 2 * 86400,) * 2)

    publish(tmp_path)

    assert (old.exists(), young.exists()) == (False, True)
