"""Records as files: canonical JSON with a digest, which shows what was changed by accident."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from peftbench.errors import InputError
from peftbench.reading import MOST_VALUES, read_object
from peftbench.spec import digest

DIGITS_TO_ZERO = bytes.maketrans(b"123456789", 9 * b"0")


def sealed(content: Mapping[str, Any]) -> bytes:
    """Canonical JSON of a record, with a digest of it. Raises ValueError on NaN."""
    values = {**content, "digest": digest(content)}
    return (json.dumps(values, sort_keys=True, allow_nan=False, indent=1) + "\n").encode()


def unsealed(content: bytes, place: str) -> tuple[dict[str, Any], bool]:
    """What `sealed` made a file of, without the digest, and whether that fits. Raises InputError
    that names the file, `place`, if it holds no JSON object."""
    if (values := _as_sealed(content)) is not None:
        return values, True
    try:
        values = read_object(content)
        return values, values.pop("digest", None) == digest(values)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: damaged, not a record's JSON: {error}") from error


def _as_sealed(content: bytes) -> dict[str, Any] | None:
    """The values, without the digest, of a file whose bytes, less the spaces that `sealed` puts
    between them, have the digest that it names: in a third of the time that it takes to make the
    canonical JSON of the values again. None: of another form, or with what `read_object` refuses,
    or not intact."""
    canonical = b"".join([line.lstrip(b" ") for line in content.split(b"\n")])
    canonical = canonical.replace(b'": ', b'":')
    head, _, rest = canonical.partition(b',"digest":"')
    named, body = rest[:64], head + rest[65:]
    if hashlib.sha256(body).hexdigest().encode() != named:
        return None
    if canonical.count(b",") > MOST_VALUES or _has_long_integer(canonical):
        return None
    try:
        values = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        return None
    # a text may hold what looks like a key too, but a key that stands twice is one too few
    if not isinstance(values, dict) or _keys(values) != body.count(b'":'):
        return None
    return values


def _keys(value: dict[str, Any] | list[Any]) -> int:
    """How many keys a JSON value has, at all depths."""
    found, left = 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            found += len(one)
            one = one.values()
        left += [each for each in one if type(each) in (dict, list)]
    return found


def _has_long_integer(canonical: bytes) -> bool:
    """Whether an integer may have 19 digits or more (in a text, too, where that is none)."""
    digits = canonical.translate(DIGITS_TO_ZERO)
    return any(start + 19 * b"0" in digits for start in (b":", b",", b"[", b"-"))
