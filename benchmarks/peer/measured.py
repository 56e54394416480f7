"""What was measured, and the file that keeps it, so that a comparison can be ended and gone on
with."""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from peer.measure import Row
from peer.overhead import Overhead
from peer.scale import ScaleRow
from peer.step_profile import StepProfile
from peftbench.errors import InputError, first_line
from peftbench.output import write_whole
from peftbench.training.environment import describe_environment


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it was measured, and with what."""

    device: str
    threads: int
    torch: str
    transformers: str
    peft: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that the page is made of."""

    machine: Machine
    rows: tuple[Row, ...] = ()
    scale: tuple[ScaleRow, ...] = ()
    profiles: dict[str, tuple[StepProfile, ...]] = field(default_factory=dict)  # before, after
    overhead: Overhead | None = None

    def with_rows(self, rows: Sequence[Row]) -> "Measured":
        """With these in the place of those of the same comparisons."""
        new = {key(row): row for row in rows}
        kept = [row for row in self.rows if key(row) not in new]
        return dataclasses.replace(self, rows=(*kept, *rows))

    def with_scale(self, rows: Sequence[ScaleRow]) -> "Measured":
        """Likewise of the bytes at scale."""
        new = {(row.method, row.supervised) for row in rows}
        kept = [row for row in self.scale if (row.method, row.supervised) not in new]
        return dataclasses.replace(self, scale=(*kept, *rows))


JSON = TypeAdapter(Measured)


def key(row: Row) -> tuple[str, str, str, str]:
    return row.model, row.task, row.method, row.against


def this_machine(device: torch.device) -> Machine:
    environment = describe_environment(device)
    return Machine(
        device=environment.device_name,
        threads=environment.threads,
        torch=environment.torch,
        transformers=environment.transformers,
        peft=importlib.metadata.version("peft"),
    )


def read(path: Path | None, machine: Machine) -> Measured:
    """What a file keeps; nothing, of this machine, where there is none. Raises InputError that
    names the file."""
    if path is None or not path.exists():
        return Measured(machine=machine)
    try:
        return JSON.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: no measurements of this script: {first_line(error)}") from error


def check_machine(kept: Measured, machine: Machine) -> None:
    """Raise InputError where what is kept comes from elsewhere: ratios of two machines do not
    belong in one table."""
    if kept.machine != machine:
        raise InputError(
            f"--store: holds measurements of another machine or other versions ({kept.machine}, "
            f"not {machine}): name another file"
        )


def write(path: Path | None, measured: Measured) -> None:
    """Keep it, where a file is named."""
    if path is not None:
        write_whole(path, JSON.dump_json(measured, indent=1) + b"\n")
