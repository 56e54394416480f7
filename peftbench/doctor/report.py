"""Findings as a person reads them on a terminal, and as JSON."""

import json
import shutil
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import get_args

from peftbench.doctor.finding import Finding, Status
from peftbench.wording import printable

STATUS, NAME = 9, 22  # columns
NARROW, WIDE = 60, 140  # columns of a terminal


def lines(name: str, finding: Finding) -> str:
    """A finding: its status, its name, what was found, and below that what to do."""
    width = min(max(shutil.get_terminal_size().columns, NARROW), WIDE)
    start = f"{finding.status:<{STATUS}}{name:<{NAME}}"
    indent = " " * (STATUS + NAME)
    text = textwrap.fill(
        printable(finding.found), width, initial_indent=start, subsequent_indent=indent
    )
    if finding.advice:
        text += "\n" + textwrap.fill(
            printable(finding.advice),
            width,
            initial_indent=f"{indent}-> ",
            subsequent_indent=f"{indent}   ",
        )
    return text


def summary(findings: Mapping[str, Finding]) -> str:
    """How many checks came to what."""
    counts = Counter(finding.status for finding in findings.values())
    parts = [f"{counts[status]} {status}" for status in get_args(Status) if counts[status]]
    return f"{len(findings)} checks: {', '.join(parts)}"


def as_json(findings: Mapping[str, Finding]) -> str:
    """A list of objects with name, status, found and advice."""
    rows = [{"name": name} | asdict(finding) for name, finding in findings.items()]
    return json.dumps(rows, indent=2, ensure_ascii=False)
