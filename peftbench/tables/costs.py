"""What each method costs: parameters, bytes, seconds, a block for each model, task, device and
software stack."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from peftbench.analysis.frame import BLOCK, PARTS, arms, distinct, settled
from peftbench.markup import AbstractTable, Section, Sheet
from peftbench.tables.cells import count, mebibytes, number, per_cent, ranged, share, stored, value
from peftbench.tables.comparison import by_block, left_out_note, titles
from peftbench.wording import COSTS, EMPTY, ONLY_TRIALS, Lang, say

REFERENCE = "lora"
MEASURES = [
    "trained_params",
    "head_params",
    "updatable_params",
    "total_params",
    "adapter_file_bytes",
    "peak_bytes",
    *PARTS,
]
SPEEDS = [
    "tokens_per_second",
    "step_seconds",
    "utilization",
    "latency.base",
    "latency.adapted",
    "latency.merged",
]
HEADER = [
    "method",
    "trained",
    "%",
    "updated",
    "adapter",
    "peak MiB",
    *(part.removeprefix("peak.") for part in PARTS),
]
HEADER += ["tok/s", "× lora", "ms/step", "utilization", "adapted/base", "merged/base"]


@dataclass(frozen=True)
class Costs(AbstractTable):
    """Rows of frame.arms by block, each with `relative`, `adapted` and `merged`: its seeds' ratios."""

    blocks: tuple[tuple[dict[str, Any], list[dict[str, Any]]], ...]
    trials: int
    studies: int

    def sheet(self, lang: Lang) -> Sheet:
        empty = say(ONLY_TRIALS, lang, self.trials) if self.trials else say(EMPTY, lang)
        sections = []
        for about, members in self.blocks:
            title, circumstances = titles(about, lang)
            header = [cell if cell == "%" else say(cell, lang) for cell in HEADER]
            sections.append(
                Section(title, circumstances, header, [_cells(arm) for arm in members], {0})
            )
        return Sheet(
            sections, say(COSTS, lang), empty, left_out_note(self.trials, self.studies, lang)
        )

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                **{name: about[name] for name in BLOCK if name != "data"},
                "method": arm["method"],
                "label": arm["label"],
                "seeds": arm["seeds"],
                "trained_per_cent": value("", share(arm)),
                **{name: value(name, arm[name]) for name in [*MEASURES, *SPEEDS]},
                **{
                    name: [value("", each) for each in arm[name]]
                    for name in ("relative", "adapted", "merged")
                },
            }
            for about, members in self.blocks
            for arm in members
        ]


def costs(runs: pd.DataFrame) -> Costs:
    """The costs of all arms that have a run that is done, but for the trials of searches.

    Ratios are taken run by run, and to LoRA seed by seed: runs of one seed stand next to each other
    in time.
    """
    kept, trials = settled(runs)
    done = distinct(kept).query("status == 'done'")
    each = by_block(done)
    found = by_block(arms(done))
    blocks = []
    for key, members in found.items():
        of: dict[str, list[dict[str, Any]]] = {}
        for run in each[key]:
            of.setdefault(run["arm"], []).append(run)
        reference = next((of[arm["arm"]] for arm in members if arm["method"] == REFERENCE), [])
        speed = {run["seed"]: run["tokens_per_second"] for run in reference}
        for arm in members:
            own = of[arm["arm"]]
            arm["relative"] = [
                run["tokens_per_second"] / speed[run["seed"]]
                for run in own
                if speed.get(run["seed"])
            ]
            arm |= {name: [_ratio(run, name) for run in own] for name in ("adapted", "merged")}
        blocks.append((dict(zip(BLOCK, key, strict=True)), members))
    return Costs(tuple(blocks), len(trials), len(set(trials["study"])))


def _ratio(run: dict[str, Any], name: str) -> float:
    base = run["latency.base"]
    return run[f"latency.{name}"] / base if base else np.nan


def _cells(arm: dict[str, Any]) -> list[str]:
    return [
        arm["label"],
        count(arm["trained_params"]),
        per_cent(arm),
        count(arm["updatable_params"]),
        stored(arm["adapter_file_bytes"]),
        mebibytes(arm["peak_bytes"]),
        *(mebibytes(arm[part]) for part in PARTS),
        number(arm["tokens_per_second"], ",.0f"),
        ranged(arm["relative"]),
        number(1000 * arm["step_seconds"], ",.1f"),
        number(arm["utilization"], ".0%"),
        ranged(arm["adapted"]),
        ranged(arm["merged"]),
    ]
