"""Numbers as people read them, and what the runs of a block agree in."""

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from peftbench.analysis.frame import MEASURED, PARTS, PEAKS
from peftbench.spec import DataSpec
from peftbench.wording import Lang, say

NONE = "–"
WHOLE = {*(name for name in MEASURED if name.endswith(("_params", "_bytes", ".n"))), *PARTS, *PEAKS}
WHOLE |= {"flops_per_step", "train.eval_every", "trials"}


def human(count: float) -> str:
    """A count in at most three significant digits: 663.6 k is 664 k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * limit:
            return f"{_three(count / limit)} {unit}"
    return f"{count:.0f}"


def size(count: float) -> str:
    """Bytes with a binary unit."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 0.9995 * 1024**power:
            return f"{_three(count / 1024**power)} {unit}"
    return f"{count:.0f} B"


def _three(value: float) -> str:
    """Three significant digits, and never an exponent."""
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def number(value: float, format: str) -> str:
    return NONE if pd.isna(value) else f"{value:{format}}"


def mebibytes(value: float) -> str:
    return number(value / 2**20, ",.1f")


def count(value: float) -> str:
    return NONE if pd.isna(value) else human(value)


def stored(value: float) -> str:
    return NONE if pd.isna(value) else size(value)


def bracket(low: float, high: float, format: str) -> str:
    """An interval behind a mean; nothing where there is none."""
    return "" if pd.isna(low) or pd.isna(high) else f" [{low:{format}}, {high:{format}}]"


def ranged(values: Iterable[float], format: str = ".2f") -> str:
    """A mean, and the range of several values if they are not the same as printed: `1.02
    (0.99–1.05)`."""
    known = [value for value in values if not pd.isna(value)]
    if not known:
        return NONE
    low, high = f"{min(known):{format}}", f"{max(known):{format}}"
    return f"{sum(known) / len(known):{format}}" + (f" ({low}–{high})" if low != high else "")


def share(arm: dict[str, Any]) -> float:
    """The trained parameters in per cent of the model's, the head left out of both."""
    return 100 * arm["trained_params"] / (arm["total_params"] - arm["head_params"])


def per_cent(arm: dict[str, Any]) -> str:
    part = share(arm)
    return number(part, ".3g" if part < 10 else ".1f")


def described(about: dict[str, Any], names: Iterable[str], lang: Lang = "en") -> list[str]:
    """What some of the columns of frame.BLOCK say, in words; the task itself is a title and not
    among them."""
    limits = {
        key: value
        for key, value in json.loads(about["data"]).items()
        if value != getattr(DataSpec(), key)
    }
    place = f"{about['device']}: {about['device_name']}"
    words = {
        "model": about["model"],
        "split": say("{0} split", lang, about["split"]),
        "task_version": say("task version {0}", lang, about["task_version"]),
        "data": ", ".join(f"{key}={value}" for key, value in limits.items())
        or say("all data", lang),
        "device": place,
        "device_name": place,
        "stack": about["stack"],
    }
    return list(dict.fromkeys(words[name] for name in words if name in set(names)))


def value(name: str, cell: Any) -> Any:
    """A cell as JSON has it: None for what is unknown, a whole number where only such make sense."""
    if pd.isna(cell):
        return None
    whole = isinstance(cell, float) and cell.is_integer() and name in WHOLE
    return int(cell) if whole else cell
