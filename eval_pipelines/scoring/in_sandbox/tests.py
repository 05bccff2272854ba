"""The side of the line where the tests run: in a sandbox of its own, which the model's program cannot see into.

A program's functions are asked over the line. Its answers are compared here, by the types of this interpreter, so the
program can neither touch the comparison nor say that it passed: it can only answer rightly.

Given  the limits as JSON and the descriptors to and from the program in argv; a job on standard input, its verdict goes
       to standard output
"""

import builtins
import json
import os
import symtable
import sys
from collections.abc import Iterator
from typing import Any

from .confinement import confine
from .values import LineError, decode, encode, receive, send


class Failed(BaseException):
    """The verdict is known: no test may catch it."""


class Unjudged(BaseException):
    """The tests cannot be asked this way: nothing is known of the program."""


class Line:
    """Questions to the program, and its answers."""

    def __init__(self, to_program: int, from_program: int) -> None:
        self._asked, self._told = os.fdopen(to_program, "wb"), os.fdopen(from_program, "rb")

    def hear(self) -> dict[str, Any]:
        try:
            return receive(self._told)
        except EOFError:
            raise Failed("ended") from None
        except (LineError, MemoryError) as error:
            raise Failed(f"what it answered cannot be read: {error}") from None

    def say(self, message: dict[str, Any]) -> None:
        try:
            send(self._asked, message)
        except BrokenPipeError:
            raise Failed("ended") from None

    def ask(self, do: str, on: int, *args: Any, **kwargs: Any) -> Any:
        """The value of one operation on one of the program's objects. Raises what the program raised."""
        told = [encode(one, _handle_of) for one in args]
        named = {name: encode(one, _handle_of) for name, one in kwargs.items()}
        self.say({"do": do, "on": on, "args": told, "kwargs": named})
        return self._answered(self.hear())

    def name(self, name: str) -> Any:
        """What the program calls by this name."""
        self.say({"do": "name", "name": name})
        return self._answered(self.hear())

    def _answered(self, answer: dict[str, Any]) -> Any:
        if "error" in answer:
            raise _raised(answer["error"])
        return self._value(answer.get("value"))

    def _value(self, told: Any) -> Any:
        try:
            return decode(told, lambda number, kind: Remote(self, number, kind))
        except LineError as error:
            raise Failed(f"what it answered cannot be read: {error}") from None


class Remote:
    """An object that lives in the program. Equal to nothing but itself: equality is not the program's to decide."""

    def __init__(self, line: Line, number: int, kind: str) -> None:
        object.__setattr__(self, "_remote", (line, number, kind))

    def _do(self, do: str, *args: Any, **kwargs: Any) -> Any:
        line, number, _ = object.__getattribute__(self, "_remote")
        return line.ask(do, number, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("call", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._do("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._do("set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._do("item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._do("put", key, value)

    def __len__(self) -> int:
        return int(self._do("len"))

    def __bool__(self) -> bool:
        return self._do("bool") is True

    def __iter__(self) -> Iterator[Any]:
        items = self._do("list")
        return iter(items if isinstance(items, list) else ())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and _handle_of(self) == _handle_of(other)

    def __hash__(self) -> int:
        return _handle_of(self)

    def __repr__(self) -> str:
        return f"<{object.__getattribute__(self, '_remote')[2]} of the program>"


def main() -> None:
    """Confine ourselves, run the job, tell the verdict."""
    verdict = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    confine(json.loads(sys.argv[1]))
    line = Line(int(sys.argv[2]), int(sys.argv[3]))
    job = json.loads(sys.stdin.buffer.read())
    send(verdict, {"state": "started"})
    if line.hear() != {"ready": True}:
        raise SystemExit("the program's side spoke out of turn")
    send(verdict, {"state": "asked"})
    try:
        judge(job, line)
    except Failed as failed:
        send(verdict, {"passed": False, "reason": str(failed)})
    except Unjudged as error:
        send(verdict, {"passed": None, "reason": str(error)})
    except AssertionError as error:
        send(verdict, {"passed": False, "reason": f"wrong answer{f': {error}' if str(error) else ''}"[:500]})
    except BaseException as error:  # noqa: BLE001
        send(verdict, {"passed": False, "reason": f"{type(error).__name__}: {error}"[:500]})
    else:
        send(verdict, {"passed": True, "reason": "passed"})


def judge(job: dict[str, Any], line: Line) -> None:
    """Run the tests of a job to their end; raises where they fail."""
    line.say({"sources": [*job["before_program"], job["program"], *job["after_program"]]})
    said = line.hear()
    if "error" in said:
        raise _raised(said["error"])
    offered = set(said["names"])
    names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    exec(compile(job["setup"], "setup.py", "exec", dont_inherit=True), names)  # noqa: S102
    for name in job["asked"]:
        if name not in offered:
            raise Failed(f"it defines no {name}")
        names[name] = line.name(name)
    # taken from the program, they would judge it: its own `math.isclose` is true of everything
    if nobodys := sorted(taken_from_outside(job["tests"]) - names.keys() - vars(builtins).keys()):
        raise Unjudged(
            f"its tests use {', '.join(nobodys)}: define it in the job's `setup`, or name it in `asked` if it is the "
            f"program that must define it"
        )
    exec(compile(job["tests"], "tests.py", "exec", dont_inherit=True), names)  # noqa: S102


def taken_from_outside(source: str) -> set[str]:
    """Names that code uses and does not bind itself."""
    tables = [symtable.symtable(source, "tests.py", "exec")]
    used, bound = set[str](), set[str]()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_global():
                used |= {symbol.get_name()} if symbol.is_referenced() else set()
                bound |= {symbol.get_name()} if symbol.is_assigned() or symbol.is_imported() else set()
    return used - bound


def _handle_of(value: Any) -> int:
    if not isinstance(value, Remote):
        raise Unjudged(f"its tests hand over a {type(value).__name__}, which cannot leave their process")
    number: int = object.__getattribute__(value, "_remote")[1]
    return number


def _raised(told: Any) -> BaseException:
    kind, words = (str(one) for one in told)
    known = getattr(builtins, kind, None)
    # a loop of the tests would take these for its end: `all(map(f, cases))`
    ends_loops = kind in ("StopIteration", "StopAsyncIteration")
    if isinstance(known, type) and issubclass(known, Exception) and not ends_loops:
        try:
            return known(words)
        except TypeError:
            pass
    return Failed(f"{kind}: {words}")
