"""What can be said of a model that the store has no runs of: what was measured elsewhere, what is
estimated, and what nobody knows, kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.errors import InputError
from peftbench.wording import size

if TYPE_CHECKING:
    from peftbench.analysis.nearest import Nearest
    from peftbench.analysis.results import Results

BATCH, LENGTH = 16, 512  # the step that is asked of, smaller where it must be


@dataclass(frozen=True)
class Need:
    """What a step of a method takes, and the first change with which it fits."""

    method: str
    reserved_high: int  # bytes of the GPU, at the most
    changes: tuple[str, ...] | None  # none are needed: (); None: nothing makes it fit


@dataclass(frozen=True)
class Unmeasured:
    model: str
    task: str
    memory_gib: float
    nearest: "Nearest | None"  # measured: another model
    needs: tuple[Need, ...]  # estimated: this model; empty: it cannot be
    lacking: str = ""  # why it cannot


def unmeasured(results: "Results", model: str, task: str, memory_gib: float) -> Unmeasured:
    """What is known of a model that the store has no run of."""
    from peftbench.analysis.nearest import nearest

    try:
        needs, params = _needs(model, memory_gib)
    except InputError as error:
        return Unmeasured(model, task, memory_gib, nearest(results, task, None), (), str(error))
    return Unmeasured(model, task, memory_gib, nearest(results, task, params), needs)


def _needs(model: str, memory_gib: float) -> tuple[tuple[Need, ...], int]:
    """Of every method, and the model's parameters. Raises InputError where it has no forecast."""
    from peftbench.estimate import fits
    from peftbench.estimate.forecast import forecast
    from peftbench.estimate.setting import Setting
    from peftbench.methods import OURS

    needs: list[Need] = []
    params = 0
    for method in OURS:
        setting = Setting(model=model, method=method, batch=BATCH, length=LENGTH)
        made = forecast(setting)
        params = made.total_params
        changes: tuple[str, ...] | None = ()
        if made.reserved_high > memory_gib * fits.GIB:
            changes = fits.what_makes_it_fit(setting, memory_gib) or None
        needs.append(Need(method, made.reserved_high, changes))
    return tuple(needs), params


def described(answer: Unmeasured) -> str:
    """In words, without a newline at its end."""
    near = answer.nearest
    if near is None:
        measured = [f"nothing: the store has no finished test run on {answer.task}"]
    else:
        measured = [
            f"another model, {near.model} ({near.params / 1e6:,.0f} M parameters), {near.metric}:",
            *(
                f"  {rank.label}: {rank.mean:.4f}{_interval(rank.low, rank.high)}, "
                f"{rank.seeds} seeds{', not learned' if rank.learned is False else ''}"
                for rank in near.ranks
            ),
        ]
    step = f"{BATCH} x {LENGTH} tokens, bf16-mixed"
    estimated = (
        [f"nothing: {answer.lacking}"]
        if answer.lacking
        else [
            f"what a step of {step} reserves at the most; nothing was run:",
            *(
                f"  {need.method}: {size(need.reserved_high)}, {_fits(need)}"
                for need in answer.needs
            ),
        ]
    )
    unknown = [
        f"which method is best for {answer.model} on {answer.task}, with which learning rate: "
        "peftbench search tells"
    ]
    parts: dict[str, Sequence[str]] = {
        "measured": measured,
        "estimated": estimated,
        "unknown": unknown,
    }
    lines = [
        f"  {name if i == 0 else '':<9} {line}"
        for name, texts in parts.items()
        for i, line in enumerate(texts)
    ]
    return "\n".join([f"{answer.model} in {answer.memory_gib:g} GiB:", *lines])


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"


def _fits(need: Need) -> str:
    if need.changes is None:
        return "nothing makes it fit"
    return f"fits with {', '.join(need.changes)}" if need.changes else "fits"


def is_unmeasured(results: "Results", model: str) -> bool:
    """Whether the store has no run of a model."""
    return all(record.spec.model != model for record in results.records)
