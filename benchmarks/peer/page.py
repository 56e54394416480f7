"""The table of a comparison, and docs/performance.md: pure functions of what was measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peer.measure import Row
from peer.measured import Measured
from peer.scale import ITEMS, LENGTH, SUPERVISED
from peer.step_profile import StepProfile
from peftbench.wording import size

TEMPLATE = Path(__file__).with_name("page.md")
Values = dict[str, float | None]  # of a target, by what is measured; None: was not
MINILM, SMOLLM2 = ("minilm-l6", "sst2"), ("smollm2-135m", "gsm8k")
LOW_RANK = ("lora", "lora-fa", "lora+")
AGAINST = ("defaults", "grouped", "identical")
HEADER = [
    *("model", "task", "method", "against", "ours / theirs", "ours, tokens/s", "theirs, tokens/s"),
    *("peak bytes, ours / theirs", "kept for backward, ours / theirs"),
    *("loss, ours", "loss, theirs", "largest difference"),
]


@dataclass(frozen=True)
class Target:
    """What is to be reached: every one of `values` at least, or at most, `limit`."""

    work: str
    against: str
    limit: float
    at_least: bool
    values: Callable[[Measured], Values]

    def verdict(self, measured: Measured) -> str:
        """Reached, missed, or not measured."""
        values = self.values(measured)
        known = [value for value in values.values() if value is not None]
        if any((v < self.limit) if self.at_least else (v > self.limit) for v in known):
            return "**missed**"
        return "reached" if known and len(known) == len(values) else "not measured"


def ratios(place: tuple[str, str], methods: Sequence[str], against: str) -> Callable[..., Values]:
    """Of ours to theirs, by method."""

    def values(measured: Measured) -> Values:
        by_method = {
            row.method: row.ratio
            for row in measured.rows
            if (row.model, row.task) == place and row.against == against
        }
        return {method: by_method.get(method) for method in methods}

    return values


def peaks(method: str) -> Callable[[Measured], Values]:
    """Of ours to peft's with its defaults, by the number of supervised tokens."""

    def values(measured: Measured) -> Values:
        by_count = {
            row.supervised: row.peak_ratio
            for row in measured.scale
            if row.method == method and "autocast" not in row.theirs
        }
        return {f"{number} tokens": by_count.get(number) for number in SUPERVISED}

    return values


def beside_lora(measured: Measured) -> Values:
    """LoRA-FA's peak to LoRA's, both ours."""
    peaks_of = {(row.method, row.supervised): row.ours_peak_bytes for row in measured.scale}
    return {
        f"{number} tokens": peaks_of["lora-fa", number] / peaks_of["lora", number]
        if {("lora-fa", number), ("lora", number)} <= peaks_of.keys()
        else None
        for number in SUPERVISED
    }


def products(measured: Measured) -> Values:
    rates = [p.products_part for p in measured.profiles.get("after", ()) if p.side == "ours"]
    return {"ours": rates[0] if rates else None}


def wall(measured: Measured) -> Values:
    return {"20 runs": measured.overhead.ratio if measured.overhead else None}


SHAPE_NAME = f"Llama-3.2-3B shape, {ITEMS} x {LENGTH}, bf16-mixed"
ALIKE = "LoRA, LoRA-FA, LoRA+"
TARGETS = [
    Target(f"MiniLM, SST-2: {ALIKE}", "defaults", 4, True, ratios(MINILM, LOW_RANK, "defaults")),
    Target(f"MiniLM, SST-2: {ALIKE}", "grouped", 1.25, True, ratios(MINILM, LOW_RANK, "grouped")),
    Target(
        f"MiniLM, SST-2: {ALIKE}", "identical", 1.3, True, ratios(MINILM, LOW_RANK, "identical")
    ),
    Target("MiniLM, SST-2: VeRA", "identical", 1.3, True, ratios(MINILM, ["vera"], "identical")),
    Target("SmolLM2, GSM8K: LoRA", "defaults", 2, True, ratios(SMOLLM2, ["lora"], "defaults")),
    Target("SmolLM2, GSM8K: LoRA", "grouped", 1.25, True, ratios(SMOLLM2, ["lora"], "grouped")),
    Target("SmolLM2, GSM8K: LoRA", "identical", 1.3, True, ratios(SMOLLM2, ["lora"], "identical")),
    Target("MiniLM, SST-2: full", "grouped", 1.1, True, ratios(MINILM, ["full"], "grouped")),
    Target("SmolLM2, GSM8K: full", "grouped", 1.1, True, ratios(SMOLLM2, ["full"], "grouped")),
    Target(f"peak bytes, LoRA, {SHAPE_NAME}", "peft", 0.7, False, peaks("lora")),
    Target(f"peak bytes, VeRA, {SHAPE_NAME}", "peft", 0.6, False, peaks("vera")),
    Target(f"peak bytes, LoRA-FA, {SHAPE_NAME}", "our LoRA", 1, False, beside_lora),
    Target("rate of products, LoRA on MiniLM", "the best product", 0.6, True, products),
    Target("wall time of 20 short runs", "training and evaluation", 1.1, False, wall),
]


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def comparison(rows: Iterable[Row]) -> str:
    """All rows, those of a comparison together."""
    return markdown(HEADER, [cells(row) for row in rows])


def cells(row: Row) -> list[str]:
    difference = row.loss_difference
    return [
        *(row.model, row.task, row.method, row.against),
        f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})",
        f"{row.ours_rate:,.0f}",
        f"{row.their_rate:,.0f}",
        f"{row.peak_ratio:.2f} ({size(row.ours_peak_bytes)} / {size(row.their_peak_bytes)})",
        f"{row.kept_ratio:.2f} ({size(row.ours_kept_bytes)} / {size(row.their_kept_bytes)})",
        f"{row.ours_loss:.3f}",
        f"{row.their_loss:.3f}",
        "" if difference is None else f"{difference:.0e}",
    ]


def targets(measured: Measured) -> str:
    lines = []
    for target in TARGETS:
        values = target.values(measured)
        measurements = ", ".join(
            f"{name} {'not measured' if value is None else format(value, '.2f')}"
            for name, value in values.items()
        )
        bound = f"at {'least' if target.at_least else 'most'} {target.limit:g}"
        lines.append([target.work, target.against, bound, measurements, target.verdict(measured)])
    return markdown(["work", "against", "to reach", "measured", ""], lines)


def at_scale(measured: Measured) -> str:
    header = ["method", "supervised tokens", "theirs", "ours / theirs", "ours", "theirs"]
    header += ["kept, ours", "kept, theirs"]
    lines = [
        [
            *(row.method, str(row.supervised), row.theirs, f"{row.peak_ratio:.2f}"),
            *(size(row.ours_peak_bytes), size(row.their_peak_bytes)),
            *(size(row.ours_kept_bytes), size(row.their_kept_bytes)),
        ]
        for row in measured.scale
    ]
    return markdown(header, lines)


def step_profiles(measured: Measured) -> str:
    """A column for each profile, a row for each kind of operation."""
    columns: list[tuple[str, StepProfile]] = [
        (f"{'ours' if p.side == 'ours' else 'peft'}, {label}", p)
        for label, profiles in measured.profiles.items()
        for p in profiles
    ]
    kinds = dict.fromkeys(kind for _, p in columns for kind in p.shares)
    lines = [[kind, *(f"{100 * p.shares[kind]:.0f} %" for _, p in columns)] for kind in kinds]
    lines += [
        ["tokens of a batch", *(f"{p.tokens:,.0f}" for _, p in columns)],
        ["milliseconds of a step", *(f"{1e3 * p.step_seconds:.0f}" for _, p in columns)],
        ["products, GFLOP/s", *(f"{p.products_rate / 1e9:.0f}" for _, p in columns)],
        ["best product, GFLOP/s", *(f"{p.best_rate / 1e9:.0f}" for _, p in columns)],
        ["the one by the other", *(f"{p.products_part:.2f}" for _, p in columns)],
    ]
    return markdown(["", *(name for name, _ in columns)], lines)


def why(measured: Measured) -> str:
    """What the profile says to the ratios that were not reached."""
    sides = {profile.side: profile for profile in measured.profiles.get("after", ())}
    if sides.keys() != {"ours", "identical"}:
        return ""
    ours, theirs = sides["ours"], sides["identical"]
    products, beside = (
        ours.step_seconds * share
        for share in (ours.shares["products"], 1 - ours.shares["products"])
    )
    wanted = theirs.step_seconds / 1.3 - products
    most = theirs.step_seconds / products
    return (
        f"Both sides make the same products. They take {1e3 * products:.0f} of the "
        f"{1e3 * ours.step_seconds:.0f} ms of our step, at {ours.products_part:.2f} of the best "
        f"rate: with everything else free, ours would be {most:.2f} times as fast as peft on "
        "identical batches.\nFor 1.3 times, what is not a product would have to take "
        f"{1e3 * wanted:.0f} ms in place of {1e3 * beside:.0f}; dropout's masks, normalisation, "
        "activations and attention are most of it, and the networks' own on both sides."
    )


def page(measured: Measured) -> str:
    """docs/performance.md."""
    machine, overhead = measured.machine, measured.overhead
    wall_time = (
        f"{overhead.runs} runs took {overhead.wall_seconds:.0f} s, of which training and "
        f"evaluation were {overhead.pure_seconds:.0f} s: {overhead.ratio:.2f} times."
        if overhead
        else "Not measured."
    )
    return TEMPLATE.read_text(encoding="utf-8").format(
        device=machine.device,
        torch=machine.torch,
        transformers=machine.transformers,
        peft=machine.peft,
        targets=targets(measured),
        rows=comparison(measured.rows) if measured.rows else "Not measured.",
        items=ITEMS,
        length=LENGTH,
        scale=at_scale(measured) if measured.scale else "Not measured.",
        profiles=step_profiles(measured) if measured.profiles else "Not measured.",
        why=why(measured),
        wall_time=wall_time,
    )
