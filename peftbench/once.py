"""Records as files: canonical JSON with a digest, which shows what was changed by accident."""

import json
from collections.abc import Mapping
from typing import Any

from peftbench.errors import InputError
from peftbench.reading import read_object
from peftbench.spec import digest


def sealed(content: Mapping[str, Any]) -> bytes:
    """Canonical JSON of a record, with a digest of it. Raises ValueError on NaN."""
    values = {**content, "digest": digest(content)}
    return (json.dumps(values, sort_keys=True, allow_nan=False, indent=1) + "\n").encode()


def unsealed(content: bytes, place: str) -> tuple[dict[str, Any], bool]:
    """What `sealed` made a file of, without the digest, and whether that fits. Raises InputError
    that names the file, `place`, if it holds no JSON object."""
    try:
        values = read_object(content)
        return values, values.pop("digest", None) == digest(values)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: damaged, not a record's JSON: {error}") from error
