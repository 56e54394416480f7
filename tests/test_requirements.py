"""What `make setup` installs is pinned whole, and an archive is opened after its digest is seen."""

import hashlib
import importlib.metadata
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from peftbench.assets import PACKAGES, REVIEWS_SHA256, REVIEWS_VERSION

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
LISTS = sorted((ROOT / "requirements").glob("*.txt"))
RUN = ("run", "torch", "cuda")
SETUP = """
from pathlib import Path
from setuptools import setup
Path({marker!r}).touch()
setup(name="toy", version="1")
"""


def listed(*names: str) -> dict[str, str]:
    """The versions in these lists, by package."""
    lines = [
        line
        for name in names
        for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    ]
    pins = [re.match(r"([\w.-]+)==([\w.+]+)", line) for line in lines]
    return {canonicalize_name(pin[1]): pin[2] for pin in pins if pin}


def needed(extra: str) -> set[str]:
    """All that peftbench needs here, directly or not; "" for no extra."""
    names: set[str] = set()
    todo = [("peftbench", extra)]
    while todo:
        name, extra = todo.pop()
        for line in importlib.metadata.requires(name) or []:
            part = Requirement(line)
            if part.marker is None or any(part.marker.evaluate({"extra": e}) for e in ("", extra)):
                new = canonicalize_name(part.name)
                todo += [(new, extra) for extra in ("", *part.extras) if new not in names]
                names.add(new)
    return names


@pytest.mark.parametrize(("extra", "lists"), [("", RUN), ("dev", (*RUN, "dev"))])
def test_the_lists_are_whole(extra: str, lists: tuple[str, ...]) -> None:
    versions = listed(*lists)
    packages = needed(extra)
    assert {"numpy", "sympy", "torch"} < packages  # sympy: what torch needs
    assert packages <= versions.keys()
    installed = {name: Version(importlib.metadata.version(name)).public for name in packages}
    assert installed == {name: versions[name] for name in packages}


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_every_file_of_a_list_has_a_digest(path: Path) -> None:
    entries = path.read_text().replace("\\\n", " ").splitlines()
    entries = [entry for entry in entries if not entry.startswith("#")]
    assert entries
    for entry in entries:
        assert re.fullmatch(
            r"[\w.-]+==[\w.+]+( ; \w+ == \"\w+\")?( +--hash=sha256:[0-9a-f]{64})+", entry
        )


def test_what_stands_in_two_places_is_the_same() -> None:
    run = listed("run")
    assert {name: run[name] for name in PACKAGES} == {
        name: package.version for name, package in PACKAGES.items()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["build-system"]["requires"] == [f"setuptools=={run['setuptools']}"]
    assert listed("torch-cpu") == {"torch": listed("torch")["torch"] + "+cpu"}
    assert listed("reviews") == {"vadersentiment": REVIEWS_VERSION}
    assert REVIEWS_SHA256 in (ROOT / "requirements" / "reviews.txt").read_text()


@pytest.mark.parametrize("right", [True, False])
def test_nothing_of_an_archive_runs_before_its_digest_is_seen(right: bool, tmp_path: Path) -> None:
    marker, source = tmp_path / "it ran", tmp_path / "toy-1"
    source.mkdir()
    (source / "setup.py").write_text(SETUP.format(marker=str(marker)))
    (source / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: toy\nVersion: 1\n")
    with tarfile.open(tmp_path / "toy-1.tar.gz", "w:gz") as archive:
        archive.add(source, "toy-1")
    digest = hashlib.sha256((tmp_path / "toy-1.tar.gz").read_bytes()).hexdigest()
    entry = f"toy==1 --hash=sha256:{digest if right else 64 * '0'}\n"
    (tmp_path / "list.txt").write_text(entry)
    # the Makefile's own options, with another list and no network
    line = re.search(r"\$\(PIP\) (download .*)-r requirements/reviews.txt", MAKEFILE)
    assert line
    options = shlex.split(line[1])
    options[options.index("--dest") + 1] = str(tmp_path / "out")
    more = ["-r", str(tmp_path / "list.txt"), "--no-index", "--find-links", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "pip", *options, *more], capture_output=True, text=True, check=False
    )
    assert (run.returncode == 0) == right, run.stderr
    assert marker.exists() == right
    assert (tmp_path / "out" / "toy-1.tar.gz").exists() == right
