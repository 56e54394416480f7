"""Write the digests of the files that pip may install into the lists beside this file.

    make lock

A list holds a package and its version a line; edit these lines, or add one, and run this. It asks
PyPI for the files of each version, and keeps the wheels for Python 3.11 to 3.14 on Linux (x86_64,
aarch64) and macOS. What is not on PyPI in this form (torch-cpu.txt), or no wheel (reviews.txt), is
kept by hand.
"""

import json
import re
import urllib.request
from pathlib import Path

from packaging.utils import parse_wheel_filename
from packaging.version import Version

LISTS = ("run", "dev", "torch", "cuda")
PYTHONS = {"py3", *(f"{kind}3{minor}" for kind in ("cp", "py") for minor in range(11, 15))}
PLATFORM = re.compile(r"any|(many)?linux(_?[\d_]+)?_(x86_64|aarch64)|macosx_.*")


def locked(text: str) -> str:
    """A list with the digests of now. Comments and environment markers stay."""
    lines: list[str] = []
    for line in text.splitlines():
        if "==" not in line:
            if not line.lstrip().startswith("--hash="):
                lines.append(line)
            continue
        requirement = line.removesuffix("\\").rstrip()
        name, version = re.split("==", requirement.partition(";")[0].strip())
        digests = sorted(f"--hash=sha256:{digest}" for digest in wheels(name, version))
        lines.append(" \\\n    ".join([requirement, *digests]))
    return "\n".join(lines) + "\n"


def wheels(name: str, version: str) -> set[str]:
    """SHA-256 of each wheel of a version that fits one of our Pythons and platforms."""
    request = urllib.request.Request(
        f"https://pypi.org/simple/{name.lower().replace('_', '-')}/",
        headers={"Accept": "application/vnd.pypi.simple.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = {file["filename"]: file["hashes"]["sha256"] for file in json.load(answer)["files"]}
    digests = {digest for file, digest in files.items() if fits(file, Version(version))}
    if not digests:
        raise SystemExit(f"{name} {version}: no wheel for Python 3.11 to 3.14, Linux and macOS")
    return digests


def fits(file: str, version: Version) -> bool:
    """Whether this is a wheel of that version for one of our Pythons and platforms."""
    if not file.endswith(".whl") or Version(Version(file.split("-")[1]).public) != version:
        return False
    _, _, _, tags = parse_wheel_filename(file)
    return any(
        (tag.interpreter in PYTHONS or tag.abi == "abi3")
        and not tag.abi.endswith("t")
        and PLATFORM.fullmatch(tag.platform)
        for tag in tags
    )


if __name__ == "__main__":
    for path in (Path(__file__).with_name(f"{name}.txt") for name in LISTS):
        path.write_text(locked(path.read_text(encoding="utf-8")), encoding="utf-8")
