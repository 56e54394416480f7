"""Where a run takes place: the device, what it can do, and the software."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

from peftbench.record import Environment
from peftbench.spec import Base, Precision


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def auto_precision(device: torch.device) -> Precision:
    """What the precision "auto" comes to on a device. A CPU without bfloat16 instructions is
    hundreds of times slower in it, so that a CPU always gets float32."""
    return "bf16-mixed" if cuda_bfloat16(device) else "float32"


def cuda_bfloat16(device: torch.device) -> bool:
    """Whether it is a CUDA device that computes in bfloat16; what CUDA emulates is of no use."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device, threads: int | None = None) -> str:
    """What the device is called; a CPU with the number of threads that torch uses on it. threads:
    that number in the process that is asked about; None: in this one."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    if match := re.search(r"^model name\s*:\s*(.+)", text, re.MULTILINE):
        name = match[1].strip()
    return f"{name}, {threads or torch.get_num_threads()} threads"


def load_average() -> float | None:
    """Processes that were running or waiting for a CPU, as a mean over one minute; None where the
    system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe_environment(
    device: torch.device,
    sandbox: str | None = None,
    base: Base = "plain",
    threads: int | None = None,
) -> Environment:
    """Where a run takes place, at its start. threads: as in `device_name`."""
    commit, dirty = _git_state()
    return Environment(
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=importlib.metadata.version("transformers"),
        bitsandbytes=None if base == "plain" else _version("bitsandbytes"),
        threads=threads or torch.get_num_threads(),
        spin_count=os.environ.get("GOMP_SPINCOUNT"),
        device_name=device_name(device, threads),
        load_at_start=load_average(),
        sandbox=sandbox,
    )


def _version(package: str) -> str | None:
    """None: not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether tracked files differ from it;
    None where it is no checkout."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None, None

    def git(*command: str) -> str:
        return subprocess.check_output(
            ["git", "-C", root, *command], stderr=subprocess.DEVNULL, text=True
        ).strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):
        return None, None
