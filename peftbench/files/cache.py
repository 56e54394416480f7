"""The cache of this machine: what can be made or fetched again, and thrown away at will."""

import os
import uuid
from contextlib import suppress
from pathlib import Path


def cache_folder() -> Path:
    """Where it lies: $PEFTBENCH_CACHE, or peftbench in the user's cache folder."""
    if own := os.environ.get("PEFTBENCH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peftbench"


def keep(path: Path, content: bytes) -> None:
    """Put something into it, whole or not at all. A cache that cannot be written to is none."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)


def kept(path: Path) -> bytes | None:
    """What it holds there; None: nothing that can be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
