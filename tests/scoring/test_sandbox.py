"""Programs nobody has read are judged, do no harm, and cannot say that they passed."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import psutil
import pytest

from eval_pipelines.errors import NoSandboxError, SandboxError
from eval_pipelines.scoring import sandbox, sandbox_slots, seccomp
from eval_pipelines.scoring.bubblewrap import Limits
from eval_pipelines.scoring.sandbox import Job, Outcome, judge, judge_all
from tests.scoring import hostile

ROOT = Path(__file__).parent.parent.parent
NAMES = [*hostile.HARMFUL, *hostile.FAKES]

needs_sandbox = pytest.mark.skipif(
    shutil.which("bwrap") is None or platform.machine() not in seccomp.architectures(),
    reason="no bubblewrap here: `make system` installs it",
)


@pytest.fixture(scope="session")
def outcomes() -> dict[str, Outcome | SandboxError]:
    """Of every hostile program, as whoever runs the tests."""
    jobs = chain(hostile.harmful_jobs(), hostile.fake_jobs())
    return dict(zip(NAMES, judge_all(jobs, hostile.LIMITS), strict=True))


@pytest.fixture(scope="session")
def outcomes_of_nobody() -> Iterator[dict[str, list[object]]]:
    """The same as an ordinary user, with an interpreter that this user may read."""
    python = shutil.which("python3", path="/usr/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("becoming an ordinary user takes root, and an interpreter in /usr")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("eval_pipelines/scoring", "tests/scoring"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("__init__.py", "errors.py"):
            shutil.copy(ROOT / "eval_pipelines" / part, folder / "eval_pipelines" / part)
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-m", "tests.scoring.hostile"],
            cwd=folder, env={"PATH": "/usr/bin:/bin", "SECRET": "of nobody"}, capture_output=True, text=True, timeout=250,
        )  # fmt: skip
        if "SyntaxError" in done.stderr or "ImportError" in done.stderr:
            pytest.skip(f"{python} is too old for this project")
        assert done.returncode == 0, done.stderr
        yield dict(zip([*NAMES, "an honest one"], json.loads(done.stdout), strict=True))


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_program_does_no_harm_and_fails(outcomes: dict[str, Outcome | SandboxError], name: str) -> None:
    outcome = outcomes[name]
    assert isinstance(outcome, Outcome), outcome
    assert not outcome.passed
    if name in hostile.HARMFUL:
        assert outcome.reason == "wrong answer: []"
    if ("ends" in name and "never" in name) or name == "sleeps":
        assert outcome.reason in ("timed out", "killed: out of memory or time")


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nor_does_it_where_an_ordinary_user_runs_it(outcomes_of_nobody: dict[str, list[object]], name: str) -> None:
    passed, reason = outcomes_of_nobody[name]
    assert passed is False, reason
    if name in hostile.HARMFUL:
        assert reason == "wrong answer: []"
    assert outcomes_of_nobody["an honest one"] == [True, "passed"]


@needs_sandbox
@pytest.mark.slow
def test_nothing_of_a_program_survives_it(outcomes: dict[str, Outcome | SandboxError]) -> None:
    assert not isinstance(outcomes["leaves a daemon behind"], SandboxError)
    left = [one.info for one in psutil.process_iter(["name", "status"]) if one.info["name"] == "left-behind"]
    assert [one for one in left if one["status"] != psutil.STATUS_ZOMBIE] == []


@needs_sandbox
def test_the_suite_would_show_what_a_program_manages() -> None:
    written = 'attempt("a small file", lambda: open("/tmp/x", "w").close())'
    job = Job(
        f"{hostile._FOUND}\ndef f(x):\n    return found\n{written}", "done = f(3)\nassert done == 9, done", asked=("f",)
    )
    assert judge(job, Limits()) == Outcome(False, "wrong answer: ['a small file']")


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(x): return [(1, 2.5), {'a': {1}}, None, True, 2**80, 1j, b'x', range(3)]",
         "assert f(0) == [(1, 2.5), {'a': {1}}, None, True, 2**80, 1j, b'x', range(3)] and type(f(0)[0]) is tuple"),
        ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2] and sum(f(4)) == 6"),
        ("from collections import *\ndef f(x): return Counter(x), deque(x), OrderedDict(a=1)",
         "from collections import deque\nassert f('aab') == ({'a': 2, 'b': 1}, deque('aab'), {'a': 1})"),
        ("class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\ndef f(pairs): return sum(p.a * p.b for p in pairs)",
         "p = Pair(2, 3)\np.a = 5\nassert p.a == 5 and f([p, Pair(1, 1)]) == 16"),
        ("def f(x): raise ValueError('no')", "try:\n    f(1)\nexcept ValueError as error:\n    assert str(error) == 'no'"),
        ("from fractions import Fraction\nfrom decimal import Decimal\ndef f(x): return Fraction(1, 3), Decimal('0.1')",
         "from fractions import Fraction\nfrom decimal import Decimal\nassert f(1) == (Fraction(1, 3), Decimal('0.1'))"),
    ],
)  # fmt: skip
def test_values_cross_the_line_as_they_are(program: str, tests: str) -> None:
    asked = ("f", "Pair") if "class Pair" in program else ("f",)
    assert judge(Job(program, tests, asked=asked), Limits()) == Outcome(True, "passed")


@needs_sandbox
def test_a_program_does_not_replace_what_the_tests_bring() -> None:
    program = "import types\nmath = types.SimpleNamespace(isclose=lambda *a: True)\ndef f(x): return 8"
    assert not judge(Job(program, "assert math.isclose(f(3), 9)", setup="import math", asked=("f",)), Limits()).passed


@needs_sandbox
def test_nor_does_it_bring_what_they_lack() -> None:
    program = "import types\nmath = types.SimpleNamespace(isclose=lambda *a: True)\ndef f(x): return 8"
    with pytest.raises(
        SandboxError, match=r"its tests use math: define it in the job's `setup`, or name it in `asked`"
    ):
        judge(Job(program, "assert math.isclose(f(3), 9)", asked=("f",)), Limits())


@needs_sandbox
def test_names_that_tests_bind_themselves_are_no_ones_to_bring() -> None:
    tests = (
        "import math\nfrom math import sqrt as root\ndef check(g, *cases, n=0, **more):\n    global total\n    total = 0\n"
        "    for case in cases:\n        try:\n            total += sum(x for x in [g(case)] if (y := x))\n"
        "        except ValueError as error:\n            print(error)\n    with open('/dev/null') as nothing:\n"
        "        print(nothing, __name__, math.pi, root(4), more)\n"
        "class Case:\n    size = 2\n    doubled = size * 2\n    def of(self): return self.doubled\n"
        "check(f, *range(Case().of()))\nassert total == 14 and (lambda a, b=1: a + b)(1) == 2"
    )
    assert judge(Job("def f(x): return x * x", tests, asked=("f",)), Limits()) == Outcome(True, "passed")


@needs_sandbox
def test_a_builtin_is_taken_from_the_program_only_where_it_is_asked_for() -> None:
    program = "def sum(a, b): return 6\ndef len(x): return 6"
    assert judge(Job(program, "assert sum(10, 15) == 6 and len([1]) == 1", asked=("sum",)), Limits()).passed


@needs_sandbox
def test_arguments_are_copies_so_a_program_cannot_change_what_it_is_compared_with() -> None:
    program = "def f(x):\n    x.clear()\n    return x"
    assert not judge(Job(program, "x = [3, 1]\nassert f(x) == x", asked=("f",)), Limits()).passed


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(x): raise StopIteration", "assert all(map(f, [1, 2]))"),
        ("class All:\n    __contains__ = lambda *_: True\n    __iter__ = lambda _: iter(())\ndef f(x): return All()", "assert 9 in f(3)"),
        ("class B(dict):\n    def __getitem__(self, key): return 9\ndef f(x): return B()", "assert f(3)[0] == 9"),
        ("def f(x): return str('a').__class__.__subclasses__", "assert f(3) == 9 or f(3)() == 9"),
    ],
)  # fmt: skip
def test_protocols_of_the_language_give_no_way_round_a_comparison(program: str, tests: str) -> None:
    assert not judge(Job(program, tests, asked=("f",)), Limits()).passed


KILLED = """
from eval_pipelines.scoring.bubblewrap import Limits
from eval_pipelines.scoring.sandbox import Job, judge
judge(Job("print(1)\\nimport time\\ndef f(): time.sleep(3600.5)", "f()", asked=("f",)), Limits(wall_s=300))
"""


@needs_sandbox
@pytest.mark.slow
def test_sandboxes_end_with_the_process_that_judges() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=ROOT) as process:
        judging = psutil.Process(process.pid)
        deadline = time.monotonic() + 60
        while len(children := judging.children(recursive=True)) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(children) >= 4
        process.kill()
    _, left = psutil.wait_procs(children, timeout=20)
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []


def test_no_more_run_at_once_than_there_are_cores() -> None:
    with ExitStack() as held:
        for _ in range(sandbox_slots.n_slots()):
            held.enter_context(sandbox_slots.slot(2**28))
        got = threading.Event()
        waiting = threading.Thread(target=lambda: sandbox_slots.slot(2**28).__enter__() and got.set(), daemon=True)
        waiting.start()
        assert not got.wait(0.2)
    assert got.wait(10)


@needs_sandbox
def test_tests_that_cannot_be_asked_this_way_judge_nobody() -> None:
    with pytest.raises(SandboxError, match="its tests hand over a function"):
        judge(Job("def f(g): return g(1)", "assert f(lambda x: x) == 1", asked=("f",)), Limits())


def test_without_bubblewrap_it_is_refused_and_said_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox.require.cache_clear()
    with pytest.raises(NoSandboxError, match="apt-get install bubblewrap"):
        judge_all([Job("", "")], Limits())


@pytest.fixture
def broken_bubblewrap(monkeypatch, tmp_path) -> None:
    script = tmp_path / "bwrap"
    script.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sandbox.require.cache_clear()


def test_where_namespaces_are_forbidden_it_is_refused_with_the_cause(broken_bubblewrap) -> None:
    with pytest.raises(NoSandboxError, match=r"No permissions to create new namespace.*user namespaces"):
        sandbox.require()


def test_a_sandbox_that_breaks_is_no_wrong_answer(broken_bubblewrap) -> None:
    with pytest.raises(SandboxError, match="did not start: bwrap: No permissions"):
        judge(Job("def f(x): return 9", "assert f(3) == 9"), Limits())


def test_the_filter_is_whole_for_each_architecture() -> None:
    for machine in seccomp.architectures():
        program = seccomp.assemble(machine)
        n = len(program) // 8
        assert len(program) == 8 * n
        assert n < 4096
        for at in range(n):
            code, if_true, if_false = program[8 * at], program[8 * at + 2], program[8 * at + 3]
            assert code & 0x07 != 0x05 or at + 1 + max(if_true, if_false) < n
        assert program[-8:] == bytes.fromhex("060000000000ff7f")


@needs_sandbox
def test_verdicts_come_in_the_order_of_the_jobs() -> None:
    jobs = [Job(f"def f(): return {number}", "assert f() % 2", asked=("f",)) for number in range(8)]
    assert [one.passed for one in judge_all(jobs, Limits()) if isinstance(one, Outcome)] == [False, True] * 4
