"""Checks of what lies on this machine: packaged models and data, disks, the store's folder, a
compiler."""

import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import constants

from peftbench import assets
from peftbench.doctor.finding import Finding
from peftbench.files.cache import cache_folder
from peftbench.output import ensure_writable
from peftbench.store import Store
from peftbench.training.compilation import cpp_compiler, missing
from peftbench.wording import shortened, size

LITTLE, NOTHING = 10 * 2**30, 2**29  # bytes
PROGRAM = "#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"


def packaged() -> Finding:
    """Whether the packaged models and data are there, byte for byte where a digest is known."""
    for name in assets.MODELS:
        assets.weights_file(name)
    for name in assets.PACKAGES:
        assets.package_folder(name)
    assets.reviews_archive()
    return Finding(
        "ok", f"{len(assets.MODELS)} models and {len(assets.PACKAGES) + 1} packages are whole"
    )


def disk(store: Store) -> Finding:
    """Free space where results, converted and downloaded models, and temporary files go."""
    places = {
        **({} if isinstance(store.root, str) else {"results": store.root}),
        "cache": cache_folder(),
        "hub cache": Path(constants.HF_HUB_CACHE),
        "temporary files": Path(tempfile.gettempdir()),
    }
    disks: dict[int, list[str]] = {}
    free: dict[int, int] = {}
    for name, path in places.items():
        there = nearest(path)
        number = there.stat().st_dev
        disks.setdefault(number, []).append(name)
        free[number] = shutil.disk_usage(there).free
    found = "; ".join(f"{size(free[n])} free for {', '.join(disks[n])}" for n in disks)
    least = min(free.values())
    if least < LITTLE:
        return Finding(
            "failed" if least < NOTHING else "warning",
            found,
            "a model of 7 B parameters takes 14 GiB; PEFTBENCH_CACHE, HF_HOME, TMPDIR and --store "
            "name other places",
        )
    return Finding("ok", found)


def nearest(path: Path) -> Path:
    """The path, or the first folder above it that there is."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def writable(store: Store) -> Finding:
    """Whether results can be stored. Leaves nothing behind. Raises InputError where they cannot."""
    root = store.root
    if isinstance(root, str) or root.exists():
        store.ensure_writable()
        return Finding("ok", f"{store} can be written to")
    ensure_writable(root.absolute().parent / root.name)  # the store makes no folder above its own
    return Finding("ok", f"{store} is not there yet, and can be made")


def compiler(place: torch.device) -> Finding:
    """Whether `train.compile` finds what it needs: on every device a C++ compiler, with OpenMP and
    Python's headers."""
    if (lacking := missing(place)) is not None:
        return Finding("skipped", f"no {lacking}", "only train.compile = true needs it: install it")
    name = cpp_compiler()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "program.cpp")
        source.write_text(PROGRAM)
        command = [name, "-shared", "-fPIC", "-fopenmp", f"-I{sysconfig.get_path('include')}"]
        problem = _run([*command, str(source), "-o", str(source.with_suffix(".so"))])
    if problem is not None:
        return Finding(
            "warning",
            f"{name} cannot compile: {problem}",
            "only train.compile = true needs it: install Python's headers and OpenMP, or another "
            "compiler, which CXX names",
        )
    return Finding("ok", f"{name} compiles, with OpenMP and Python's headers")


def _run(command: Sequence[str]) -> str | None:
    """Why a command fails, in one line; None if it does not."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    return shortened("\n".join(errors[:1]) or f"exit status {done.returncode}", 200)
