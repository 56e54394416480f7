"""Training step by step: records to a table of points, and what is read off a curve: smoothed and
final losses, steps to a loss."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from peftbench.record import Record

RUN = [
    "device",
    "device_name",
    "run_id",
]  # one run: other devices may have carried out the same spec
POINTS = [*RUN, "step", "train_loss", "valid_loss", "lr"]
Array = NDArray[np.float64]


def curves(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run and step, in their order, with the columns POINTS; losses are nll per
    supervised token, NaN where none was taken."""
    rows = [
        (
            record.device,
            record.environment.device_name,
            record.run_id,
            point.step,
            point.train_loss,
            point.valid_loss,
            point.lr,
        )
        for record in records
        for point in record.curve
    ]
    made = pd.DataFrame(rows, columns=POINTS).astype(
        {"train_loss": float, "valid_loss": float, "lr": float}
    )
    return made.groupby(
        [*RUN, "step"], sort=False, as_index=False
    ).first()  # the last step's two losses can stand in two points


def smoothed(values: Array, window: int) -> Array:
    """The mean of each value and its neighbours, `window` (odd) in all and as many on both sides,
    so that a straight line stays what it is; NaN near the ends, where there are not as many."""
    out = np.full(len(values), np.nan)
    half = window // 2
    if len(values) >= window:
        out[half : len(values) - half] = np.lib.stride_tricks.sliding_window_view(
            values, window
        ).mean(1)
    return out


def final_loss(points: pd.DataFrame, part: float = 0.1) -> pd.DataFrame:
    """The mean training loss over the last `part` of each run's steps (one step at least): the
    columns of RUN and `train_loss`."""
    rows: list[tuple[object, ...]] = []
    for _, members in points.dropna(subset=["train_loss"]).groupby(RUN, sort=False):
        steps, losses = members["step"].to_numpy(), members["train_loss"].to_numpy(float)
        rows.append(
            (
                *members[RUN].iloc[0],
                losses[steps > min((1 - part) * steps.max(), steps.max() - 1)].mean(),
            )
        )
    return pd.DataFrame(rows, columns=[*RUN, "train_loss"])


def steps_to_reach(steps: Array, losses: Array, target: float) -> float:
    """The first step whose loss is no larger than `target`; NaN if there is none."""
    reached = np.flatnonzero(losses <= target)
    return float(steps[reached[0]]) if reached.size else float("nan")
