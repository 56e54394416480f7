"""Records as files: what is read fast is what is read slowly."""

import hashlib
import json
from typing import Any

import pytest
import records

from peftbench import once
from peftbench.errors import InputError
from peftbench.once import sealed, unsealed

VALUES: dict[str, dict[str, Any]] = {
    "a record": records.record().model_dump(mode="json"),
    "colons and quotes": {"a": 'x": "y', 'k": ': ['": ', "\\", '\\": '], "z": 1},
    "lines": {"a": "1\n  2\r\n\t3", "z": "\u2028 \x85"},
    "digests": {"a": '"digest":"0",', "b": {"digest": 64 * "0", "e": 1}, "z": {"digest": ""}},
    "nothing": {},
    "empty": {"a": {}, "b": [], "z": ""},
    "last": {"a": 1},
    "floats": {"a": [0.1, -0.0, 1e-320, 1e300, 0.00012345678901234567, 1e16], "z": 5e-324},
    "integers": {"a": [0, 2**63 - 1, -(2**63), 10**18], "z": -1},
    "other writing": {"a": "ß漢😀", "z": None},
}


@pytest.mark.parametrize("name", VALUES)
def test_what_was_sealed_is_read_again(name: str) -> None:
    values, intact = unsealed(sealed(VALUES[name]), "file")
    assert intact
    assert json.dumps(values) == json.dumps(VALUES[name], sort_keys=True)


def test_a_record_is_not_made_into_json_again(monkeypatch: pytest.MonkeyPatch) -> None:
    content = sealed(VALUES["a record"])
    monkeypatch.setattr(once, "read_object", None)
    assert unsealed(content, "file") == (VALUES["a record"], True)


def test_whatever_is_changed_is_noticed() -> None:
    content = sealed(records.record(notes=("a",)).model_dump(mode="json"))
    for place in range(0, len(content), 7):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        try:
            values, intact = unsealed(changed, "file")
        except InputError:
            continue
        assert not intact or values == VALUES["a record"] | {"notes": ["a"]}, changed[place - 20 :]


FORGED = {
    "a long integer": b'{"a":1,"digest":"%s","z":10000000000000000000000}',
    "a long integer in a list": b'{"a":[-10000000000000000000000],"digest":"%s","z":1}',
    "no number": b'{"a":NaN,"digest":"%s","z":1}',
    "a key twice": b'{"a":1,"a":2,"digest":"%s","z":1}',
    "a key twice inside": b'{"a":[{"b":1,"b":1}],"digest":"%s","z":1}',
    "half a character": b'{"a":"\\ud800","digest":"%s","z":1}',
    "no object": b'[1,"digest":"%s",2]',
    "deep": b'{"a":' + 300 * b"[" + 300 * b"]" + b',"digest":"%s","z":1}',
}


@pytest.mark.parametrize("name", FORGED)
def test_a_digest_of_the_bytes_lets_nothing_pass_that_is_refused_otherwise(name: str) -> None:
    unnamed = FORGED[name].replace(b'"digest":"%s",', b"")
    content = FORGED[name] % hashlib.sha256(unnamed).hexdigest().encode()
    assert once._as_sealed(content) is None
