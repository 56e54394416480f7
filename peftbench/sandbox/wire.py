"""Plain values over a pipe: what arrives is built from Python's own types alone, so that comparing
it runs no code of the sender."""

import json
import os
from collections.abc import Callable
from typing import Any

LIMIT = 16_000_000  # bytes of a message
SCALARS = (bool, int, float, str)  # the types that JSON has too, but for None
CONTAINERS = (list, tuple, set, frozenset)
PLAIN = (*SCALARS, *CONTAINERS, dict, complex, bytes, bytearray)
TYPES: dict[str, Any] = {kind.__name__: kind for kind in PLAIN}


def refuse(value: Any) -> int:
    """The `keep` of a side that sends plain values only. Raises TypeError."""
    raise TypeError(f"a value of type {type(value).__name__} cannot be passed on")


def send(descriptor: int, message: Any, keep: Callable[[Any], int] = refuse) -> None:
    """Write a message of plain values; an object that is not plain is sent as the number that
    `keep` gives it. Raises ValueError if the message is too long."""
    data = json.dumps(encoded(message, keep)).encode()
    if len(data) > LIMIT:
        raise ValueError(f"a value of {len(data)} bytes is too long")
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int, find: Callable[[int], Any] | None = None) -> Any:
    """Read a message; `find` gives the object with a number. Raises EOFError if the other side has
    ended, ValueError if what it sent is no message."""
    size = int.from_bytes(_read(descriptor, 4), "big")
    if size > LIMIT:
        raise ValueError(f"a value of {size} bytes is too long")
    return decoded(json.loads(_read(descriptor, size)), find)


def encoded(value: Any, keep: Callable[[Any], int] = refuse) -> Any:
    """A value as JSON: a container becomes [name of its type, content]. An instance of a subclass
    of a plain type is sent as that type."""
    for kind in SCALARS:
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if isinstance(value, dict):
        return ["dict", [[encoded(key, keep), encoded(item, keep)] for key, item in value.items()]]
    for kind in CONTAINERS:
        if isinstance(value, kind):
            return [kind.__name__, [encoded(item, keep) for item in value]]
    if isinstance(value, bytes | bytearray):
        return [type(value).__name__, value.hex()]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, type) and value in TYPES.values():
        return ["type", value.__name__]
    return ["object", keep(value)]


def decoded(value: Any, find: Callable[[int], Any] | None = None) -> Any:
    """The value that `encoded` made JSON of."""
    if not isinstance(value, list):
        return value
    kind, content = value
    match kind:
        case "dict":
            return {decoded(key, find): decoded(item, find) for key, item in content}
        case "list" | "tuple" | "set" | "frozenset":
            return TYPES[kind](decoded(item, find) for item in content)
        case "bytes" | "bytearray":
            return TYPES[kind].fromhex(content)
        case "complex":
            return complex(*content)
        case "type":
            return TYPES[content]
        case "object" if find:
            return find(content)
        case _:
            raise ValueError(f"no such type: {kind!r}")


def _read(descriptor: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(descriptor, min(size - len(data), 1 << 20))
        if not part:
            raise EOFError("the other side has gone")
        data += part
    return bytes(data)
