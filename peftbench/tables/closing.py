"""The article's closing table: a technique, what it is recommended for, Hugging Face's support;
beside it what was measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peftbench.analysis.estimates import Arm, Predictions, best, compared, first, gather
from peftbench.analysis.frame import ARM, BLOCK, arms, distinct, settled
from peftbench.markup import AbstractTable, Section, Sheet
from peftbench.tables.cells import NONE, bracket, described, number, ranged, value
from peftbench.tables.peft_offers import Offers, installed, offers
from peftbench.wording import CLOSING, EMPTY, Lang, say

REFERENCE, LEVEL = "lora", 0.05
# The technique, what the article recommends it for, and the support it states.
STATED = {
    "lora": ("LoRA", "general fine-tuning, production", "complete"),
    "lora-fa": ("LoRA-FA", "little memory", "yes, needs custom work"),
    "vera": ("VeRA", "few samples, quick experiments", "community implementation"),
    "delta-lora": ("Delta-LoRA", "high-precision tasks (maths, code)", "experimental"),
    "lora+": ("LoRA+", "chasing the best result", "yes, by setting the learning rates"),
}
HEADER = ["technique", "recommended for", "best on", "better than LoRA on", "worse than LoRA on"]
HEADER += ["Hugging Face, as stated", "installed peft"]


@dataclass(frozen=True)
class Technique:
    """What was measured of a technique, by task."""

    highest: dict[str, bool] = field(
        default_factory=dict
    )  # tasks where it alone has the highest mean: whether by more than chance
    differences: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # to LoRA: the cells of stats.differences
    peak: dict[str, float] = field(default_factory=dict)  # relative to LoRA
    speed: dict[str, float] = field(default_factory=dict)  # relative to LoRA

    def on(self, verdict: Callable[[dict[str, Any]], bool]) -> list[str]:
        """The tasks whose difference to LoRA has a verdict."""
        return [task for task, row in self.differences.items() if verdict(row)]

    def best(self) -> list[str]:
        return [task for task, sure in self.highest.items() if sure]


@dataclass(frozen=True)
class Closing(AbstractTable):
    """The closing table; `peft` is what the installed package offers, None if there is none."""

    techniques: dict[str, Technique]
    tasks: tuple[str, ...]
    peft: Offers | None

    def sheet(self, lang: Lang) -> Sheet:
        header = [say(cell, lang) for cell in HEADER]
        if self.peft and self.peft.version:
            header[-1] += f" {self.peft.version}"
        rows = []
        for method, (name, recommended, support) in STATED.items():
            one = self.techniques[method]
            found = [
                ", ".join(tasks) or NONE for tasks in (one.best(), one.on(_better), one.on(_worse))
            ]
            rows.append(
                [
                    name,
                    say(recommended, lang),
                    *found,
                    say(support, lang),
                    self._offered(method, lang),
                ]
            )
        title = say("The article's closing table, measured", lang)
        closing = Section(
            title,
            "",
            header,
            rows,
            set(range(len(HEADER))),
            notes=[] if self.tasks else [say(EMPTY, lang)],
        )
        return Sheet(
            [closing, *([self._differences(lang)] if self.tasks else [])], say(CLOSING, lang), ""
        )

    def _differences(self, lang: Lang) -> Section:
        """A row per task: the highest mean, and the other techniques' differences to LoRA; then
        what they cost relative to it."""
        names = {method: name for method, (name, *_) in STATED.items()}
        others = [method for method in STATED if method != REFERENCE]
        rows, marked = [], set[tuple[int, int]]()
        for i, task in enumerate(self.tasks):
            top = next(
                (method for method in STATED if task in self.techniques[method].highest), None
            )
            cells = [self.techniques[method].differences.get(task) for method in others]
            rows.append([task, names[top] if top else NONE, *(_effect(cell) for cell in cells)])
            marked |= {(i, 1)} if top and self.techniques[top].highest[task] else set()
            marked |= {(i, j) for j, cell in enumerate(cells, 2) if cell and not _undecided(cell)}
        rows.append(
            [
                say("peak × LoRA", lang),
                NONE,
                *(ranged(self.techniques[method].peak.values()) for method in others),
            ]
        )
        rows.append(
            [
                say("tok/s × LoRA", lang),
                NONE,
                *(ranged(self.techniques[method].speed.values()) for method in others),
            ]
        )
        header = [
            say("task", lang),
            say("highest mean", lang),
            *(names[method] for method in others),
        ]
        return Section(say("Differences to LoRA", lang), "", header, rows, {0, 1}, marked)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "method": method,
                "technique": name,
                "recommended_for": recommended,
                "highest_on": list(self.techniques[method].highest),
                "best_on": self.techniques[method].best(),
                **{
                    f"{word}_on": self.techniques[method].on(verdict)
                    for word, verdict in (
                        ("better", _better),
                        ("worse", _worse),
                        ("undecided", _undecided),
                    )
                },
                "differences": {
                    task: {key: value("", cell) for key, cell in row.items()}
                    for task, row in self.techniques[method].differences.items()
                },
                "peak_relative": self.techniques[method].peak,
                "tokens_per_second_relative": self.techniques[method].speed,
                "support_stated": support,
                "peft_version": self.peft and self.peft.version,
                "peft_offers": self.peft and self.peft.of(method),
            }
            for method, (name, recommended, support) in STATED.items()
        ]

    def _offered(self, method: str, lang: Lang) -> str:
        if self.peft is None:
            return say("peft is not installed", lang)
        return ", ".join(self.peft.of(method)) or say("nothing of this name", lang)


def closing(
    runs: pd.DataFrame,
    predictions: Predictions | None = None,
    rng: np.random.Generator | None = None,
    peft: Callable[[], Path | None] = installed,
) -> Closing:
    """The article's closing table with each cell measured, over all blocks of a frame but trials of
    searches.

    predictions, rng: as for `comparison`. peft: says where the package to read is; by default the
    installed one.
    """
    kept, _ = settled(runs)
    done = distinct(kept).query("status == 'done'")
    means = {tuple(row[name] for name in ARM): row for row in arms(done).to_dict("records")}
    techniques: dict[str, Technique] = {method: Technique() for method in STATED}
    blocks = [
        {method: arm for method in STATED if (arm := first(block, method))}
        for block in gather(kept, predictions)
    ]
    blocks = [block for block in blocks if block]
    names = _names([next(iter(block.values())).about for block in blocks])
    for name, block in zip(names, blocks, strict=True):
        _measure(techniques, block, name, means, rng)
    return Closing(techniques, tuple(names), offers(peft()))


def _measure(
    techniques: dict[str, Technique],
    present: dict[str, Arm],
    task: str,
    means: dict[tuple[Any, ...], Any],
    rng: np.random.Generator | None,
) -> None:
    """Fill in what one block says."""
    evidence = [arm.metric for arm in present.values()]
    known = {
        method: float(each.values.mean()) for method, each in zip(present, evidence, strict=True)
    }
    top = [
        method for method, mean in known.items() if mean == max(known.values())
    ]  # none if one is NaN
    if len(known) > 1 and len(top) == 1:
        techniques[top[0]].highest[task] = best(evidence, 1.0) is not None
    lora = present.get(REFERENCE)
    if lora is None:
        return
    others = {method: arm for method, arm in present.items() if method != REFERENCE}
    for method, row in zip(
        others,
        compared([arm.metric for arm in others.values()], lora.metric, 1.0, rng),
        strict=True,
    ):
        techniques[method].differences[task] = row
    base = means[tuple(lora.about[name] for name in ARM)]
    for method, arm in others.items():
        own = means[tuple(arm.about[name] for name in ARM)]
        for found, name in (
            (techniques[method].peak, "peak_bytes"),
            (techniques[method].speed, "tokens_per_second"),
        ):
            if base[name] > 0 and own[name] > 0:  # false for NaN
                found[task] = own[name] / base[name]


def _names(abouts: Sequence[dict[str, Any]]) -> list[str]:
    """Each block's task, with what tells it from the other blocks of that task."""
    names = []
    for about in abouts:
        same = [other for other in abouts if other["task"] == about["task"]]
        differing = {name for name in BLOCK if len({other[name] for other in same}) > 1}
        names.append(", ".join([about["task"], *described(about, differing)]))
    return names


def _better(row: dict[str, Any]) -> bool:
    return row["p_holm"] <= LEVEL and row["difference"] > 0


def _worse(row: dict[str, Any]) -> bool:
    return row["p_holm"] <= LEVEL and row["difference"] < 0


def _undecided(row: dict[str, Any]) -> bool:
    return not (_better(row) or _worse(row))


def _effect(row: dict[str, Any] | None) -> str:
    return (
        NONE
        if row is None
        else number(row["difference"], "+.4f") + bracket(row["low"], row["high"], "+.3f")
    )
