"""Values on the line between a program and its tests: exact in type, and nothing in them that runs when they are read.

A value is JSON: null, booleans, floats, texts and small integers as they are, all else `{tag: …}`. What is no plain value
stays where it was made and is spoken of by a number: a handle.
"""

import json
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO

MAX_LINE_BYTES = 64 * 2**20
_SAFE_INTEGER = 2**53

ToHandle = Callable[[Any], int]
FromHandle = Callable[[int, str], Any]


class LineError(Exception):
    """What came is no message: too long, or not in the form agreed on."""


def send(line: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message."""
    line.write(json.dumps(message).encode() + b"\n")
    line.flush()


def receive(line: BinaryIO) -> dict[str, Any]:
    """Read one message. Raises EOFError at the end, LineError for what is none."""
    text = line.readline(MAX_LINE_BYTES)
    if not text:
        raise EOFError
    if not text.endswith(b"\n"):
        raise LineError("a message broke off, or is too long")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LineError(f"no message: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise LineError("no message")
    return message


def encode(value: Any, to_handle: ToHandle) -> Any:
    """A value as JSON. A subclass goes as the plain type it extends, so that its own methods judge nothing."""
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if -_SAFE_INTEGER < value < _SAFE_INTEGER else {"int": hex(value)}
    for base, tag in _SEQUENCES:
        if isinstance(value, base):
            return {tag: [encode(one, to_handle) for one in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, to_handle), encode(one, to_handle)] for key, one in value.items()]}
    if isinstance(value, bytes | bytearray):
        return {kind.__name__ if kind in (bytes, bytearray) else "bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if (kind.__module__, kind.__qualname__) in (("decimal", "Decimal"), ("fractions", "Fraction")):
        return {kind.__name__: str(value)}
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return encode(plain(value), to_handle)
    return {"handle": [to_handle(value), kind.__name__]}


_SEQUENCES = ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "frozenset"), (deque, "deque"))
_MAKERS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}


# imported where they are needed: they take as long as the whole interpreter's start
def _decimal(text: str) -> Any:
    from decimal import Decimal

    return Decimal(text)


def _fraction(text: str) -> Any:
    from fractions import Fraction

    return Fraction(text)


_READERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "Decimal": _decimal,
    "Fraction": _fraction,
}


def decode(told: Any, from_handle: FromHandle) -> Any:
    """The value that was told. Raises LineError."""
    if told is None or isinstance(told, bool | str | float | int):
        return told
    try:
        ((tag, held),) = told.items()
        if tag in _MAKERS:
            return _MAKERS[tag]([decode(one, from_handle) for one in held])
        if tag == "dict":
            return {decode(key, from_handle): decode(one, from_handle) for key, one in held}
        if tag == "handle":
            number, name = held
            return from_handle(int(number), str(name))
        return _READERS[tag](held)
    except LineError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise LineError(f"no value: {type(error).__name__}") from None
