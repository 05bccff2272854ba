"""The side of the line where the model's program runs. Nothing that it says is more than the value of a call.

Given  the limits as JSON in argv; messages on standard input and output
"""

import builtins
import itertools
import json
import operator
import os
import sys
from collections.abc import Callable
from typing import Any

from .confinement import confine
from .values import decode, encode, receive, send

_MAX_ITEMS = 1_000_000
_DO: dict[str, Callable[..., Any]] = {
    "call": lambda target, *args, **kwargs: target(*args, **kwargs),
    "get": getattr,
    "set": setattr,
    "item": operator.getitem,
    "put": operator.setitem,
    "len": len,
    "bool": bool,
    "list": lambda target: list(itertools.islice(iter(target), _MAX_ITEMS)),
}


class Program:
    """The program's names, and the objects that its tests hold a handle of."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "program", "__builtins__": builtins}
        self._held: list[Any] = []
        self._numbers: dict[int, int] = {}

    def run(self, source: str) -> None:
        exec(compile(source, "program.py", "exec", dont_inherit=True), self.names)  # noqa: S102

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked, and tell its value. Arguments are copies: the program cannot change what the tests hold."""
        if asked["do"] == "name":
            return {"value": self._tell(self.names[asked["name"]])}
        target = self._held[asked["on"]]
        args = [decode(one, self._handle) for one in asked["args"]]
        kwargs = {name: decode(one, self._handle) for name, one in asked["kwargs"].items()}
        return {"value": self._tell(_DO[asked["do"]](target, *args, **kwargs))}

    def _tell(self, value: Any) -> Any:
        return encode(value, self._hold)

    def _hold(self, value: Any) -> int:
        number = self._numbers.setdefault(id(value), len(self._held))
        if number == len(self._held):
            self._held.append(value)
        return number

    def _handle(self, number: int, _name: str) -> Any:
        return self._held[number]


def main() -> None:
    """Say that we are here, take the program, run it, then answer what its tests ask of it."""
    told, asked = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    confine(json.loads(sys.argv[1]))
    del sys.argv[1:]
    send(told, {"ready": True})
    program = Program()
    try:
        for source in receive(asked)["sources"]:
            program.run(source)
        send(told, {"names": [name for name in program.names if isinstance(name, str)]})
        while True:
            question = receive(asked)
            try:
                send(told, program.answer(question))
            except BaseException as error:  # noqa: BLE001
                send(told, _in_words(error))
    except EOFError:
        return
    except BaseException as error:  # noqa: BLE001
        send(told, _in_words(error))


def _in_words(error: BaseException) -> dict[str, Any]:
    try:
        words = str(error)[:500]
    except BaseException:  # noqa: BLE001
        words = ""
    return {"error": [type(error).__name__, words]}
