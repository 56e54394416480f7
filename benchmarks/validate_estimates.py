"""Hold forecasts against what others measured on GPUs, and write docs/estimate.md.

python benchmarks/validate_estimates.py [--write docs/estimate.md]
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import get_args

from anchors import ANCHORS, Anchor
from real_step import tracked_peak
from tabulate import tabulate

from peftbench.estimate.answers import step
from peftbench.estimate.forecast import Forecast, forecast
from peftbench.estimate.reserved import HIGH, LIKELY, LOW
from peftbench.estimate.setting import Setting
from peftbench.methods import OURS
from peftbench.output import write_whole
from peftbench.spec import Precision

GIB = 2**30


@dataclass(frozen=True)
class Case:
    anchor: Anchor
    made: Forecast
    fitted: bool  # whether the constants were fitted on it

    @property
    def error(self) -> float:
        """Of live bytes to those allocated, or of the likeliest reserved to those reserved."""
        anchor, made = self.anchor, self.made
        predicted = made.peak_bytes if anchor.kind == "allocated" else made.reserved_bytes
        return predicted / anchor.measured - 1

    @property
    def inside(self) -> bool:
        return self.made.reserved_low <= self.anchor.measured <= self.made.reserved_high

    @property
    def ratio(self) -> float:
        """Reserved, as measured, to live bytes, as forecast."""
        return self.anchor.measured / self.made.peak_bytes


def cases() -> list[Case]:
    """Every second of the complete anchors of a kind is for the fit."""
    made: list[Case] = []
    for anchor in ANCHORS:
        print(f"{anchor.source}: {anchor.what}", file=sys.stderr, flush=True)
        alike = [c for c in made if c.anchor.kind == anchor.kind and not c.anchor.unstated]
        fitted = anchor.kind == "reserved" and not anchor.unstated and len(alike) % 2 == 0
        made.append(Case(anchor, forecast(anchor.setting), fitted))
    return made


PAGE = Path(__file__).with_name("estimate_page.md")


def table(of: Sequence[Case]) -> str:
    rows = [
        (
            case.anchor.what,
            case.anchor.source,
            f"{case.anchor.setting.model.rpartition('/')[2]}, {step(case.anchor.setting)}",
            f"{case.anchor.measured / GIB:.2f}",
            f"{case.made.peak_bytes / GIB:.2f}",
            f"{case.made.reserved_low / GIB:.1f} to {case.made.reserved_high / GIB:.1f}",
            f"{case.error:+.1%}",
            _use(case),
        )
        for case in of
    ]
    headings = (
        *("what", "source", "as forecast", "measured, GiB", "live, GiB", "reserved, GiB"),
        *("error", "use"),
    )
    return tabulate(rows, headings, tablefmt="pipe", disable_numparse=True)


def _use(case: Case) -> str:
    if case.anchor.unstated:
        return f"not scored: {case.anchor.unstated}"
    return "fitted" if case.fitted else "scored"


@dataclass(frozen=True)
class Step:
    """A real step beside its forecast."""

    what: str
    tracked: int  # bytes
    forecast: int

    @property
    def apart(self) -> float:
        """As a part of what was tracked."""
        return abs(self.forecast / self.tracked - 1)


def real_steps() -> list[Step]:
    """Every method on both packaged models, in both precisions, plain and with checkpointing and
    micro-batches."""
    steps: list[Step] = []
    for model, (method, precision), lean in itertools.product(
        ("minilm-l6", "smollm2-135m"),
        itertools.product(OURS, get_args(Precision)[:2]),
        (False, True),
    ):
        setting = Setting(
            model=model,
            method=method,
            batch=2,  # few tokens, since bfloat16 crawls on most processors
            length=12,
            precision=precision,
            checkpointing=lean,
            micro_batch=1 if lean else None,
            pooling="mean" if model == "minilm-l6" else "model",
            device="cpu",
        )
        print(f"{model}, {method}, {step(setting)}", file=sys.stderr, flush=True)
        made = forecast(setting).peak_bytes
        what = f"{model}, {method}, {precision}{', lean' if lean else ''}"
        steps.append(Step(what, tracked_peak(setting), made))
    return steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page")
    options = parser.parse_args()
    made = cases()
    allocated = [c for c in made if c.anchor.kind == "allocated" and not c.anchor.unstated]
    reserved = [c for c in made if c.anchor.kind == "reserved" and not c.anchor.unstated]
    print(table(made))
    errors = [abs(case.error) for case in allocated]
    print(f"allocated: median error {median(errors):.1%}, worst {max(errors):.1%}")
    print("ratios of reserved to live:", *(f"{c.ratio:.3f}{'*' * c.fitted}" for c in reserved))
    print(f"constants {LOW} {LIKELY} {HIGH}")
    held_out = [case for case in reserved if not case.fitted]
    print(f"held out, inside: {sum(c.inside for c in held_out)} of {len(held_out)}")
    if options.write:
        steps = real_steps()
        farthest = max(steps, key=lambda each: each.apart)
        text = PAGE.read_text(encoding="utf-8").format(
            allocated=len(allocated),
            median=median(errors),
            worst=max(errors),
            low=LOW,
            high=HIGH,
            likely=LIKELY,
            half=(HIGH - LOW) / (HIGH + LOW),
            fitted=len(reserved) - len(held_out),
            held=len(held_out),
            inside=sum(case.inside for case in held_out),
            table=table(made),
            steps=len(steps),
            methods=len(OURS),
            apart=farthest.apart,
            worst_step=farthest.what,
            worst_forecast=farthest.forecast,
            worst_tracked=farthest.tracked,
        )
        write_whole(options.write, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
