"""How fast peftbench trains and in how many bytes, beside transformers' Trainer with peft, and
beside peft in a plain loop on the same batches."""

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from peer import measured as measurements
from peer.measure import Row, compare
from peer.measured import Measured
from peer.overhead import overhead
from peer.page import AGAINST, comparison, page
from peer.scale import ARMS, LENGTH, SUPERVISED, ScaleRow, scale
from peer.step_profile import StepProfile, profiles
from peer.work import ARGUMENTS, SETTINGS, Work, work

from peftbench.errors import InputError
from peftbench.output import write_whole
from peftbench.training.environment import choose_device

PARTS = ("compare", "scale", "profile", "overhead")
PROFILED_TOKENS, PROFILED_STEPS = 1000, 4


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: python benchmarks/vs_peft.py --models minilm-l6 --methods lora vera",
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=[*SETTINGS], default=[*SETTINGS], help="(default: both)")
    add("--methods", nargs="+", choices=[*ARGUMENTS], default=[*ARGUMENTS], help="(default: all)")
    add("--against", nargs="+", choices=AGAINST, default=[*AGAINST], help="(default: all)")
    add("--steps", type=positive, help="timed steps of a repeat (default: 20 or 2 by model)")
    add("--repeats", type=positive, default=5, help="all sides in turn (default: 5)")
    add(
        "--packaged",
        action="store_true",
        help="the packaged tasks even where PEFTBENCH_HUB names a mirror",
    )
    add("--format", choices=("md", "json"), default="md", help="of the comparison (default: md)")
    add(
        "--parts",
        nargs="*",
        choices=PARTS,
        default=["compare"],
        help="what is measured; nothing after it: nothing (default: compare)",
    )
    add(
        "--profile",
        choices=("before", "after"),
        default="after",
        help="as what the part profile is kept (default: after)",
    )
    add(
        "--store",
        type=Path,
        help="file that keeps what is measured, to go on with",
    )
    add("--again", action="store_true", help="measure what the file has already, too")
    add("--write", type=Path, metavar="PAGE", help="write the page from what is kept")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def say(line: str) -> None:
    """What goes on, apart from what is printed."""
    print(line, file=sys.stderr, flush=True)


def quietly() -> None:
    """Without a warning that peft 0.21 causes in transformers 5.23."""
    warnings.filterwarnings(
        "ignore", "`is_gradient_checkpointing` is deprecated", category=FutureWarning
    )


def compared(each: Work, against: Sequence[str]) -> list[Row]:
    return compare(each, against, choose_device())


def scaled(method: str, supervised: int) -> list[ScaleRow]:
    return scale(method, supervised)


def profiled(packaged: bool) -> list[StepProfile]:
    each = work("minilm-l6", "lora", 1, PROFILED_STEPS, packaged)
    return profiles(each, PROFILED_TOKENS, choose_device())


def measure(given: argparse.Namespace, kept: Measured) -> Measured:
    """The parts that are asked for, each in a process of its own, kept as soon as it is there."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=quietly, max_tasks_per_child=1) as processes:
        if "compare" in given.parts:
            for each in works(given):
                against = [name for name in given.against if given.again or lacks(kept, each, name)]
                if against:
                    say(f"{each.model}, {each.task}, {each.method} against {', '.join(against)}")
                    kept = kept.with_rows(processes.submit(compared, each, against).result())
                    measurements.write(given.store, kept)
        if "scale" in given.parts:
            there = set() if given.again else {(row.method, row.supervised) for row in kept.scale}
            for each in itertools.product(ARMS, SUPERVISED):
                if each not in there:
                    say(f"bytes at scale: {each[0]}, {each[1]} of {LENGTH} tokens supervised")
                    kept = kept.with_scale(processes.submit(scaled, *each).result())
                    measurements.write(given.store, kept)
        if "profile" in given.parts and (given.again or given.profile not in kept.profiles):
            say("profile of a step")
            made = {given.profile: tuple(processes.submit(profiled, given.packaged).result())}
            both = kept.profiles | made
            order = {name: both[name] for name in ("before", "after") if name in both}
            kept = dataclasses.replace(kept, profiles=order)
            measurements.write(given.store, kept)
    if "overhead" in given.parts and (given.again or kept.overhead is None):
        say("20 short runs")
        kept = dataclasses.replace(kept, overhead=overhead())
        measurements.write(given.store, kept)
    return kept


def works(given: argparse.Namespace) -> list[Work]:
    """Model by model; the corrected LoRA-FA on the first of the two alone, where it is cheap."""
    return [
        work(model, method, given.repeats, given.steps, given.packaged)
        for model in given.models
        for method in given.methods
    ]


def lacks(kept: Measured, each: Work, against: str) -> bool:
    wanted = (each.model, each.task, each.method, against)
    return wanted not in {measurements.key(row) for row in kept.rows}


def main(arguments: Sequence[str] | None = None) -> int:
    given = options(arguments)
    try:
        machine = measurements.this_machine(choose_device())
        kept = measurements.read(given.store, machine)
        if given.parts:
            measurements.check_machine(kept, machine)
            kept = measure(given, kept)
        if given.write:
            write_whole(given.write, page(kept).encode())
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if given.format == "json":
        print(json.dumps([dataclasses.asdict(row) for row in kept.rows], indent=1))
    elif kept.rows:
        print(comparison(kept.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
