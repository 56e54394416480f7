"""Checks of the device: which it is, what else runs, how exactly and how fast it multiplies."""

import shutil
import subprocess
from pathlib import Path

import torch

from peftbench.analysis.blocks import SPARE_LOAD
from peftbench.cores import cores
from peftbench.doctor.finding import Finding
from peftbench.errors import InputError
from peftbench.training.environment import (
    auto_precision,
    cuda_bfloat16,
    device_name,
    load_average,
)
from peftbench.training.rates import Rates, check_precision, gemm_peak, probe
from peftbench.wording import size

CGROUP = Path("/sys/fs/cgroup/cpu.max")
CUDA_SIZE = 4096  # of matrices that are large enough for a GPU
ERROR_SIZE = 256
# Relative error of a product of float32 matrices: 2e-7 where it is made in float32, 3e-4 in TF32.
MOST_ERROR = 1e-5
FREE = 0.9  # of a GPU's memory: where less is free, something else is there


def device(place: torch.device) -> Finding:
    """Which device runs use, with its driver and the build of torch."""
    build = f"torch {torch.__version__}"
    if place.type != "cuda":
        text = f"CPU: {device_name(place)}; {build}"
        if driver := _driver():
            return Finding(
                "warning",
                f"{text}, but the machine has a GPU (NVIDIA driver {driver})",
                "runs use the CPU: install a build of torch for CUDA that fits the driver",
            )
        return Finding("ok", text)
    major, minor = torch.cuda.get_device_capability(place)
    memory = torch.cuda.get_device_properties(place).total_memory
    software = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    text = (
        f"GPU: {device_name(place)}, {size(memory)}, compute capability {major}.{minor}; "
        f"driver {_driver() or 'unknown'}; {build}, {software}"
    )
    if (others := torch.cuda.device_count() - 1) > 0:
        text += f"; runs use the first GPU, {others} more stay idle"
    return Finding("ok", text)


def load(place: torch.device) -> Finding:
    """Threads against cores, and whether something else uses the machine."""
    threads, usable, average = torch.get_num_threads(), usable_cores(), load_average()
    busy = "unknown" if average is None else f"{average:.2f}"
    text = f"threads: {threads}, usable cores: {usable:g}, load average: {busy}"
    if place.type == "cuda":
        free, total = torch.cuda.mem_get_info(place)
        # what this process itself has reserved is not somebody else's
        free += torch.cuda.memory_reserved(place)
        text += f", {size(free)} of the GPU's {size(total)} free"
        if free < FREE * total:
            return Finding("warning", text, "something else uses the GPU: end it, or wait")
    if threads > usable:
        return Finding(
            "warning", text, f"threads wait for each other: set OMP_NUM_THREADS={int(usable) or 1}"
        )
    if average is not None and average > SPARE_LOAD:
        return Finding(
            "warning",
            text,
            "something else runs, or did in the last minute: seconds of runs that do not have the "
            "machine to themselves do not count",
        )
    return Finding("ok", text)


def usable_cores() -> float:
    """Cores that this process may use: by its affinity and its control group's quota."""
    own = float(len(cores()))
    quota, _, period = CGROUP.read_text().partition(" ") if CGROUP.exists() else ("max", "", "")
    return own if quota == "max" else min(own, int(quota) / int(period))


def exactness(place: torch.device) -> Finding:
    """Whether products of float32 matrices are made in float32, and not in TF32 or less."""
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(ERROR_SIZE, ERROR_SIZE, generator=rng) for _ in range(2))
    exact = a.double() @ b.double()
    product = (a.to(place) @ b.to(place)).cpu().double()
    error = ((product - exact).norm() / exact.norm()).item()
    text = f"float32 products have a relative error of {error:.1g}"
    if not error <= MOST_ERROR:  # NaN too
        return Finding(
            "failed",
            f"{text}: they are not made in float32",
            "unset NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
            if place.type == "cuda"
            else "this torch or processor multiplies wrongly: install another build of torch",
        )
    return Finding("ok", text + ("; TF32 is off" if place.type == "cuda" else ""))


def precision(place: torch.device) -> Finding:
    """Rates of products in float32 and bfloat16, and what the precision "auto" comes to."""
    auto = f'precision "auto" is {auto_precision(place)}'
    if place.type == "cuda":
        single = gemm_peak(place, torch.float32, CUDA_SIZE)
        if not cuda_bfloat16(place):
            return Finding(
                "warning",
                f"float32 {_rate(single)}, no bfloat16; {auto}",
                "large models take twice the memory here: take a GPU of compute capability 8.0",
            )
        rates = Rates(single, gemm_peak(place, torch.bfloat16, CUDA_SIZE))
    else:
        rates = probe(place)
    text = f"float32 {_rate(rates.float32)}, bfloat16 {_rate(rates.bfloat16)}; {auto}"
    if place.type == "cuda" and rates.bfloat16 < rates.float32:
        return Finding(
            "warning",
            text,
            "bfloat16 should be faster: is the GPU in use, or too hot?",
        )
    try:
        check_precision("bf16-mixed", place)
    except InputError:
        text += "; bf16-mixed is refused"
    else:
        if place.type != "cuda" and rates.bfloat16 > rates.float32:
            text += '; train.precision = "bf16-mixed" is faster'
    return Finding("ok", text)


def _rate(flops: float) -> str:
    unit, name = (1e12, "TFLOP/s") if flops >= 1e12 else (1e9, "GFLOP/s")
    return f"{flops / unit:.3g} {name}"


def _driver() -> str | None:
    """The version of NVIDIA's driver; None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    answer = subprocess.run(
        [program, "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    lines = answer.stdout.split()
    return lines[0] if answer.returncode == 0 and lines else None
