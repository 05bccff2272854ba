"""leaderboard, compare, history, answers, export: on a terminal, in a pipe, as files, and with a wrong name."""

import csv
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from eval_pipelines.cli import main
from eval_pipelines.cli.scores import first_few, sparkline
from tests.published_record import BOREALIS, LONG, publish_record

GOOD, BAD = "atlas-1b@step-02000", "atlas-1b@step-02500"
TABLES = [
    ("leaderboard",),
    ("compare", GOOD, LONG),
    ("compare", GOOD, BAD, "--flips", "2"),
    ("history", "atlas-1b", "gsm8k"),
    ("history", "atlas-1b", "wiki", "--every"),
    ("answers", BOREALIS, "gsm8k"),
]


@pytest.fixture
def config(record: Path, tmp_path: Path) -> Path:
    path = tmp_path / "evals.yaml"
    path.write_text(f"""
data_root: {record}
deployments: {{there: {{backend: hosted, base_url: "http://127.0.0.1:1/v1"}}}}
models: {{m@a: {{deployment: there}}}}
benchmarks: {{gsm8k: {{task: gsm8k, protocol: chat}}}}
""")
    return path


def run(config: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(config), *words], catch_exceptions=False)


ALL_TABLES = """
import json, sys
from eval_pipelines.cli import main
for words in json.loads(sys.argv[2]):
    main(["--config", sys.argv[1], *words], standalone_mode=False)
"""


def on_terminal(config: Path, columns: int) -> list[str]:
    """The lines of all tables, told on a real terminal of so many columns."""
    command = [sys.executable, "-c", ALL_TABLES, str(config), json.dumps(TABLES)]
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        told = b""
        try:
            while part := os.read(ours, 65_536):
                told += part
        except OSError:  # Linux's way to say that the other end is closed
            pass
    os.close(ours)
    return told.decode().replace("\r", "").splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 200])
def test_tables_fit_the_terminal(config, columns) -> None:
    lines = on_terminal(config, columns)
    assert sum("─────" in line for line in lines) == len(TABLES) + 1
    # model keys that were typed are repeated whole, and no name is broken within a sentence
    assert [line for line in lines if len(line) > columns and " " in line.strip().removeprefix("B  ")] == []


def test_a_pipe_gets_whole_lines_and_no_escapes(config) -> None:
    for words in TABLES:
        told = run(config, *words)
        assert told.exit_code == 0
        assert "\x1b" not in told.stdout
    assert f"gsm8k         5  {LONG}  exact_match,flexible-extract  0.417" in run(config, "leaderboard").stdout


def test_every_format_tells_the_same_rows(config, tmp_path, record) -> None:
    found = json.loads(run(config, "leaderboard", "--format", "json").stdout)
    with duckdb.connect(str(record / "scores.duckdb"), read_only=True) as database:
        expected = database.execute("SELECT benchmark, model_key, value FROM leaderboard ORDER BY ALL").fetchall()
    assert sorted((row["benchmark"], row["model_key"], row["value"]) for row in found) == expected
    as_csv = list(csv.DictReader(io.StringIO(run(config, "leaderboard", "--format", "csv").stdout)))
    assert [(row["model_key"], float(row["value"])) for row in as_csv] == [
        (row["model_key"], row["value"]) for row in found
    ]
    assert run(config, "leaderboard", "--to", str(tmp_path / "board.parquet")).exit_code == 0
    as_parquet = pq.read_table(tmp_path / "board.parquet").to_pylist()
    assert [(row["model_key"], row["value"]) for row in as_parquet] == [
        (row["model_key"], row["value"]) for row in found
    ]
    assert run(config, "leaderboard", "--format", "markdown").stdout.count("\n") == len(found) + 2


def test_the_first_few_of_each_benchmark_are_found_among_many_models_at_once() -> None:
    rows = [{"benchmark": f"b{i // 2_000}", "model_key": f"m{i % 2_000}"} for i in range(40_000)]
    started_at = time.process_time()
    best, n_models = first_few(rows)

    assert time.process_time() - started_at < 2
    assert [row["model_key"] for row in best] == ["m0", "m1", "m2", "m3"] * 20
    assert set(n_models.values()) == {2_000}


def test_compare_says_worse_and_with_what_the_questions_changed(config) -> None:
    told = run(config, "compare", GOOD, BAD, "--benchmark", "gsm8k", "--flips", "1").stdout
    assert f"A  {GOOD}\nB  {BAD}\n" in told
    assert re.search(r"-0\.300 \(-0\.4\d\d to -0\.1\d\d\)  60      18, 0  7\.6e-06  worse", told)
    assert "gsm8k/0   lost  Janet has 4 ducks" in told
    flips = json.loads(run(config, "compare", GOOD, BAD, "--flips", "3", "--format", "json").stdout)
    assert {row["benchmark"] for row in flips} == {"gsm8k", "arc"}


def test_compare_says_where_the_numbers_are_not_what_is_compared(config) -> None:
    words = ("compare", "atlas-1b@step-01500", GOOD)
    note = "A and B of word_perplexity on wiki are not the means of verdicts on questions: "
    assert run(config, *words, "--benchmark", "wiki").stdout.splitlines()[-1].startswith(note)
    assert "means of verdicts" not in run(config, *words, "--benchmark", "gsm8k").stdout


def test_compare_corrects_several_benchmarks_and_says_equivalent_within_a_margin_only(config) -> None:
    words = ("compare", "atlas-1b@step-01500", GOOD)
    told = {row["benchmark"]: row for row in json.loads(run(config, *words, "--format", "json").stdout)}
    p_values = sorted(row["p_value"] for row in told.values())
    assert sorted(row["p_holm"] for row in told.values())[0] == pytest.approx(min(1, len(told) * p_values[0]))
    assert "p (Holm)" in run(config, *words).stdout
    assert told["arc"]["verdict"] == "inconclusive"

    arc = (*words, "--benchmark", "arc")
    assert "p (Holm)" not in run(config, *arc).stdout
    assert [
        json.loads(run(config, *arc, "--margin", margin, "--format", "json").stdout)[0]["verdict"]
        for margin in ("0.01", "0.5")
    ] == ["inconclusive", "equivalent"]
    assert run(config, *arc, "--margin", "0").exit_code == 2


def test_history_shows_the_course_and_marks_the_regression(config) -> None:
    told = run(config, "history", "atlas-1b", "gsm8k").stdout
    assert "▁▂▅▇▂█  0.217 to 0.700" in told
    assert [line.split()[0] for line in told.splitlines() if "▼ worse" in line] == ["2,500"]


@pytest.mark.parametrize(("values", "bars"), [([], ""), ([0.5], "▁"), ([0.0, None, 1.0], "▁ █"), ([None], "")])
def test_a_sparkline_of_little(values, bars) -> None:
    assert sparkline(values) == bars


def test_a_hostile_answer_is_shown_and_does_nothing(config) -> None:
    told = run(config, "answers", LONG, "gsm8k", "5").stdout
    assert "<script>document.title='owned'</script>" in told
    assert "\\u202edesrever\\u202c \\x1b[31mred" in told
    assert run(config, "answers", LONG, "gsm8k", "--format", "markdown").stdout.count("&lt;script&gt;") == 1


def test_an_answer_is_told_with_its_reasoning_and_a_failure_with_its_kind(config) -> None:
    told = run(config, "answers", BOREALIS, "gsm8k", "7").stdout
    for part in ("question\n  Janet has 11 ducks", "target\n  7", "reasoning\n  Ducks: 11", "answer\n  Each duck"):
        assert part in told
    failed = run(config, "answers", BOREALIS, "gsm8k", "4").stdout
    assert "ungraded   its request failed: overloaded" in failed
    assert "overloaded after 4 attempts: 503: the queue is full, <b>" in failed
    assert (
        "  -2.0000  the right one  <- likeliest"
        in run(config, "answers", GOOD, "arc", "Which of these boils at 25").stdout
    )


def test_where_no_verdict_changed_it_is_said_in_a_sentence_and_programs_get_no_rows(config, monkeypatch) -> None:
    monkeypatch.setattr("eval_pipelines.analysis.comparison.flips", lambda *_, **__: [])
    words = ("compare", GOOD, BAD, "--flips", "2")
    assert run(config, *words).stdout.endswith("\n\nNo question changed its verdict.\n")
    assert run(config, *words, "--format", "json").stdout == "[]\n"


@pytest.mark.slow
def test_a_deleted_segment_is_told_with_the_command_that_makes_it_anew(config, record, tmp_path) -> None:
    publish_record(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "published")
    config.write_text(config.read_text().replace(str(record), str(tmp_path / "data")))
    needing = [words for words in TABLES if "--every" not in words]
    for words in (*needing, ("export", "scores"), ("export", "scores", "--format", "csv"), ("report", "comparison")):
        told = run(config, *words)
        assert told.exit_code == 1, words
        assert "the published record is not whole" in told.stderr
        assert "run `eval-pipelines publish`" in told.stderr


def test_a_table_or_a_query_is_exported(config, tmp_path) -> None:
    assert run(config, "export", "scores", "--to", str(tmp_path / "scores.parquet")).exit_code == 0
    assert pq.read_metadata(tmp_path / "scores.parquet").num_rows == 980
    query = "FROM leaderboard SELECT model_key, value WHERE benchmark = 'arc' ORDER BY rank LIMIT 1;"
    assert run(config, "export", query).stdout.splitlines()[-1].split() == ["atlas-1b@step-03000", "0.5833"]
    assert [*tmp_path.glob(".*")] == []


def test_exported_json_is_valid_whatever_a_number_is(config, tmp_path) -> None:
    text = 'NaN, \\ "Infinity"\n-Infinity'
    query = f"SELECT 'inf'::DOUBLE AS a, ['nan'::DOUBLE, 1.5] AS b, {{'d': '-inf'::FLOAT}} AS c, '{text}' AS e"
    for words in (("--format", "json"), ("--to", str(tmp_path / "rows.json"))):
        told = run(config, "export", query, *words).stdout or (tmp_path / "rows.json").read_text()
        assert json.loads(told, parse_constant=pytest.fail) == [
            {"a": None, "b": [None, 1.5], "c": {"d": None}, "e": text}
        ]
    assert [*tmp_path.glob(".*")] == []


@pytest.mark.slow
def test_a_query_is_exported_into_a_pipe(config) -> None:
    command = [sys.executable, "-m", "eval_pipelines.cli", "--config", str(config), "export", "grid", "--format", "csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (28, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("leaderboard", "--benchmark", "gsm8"), "Did you mean 'gsm8k'?"),
        (("leaderboard", "--model", "borealis@hosted"), "Did you mean 'borealis-8b@hosted'?"),
        (("export", "leaderbord"), "Did you mean 'leaderboard'?"),
        (("export", "DROP TABLE scores"), "no single SELECT"),
        (("export", "SELECT valu FROM leaderboard"), "that query cannot be run"),
        (("export", "SELECT 'a'::INT"), "that query cannot be run"),
        (("export", "SELECT 'a'::INT FROM grid", "--format", "csv"), "that query cannot be run"),
        (("export", "SELECT 1; SELECT 2"), "no single SELECT"),
        (("export", "leaderboard", "--family", "atlas-1b"), "are for trackers"),
        (("export", "mlflow"), "--to is missing: the tracking server's URL"),
        (
            ("export", "mlflow", "--to", "http://127.0.0.1:1", "--token-env", "NO_SUCH"),
            "the variable NO_SUCH is not set",
        ),
        (("compare", GOOD, GOOD), f"A and B are both {GOOD}: name two models"),
        (("report", "comparison", "--model", GOOD, "--model", GOOD), f"A and B are both {GOOD}: name two models"),
        (("leaderboard", "--format", "parquet"), "name a file with --to"),
        (("leaderboard", "--to", "board.xlsx"), "its ending names no format. Use one of .csv"),
        (("leaderboard", "--to", "/proc/nowhere/board.csv"), "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(config, words, message) -> None:
    told = run(config, *words)
    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr.startswith("error: ")
    assert message in told.stderr


@pytest.mark.parametrize("words", [*TABLES, ("export", "scores")], ids=lambda words: words[0])
def test_before_anything_is_published_the_command_that_publishes_is_named(config, tmp_path, words) -> None:
    config.write_text(config.read_text().replace("data_root: ", f"data_root: {tmp_path}/none #"))
    told = run(config, *words)
    assert told.exit_code == 1
    assert "Run `eval-pipelines publish`" in told.stderr
