"""Checks of the hub's data sets and models: the mirror or the cache, and the hub's reach."""

import os
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from peftbench.doctor.finding import Finding
from peftbench.doctor.surroundings import nearest
from peftbench.errors import first_line
from peftbench.tasks import TASKS
from peftbench.tasks.hub import MIRROR, PROBE_SECONDS

HOW = "`hf download --repo-type dataset NAME --local-dir DIR/NAME` on a machine with a network"


def sources() -> list[str]:
    """The hub's data sets that tasks are made of."""
    return sorted({task.source.name for task in TASKS.values() if "/" in task.source.name})


def mirror_or_cache() -> Finding:
    """Where the data sets come from, and which are there."""
    given = os.environ.get(MIRROR)
    return mirror(Path(given)) if given else cache(Path(constants.HF_HUB_CACHE))


def mirror(folder: Path) -> Finding:
    """Which of the tasks' data sets a mirror holds."""
    if not folder.is_dir():
        return Finding(
            "failed",
            f"{MIRROR}={folder} is no folder",
            f"name the mirror's folder, or unset {MIRROR}",
        )
    held = [name for name in sources() if _has_files(folder / name)]
    missing = [name for name in sources() if name not in held]
    text = f"{MIRROR}={folder} holds {', '.join(held) or 'no data set of a task'}"
    if missing:
        return Finding("warning", f"{text}; not {', '.join(missing)}", f"to add one: {HOW}")
    return Finding("ok", text)


def _has_files(folder: Path) -> bool:
    """Whether a folder can be read, and holds a file in it or below."""
    return any(path.is_file() and os.access(path, os.R_OK) for path in folder.rglob("*"))


def cache(folder: Path) -> Finding:
    """Whether the hub's cache can be used, and which of the tasks' data sets it holds."""
    held = [
        name for name in sources() if (folder / f"datasets--{name.replace('/', '--')}").is_dir()
    ]
    names = ", ".join(held) or "no data set of a task"
    text = f"{MIRROR} is not set; the hub's cache is {folder}: it holds {names}"
    if not os.access(nearest(folder), os.W_OK | os.X_OK):
        return Finding(
            "warning",
            f"{text}, and cannot be written to",
            f"set HF_HOME to a folder of yours, or {MIRROR} to a mirror",
        )
    return Finding("ok", text)


def reach(ask: bool) -> Finding:
    """Whether the hub answers; asked only where a person wants it."""
    if not ask:
        return Finding("skipped", "asked with --hub only: no other check reaches a network")
    if constants.HF_HUB_OFFLINE:
        return Finding("skipped", "HF_HUB_OFFLINE is set", "unset it to use the hub")
    name = sources()[0]
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=PROBE_SECONDS)
    except Exception as error:  # its type depends on the HTTP client
        return Finding(
            "failed",
            f"{constants.ENDPOINT} does not answer: {first_line(error)}",
            f"allow network access, or set {MIRROR} to a mirror: {HOW}",
        )
    return Finding("ok", f"{constants.ENDPOINT} answers")
