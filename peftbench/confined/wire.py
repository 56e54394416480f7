"""Plain values over a pipe: what arrives is built of Python's own types alone, so that comparing it runs no code of the sender."""

import json
import os
from typing import Any

LIMIT = 16_000_000  # bytes of a message


def send(descriptor: int, message: Any) -> None:
    """Write a message of plain values. Raises TypeError on anything else, ValueError on one that is too long."""
    data = json.dumps(encoded(message)).encode()
    if len(data) > LIMIT:
        raise ValueError(f"a value of {len(data)} bytes is too long")
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int) -> Any:
    """Read a message. Raises EOFError where the other side has gone, ValueError on what is no message."""
    size = int.from_bytes(_read(descriptor, 4), "big")
    if size > LIMIT:
        raise ValueError(f"a value of {size} bytes is too long")
    return decoded(json.loads(_read(descriptor, size)))


def encoded(value: Any) -> Any:
    """A plain value as JSON has it: containers become [letter, content]. A subclass of a plain type goes as that type."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if isinstance(value, dict):
        return ["dict", [[encoded(key), encoded(item)] for key, item in value.items()]]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, [encoded(item) for item in value]]
    if isinstance(value, bytes | bytearray):
        return [type(value).__name__, value.hex()]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    raise TypeError(f"a value of type {type(value).__name__} cannot be passed on")


def decoded(value: Any) -> Any:
    """The value that `encoded` made JSON of."""
    if not isinstance(value, list):
        return value
    kind, content = value
    match kind:
        case "dict":
            return {decoded(key): decoded(item) for key, item in content}
        case "list" | "tuple" | "set" | "frozenset":
            return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](decoded(item) for item in content)
        case "bytes" | "bytearray":
            return {"bytes": bytes, "bytearray": bytearray}[kind].fromhex(content)
        case "complex":
            return complex(*content)
        case _:
            raise ValueError(f"no such type: {kind!r}")


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            raise EOFError("the other side has gone")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
