"""Checks of training: equal runs give equal bits, and every method trains what it declares, with
the losses that its equations have."""

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from peftbench.doctor.finding import Finding
from peftbench.doctor.models import decoder, encoder, spec
from peftbench.spec import RunSpec
from peftbench.training.environment import auto_precision
from peftbench.training.fine_tuning import FineTuning, set_up
from peftbench.training.loop import train
from peftbench.training.run import never

CPU = torch.device("cpu")
CLASSIFICATION, GENERATION = "reviews", "gsm_symbolic"  # packaged data
# Relative difference of a loss from that of the same run in float64 on a CPU, at the most. Measured
# on a CPU: 2e-6 in float32, 4e-5 with inputs rounded to TF32, 7e-4 in mixed precision.
MOST_DIFFERENCE = {"float32": 1e-5, "bf16-mixed": 1e-2}
UNREPEATABLE = "does not have a deterministic implementation"  # what torch warns of


@dataclass(frozen=True)
class Trained:
    """What a short run leaves."""

    losses: list[float]  # of each step, and of one batch afterwards
    weights: dict[str, Tensor]  # afterwards, on the CPU
    declared: set[str]  # the weights that are trained, by what the optimizer was given
    changed: set[str]  # the weights that are not what they were
    count: int  # parameters that are declared, each once


def trained(wanted: RunSpec, device: torch.device, dtype: torch.dtype | None = None) -> Trained:
    """Carry out a short run in this process. dtype: of all weights, in place of the precision's."""
    tuning = set_up(wanted, device)
    net = tuning.model.net
    if dtype is not None:
        net.to(dtype)
    before = _weights(tuning)
    log = train(tuning, never)
    net.eval()
    with torch.inference_mode():
        last = sum(loss.item() for loss in tuning.losses(tuning.batch(1)))
    weights = _weights(tuning)
    groups = tuning.optimizer.param_groups if tuning.optimizer is not None else []
    own = {id(p): p.numel() for group in groups for p in group["params"]}
    return Trained(
        losses=[*(point.train_loss for point in log.curve if point.train_loss is not None), last],
        weights=weights,
        declared={n for n, p in net.named_parameters(remove_duplicate=False) if id(p) in own},
        changed={n for n, w in before.items() if n in weights and not torch.equal(w, weights[n])},
        count=sum(own.values()),
    )


def _weights(tuning: FineTuning) -> dict[str, Tensor]:
    return {n: t.detach().to("cpu", copy=True) for n, t in tuning.model.net.state_dict().items()}


@functools.cache
def reference(model: str, method: str) -> Trained:
    """A short run in float64 on the CPU."""
    return trained(spec(model, method, GENERATION), CPU, torch.float64)


def repeatability(scratch: Path, device: torch.device) -> Finding:
    """Whether two equal runs give equal bits."""
    wanted = spec(
        encoder(scratch), "lora", CLASSIFICATION, auto_precision(device), rank=4, dropout=0.1
    )
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        first, second = (trained(wanted, device) for _ in range(2))
    names = [name for name, w in first.weights.items() if not torch.equal(w, second.weights[name])]
    if first.losses != second.losses or names:
        pairs = enumerate(zip(first.losses, second.losses, strict=True), 1)
        step = next((step for step, (one, other) in pairs if one != other), None)
        where = f"losses from step {step} on" if step else "the same losses"
        return Finding(
            "failed",
            f"two equal runs give other bits: {where}, {len(names)} of {len(first.weights)} "
            "weights differ",
            "results cannot be repeated here; try OMP_NUM_THREADS=1, and on a GPU unset "
            "CUBLAS_WORKSPACE_CONFIG",
        )
    found = f"two equal runs of {len(first.losses) - 1} steps give equal losses and weights"
    if kernels := [str(w.message) for w in heard if UNREPEATABLE in str(w.message)]:
        return Finding(
            "warning",
            f"{found}, although torch warns: {kernels[0].splitlines()[0]}",
            "larger models may give other bits each time: compare two runs of yours",
        )
    return Finding("ok", found)


def seeds(scratch: Path, device: torch.device) -> Finding:
    """Whether another seed gives other numbers."""
    one, other = (
        trained(spec(encoder(scratch), "lora", CLASSIFICATION, seed=seed, rank=4), device)
        for seed in (0, 1)
    )
    equal = [
        step
        for step, pair in enumerate(zip(one.losses, other.losses, strict=True), 1)
        if pair[0] == pair[1]
    ]
    if equal:
        return Finding(
            "failed",
            f"runs with the seeds 0 and 1 have the same loss at step {equal[0]}",
            "intervals over seeds mean nothing here: report this",
        )
    return Finding("ok", "another seed gives other losses at every step")


def method(scratch: Path, device: torch.device, name: str) -> Finding:
    """Whether a method trains what it declares and nothing else, with the losses of its equations:
    those of a float64 run on the CPU."""
    model = decoder(scratch)
    exact = reference(model, name)
    auto = auto_precision(device)
    said: list[str] = []
    for precision in dict.fromkeys(("float32", auto)):
        run = trained(spec(model, name, GENERATION, precision), device)
        if wrong := _undeclared(run):
            return Finding("failed", f"{precision}: {wrong}", "do not use this method here")
        difference = apart(run.losses, exact.losses)
        said.append(f"{difference:.1g} ({precision})")
        if not difference <= MOST_DIFFERENCE[precision]:  # NaN too
            return Finding(
                "failed",
                f"losses in {precision} are {difference:.1g} from those in float64 on the CPU "
                f"(relatively; at most {MOST_DIFFERENCE[precision]:g})",
                "do not trust this method's results here; another build of torch may help",
            )
    return Finding(
        "ok",
        f"trains its {exact.count:,} parameters and no other; losses are within "
        f"{' and '.join(said)} of float64 on the CPU",
    )


def apart(losses: list[float], exact: list[float]) -> float:
    """The largest relative difference; NaN where a loss is, infinite where one is missing."""
    if len(losses) != len(exact):
        return float("inf")
    differences = [abs(a - b) / abs(b) for a, b in zip(losses, exact, strict=True)]
    return float(torch.tensor(differences, dtype=torch.float64).max())


def _undeclared(run: Trained) -> str | None:
    """What changed and should not have, or the other way round; None where all is right."""
    if more := sorted(run.changed - run.declared):
        return f"changes {len(more)} weights that it does not declare, such as {more[0]}"
    if less := sorted(run.declared - run.changed):
        return f"leaves {len(less)} weights as they were that it declares, such as {less[0]}"
    return None
