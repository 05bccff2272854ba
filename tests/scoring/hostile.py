"""Programs that mean harm, and programs that want to pass without being right. Run by hand: their verdicts as JSON.

Every one is asked `f(3)`, which should be 9. What a harmful one managed to do it answers as a list.
"""

import json
import sys
from collections.abc import Iterator

from eval_pipelines.errors import SandboxError
from eval_pipelines.scoring.bubblewrap import Limits
from eval_pipelines.scoring.sandbox import Job, Outcome, judge_all

LIMITS = Limits(cpu_s=1, wall_s=4, memory_mb=256, file_mb=4, n_processes=24)

_FOUND = """
import os, socket, sys
found = []
def attempt(name, do):
    try:
        told = do()
        found.append(f"{name}: {told}" if isinstance(told, (str, list, int)) else name)
    except BaseException:
        pass
"""

# each lists what it managed to do: nothing, if the sandbox holds
HARMFUL = {
    "reads the environment, home and etc": """
attempt("variables", lambda: [n for n in os.environ if n not in ("PATH", "HOME", "LANG", "PWD")] or 1 / 0)
attempt("its parent's", lambda: open("/proc/1/environ").read() or 1 / 0)
for path in ("/etc/passwd", "/etc/shadow", "/proc/1/mem", "/proc/kcore", "/proc/sysrq-trigger", "/sys/kernel", "/root" + "/.ssh"):
    attempt(path, lambda: open(path, "rb").read(1) or 1 / 0)
attempt("home", lambda: [n for n in os.listdir("/root") if n[0] != "."] or 1 / 0)
attempt("homes", lambda: os.listdir("/home"))
attempt("other processes", lambda: [p for p in os.listdir("/proc") if p.isdigit() and int(p) > 9] or 1 / 0)
attempt("the tests", lambda: open("/proc/self/root/tests.json").read())
""",
    "opens the network": """
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, 40):
    attempt(f"family {family}", lambda: socket.socket(family, socket.SOCK_DGRAM).close())
attempt("a name", lambda: socket.gethostbyname("localhost"))
attempt("docker", lambda: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock"))
""",
    "writes files": """
for path in ("/x", "/usr/x", "/judge/x", "/judge/in_sandbox/program.py", "/dev/x", "/proc/sys/kernel/core_pattern", sys.executable):
    attempt(path, lambda: open(path, "a").close())
def fill(path):
    with open(path, "wb") as file:
        for _ in range(1000):
            file.write(bytes(2 ** 20))
attempt("a large file", lambda: fill("/tmp/large"))
attempt("a large file in memory", lambda: fill("/dev/shm/large"))
def many():
    for number in range(1000):
        with open(f"/tmp/{number}", "wb") as file:
            file.write(bytes(2 ** 20))
attempt("many files", many)
""",
    "becomes more than it is": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    return 1 / 0 if libc.syscall(number, *arguments) < 0 else None
attempt("root", lambda: os.setuid(0))
attempt("another group", lambda: os.setgroups([0]))
attempt("root again", lambda: os.setresuid(0, 0, 0))
x86 = os.uname().machine == "x86_64"
for name, number in {"unshare": 272, "mount": 165, "ptrace": 101, "bpf": 321, "io_uring": 425, "keyctl": 250, "clone3": 435}.items():
    attempt(name, lambda: call(number, 0x10000000, 0, 0, 0, 0) if x86 else 1 / 0)
attempt("a namespace", lambda: os.waitpid(call(56, 0x10000000 | 17, 0, 0, 0, 0), 0) if x86 else 1 / 0)
attempt("x32", lambda: call(0x40000000 | 39) if x86 else 1 / 0)
attempt("more memory", lambda: __import__("resource").setrlimit(9, (2 ** 40, 2 ** 40)))
attempt("a terminal", lambda: __import__("fcntl").ioctl(0, 0x5412, b"x"))
""",
    "kills its parents": """
import signal
attempt("its parent's end", lambda: os.kill(os.getppid(), signal.SIGTERM) or 1 / 0)
for number in (1, 2):
    if number != os.getpid():
        try:
            os.kill(number, signal.SIGKILL)
        except OSError:
            pass
""",
    "takes threads without end": """
import threading, time
n = 0
def start():
    global n
    while n < 200:
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        n += 1
attempt("200 threads", start)
""",
    "takes files without end": """
attempt("500 files", lambda: [open("/dev/null") for _ in range(500)] and None)
""",
    "leaves a daemon behind": """
import ctypes, time
ctypes.CDLL(None).prctl(15, b"left-behind")  # the name it is looked for by
if open("/proc/self/comm").read().strip() != "left-behind":
    found.append("it has no name to be found by")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(3600.25)
        os._exit(0)
    os._exit(0)
os.wait()
""",
    "bombs with forks": """
n = 0
try:
    while True:
        if os.fork() == 0:
            __import__("time").sleep(60)
            os._exit(0)
        n += 1
except OSError:
    pass
if n > 24:
    found.append(f"{n} processes")
""",
}

# what each wants is that `f(3) == 9` passes, or that anything else says so
FAKES = {
    "ends well at once": "import sys; sys.exit(0)",
    "ends well for real": "import os; os._exit(0)",
    "ends well when asked": "import os\ndef f(x): os._exit(0)",
    "leaves when asked": "def f(x): raise SystemExit(0)",
    "says so at its end": "import atexit\natexit.register(print, '{\"passed\": true, \"reason\": \"passed\"}')",
    "says so everywhere": """
import os
def f(x):
    for number in range(64):
        try:
            os.write(number, b'{"passed": true, "reason": "passed"}\\n')
        except OSError:
            pass
""",
    "says so in every process": """
import glob
def f(x):
    for path in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            with open(path, "wb", buffering=0) as file:
                file.write(b'{"passed": true, "reason": "passed"}\\n')
        except OSError:
            pass
""",
    "says so in our words": """
import sys
frame = sys._getframe()
while frame:
    told = frame.f_locals.get("told")
    if told:
        for words in (b'{"names": ["f"]}', b'{"passed": true, "reason": "passed"}', b'{"state": "passed"}', b'{"value": true}'):
            told.write(words + b"\\n")
        told.flush()
    frame = frame.f_back
def f(x): return True
""",
    "is equal to everything": """
class Anything:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
def f(x): return Anything()
""",
    "is a number equal to everything": """
class Anything(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def f(x): return Anything(8)
""",
    "says it is a number": """
class Anything:
    __class__ = int
    def __eq__(self, other): return True
    def __int__(self): return 8
def f(x): return Anything()
""",
    "is no number": "def f(x): return float('nan')",
    "takes assertions away": """
import builtins
class Silent(BaseException): pass
builtins.AssertionError = Silent
builtins.print = lambda *a, **k: None
builtins.isinstance = lambda *a: True
def f(x): return 8
""",
    "rewrites the judge": """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith("in_sandbox"):
        module.encode = lambda *a: {"passed": True}
        module.send = lambda line, message: line.write(b'{"passed": true, "reason": "passed"}\\n')
def f(x): return 8
""",
    "patches every comparison": """
import operator, unittest
operator.eq = lambda a, b: True
unittest.TestCase.assertEqual = lambda *a: None
int = type("int", (), {"__eq__": lambda *a: True})
def f(x): return int()
""",
    "defines the tests itself": "def check(candidate): pass\ndef tests(): pass\nf = check",
    "is a class": "class f:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return True",
    "raises what tests catch": "def f(x): raise AssertionError('passed')",
    "raises what cannot be told": """
class Odd(Exception):
    def __str__(self): raise ValueError
def f(x): raise Odd
""",
    "traces the frames above": """
import sys
def trace(frame, event, arg):
    frame.f_locals["passed"] = True
    return trace
sys.settrace(trace)
def f(x): return 8
""",
    "answers too deep": "def f(x):\n    a = []\n    for _ in range(100000): a = [a]\n    return a",
    "answers itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "answers too much": "def f(x): return 'x' * 10 ** 8",
    "answers no message": "import os\ndef f(x): return [os.write(n, b'\\xff\\x00{{{\\n' * 9) for n in (3, 4)]",
    "answers before it is asked": """
import os
for number in (3, 4) * 9:
    os.write(number, b'{"value": true}\\n')
def f(x): return True
""",
    "hangs up": "import os\nos.closerange(3, 64)\nimport time\ntime.sleep(3)",
    "takes all memory": "def f(x): return len(bytearray(10 ** 10))",
    "never ends": "def f(x):\n    while True: pass",
    "never ends, and will not be told": """
import signal
for number in range(1, 64):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
def f(x):
    while True: pass
""",
    "sleeps": "import time\ndef f(x): time.sleep(1000)",
    "kills all there is": "import os\ndef f(x): os.kill(-1, 9); return 8",
    "crashes": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "is no program": "def f(x:",
    "is not there": "g = 9",
    "is wrong": "def f(x): return 8",
}  # fmt: skip


def harmful_jobs() -> Iterator[Job]:
    for program in HARMFUL.values():
        yield Job(
            f"{_FOUND}\ndef f(x):\n    return found\n{program}", "done = f(3)\nassert done == 9, done", asked=("f",)
        )


def fake_jobs() -> Iterator[Job]:
    for program in FAKES.values():
        yield Job(program, "assert f(3) == 9", asked=("f",))


def told(outcome: Outcome | SandboxError) -> list[object]:
    return [None, str(outcome)] if isinstance(outcome, SandboxError) else [outcome.passed, outcome.reason]


if __name__ == "__main__":
    honest = Job("def f(x): return x * x", "assert f(3) == 9", asked=("f",))
    outcomes = judge_all([*harmful_jobs(), *fake_jobs(), honest], LIMITS)
    json.dump([told(one) for one in outcomes], sys.stdout)
