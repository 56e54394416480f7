"""The bytes of a step with real weights, to hold a forecast against."""

import torch

from peftbench.estimate.network import configuration
from peftbench.estimate.setting import Setting
from peftbench.estimate.trace import supervised_tokens
from peftbench.estimate.tuning import tuning_without_texts
from peftbench.methods import METHODS
from peftbench.training.fine_tuning import loaded_dtype
from peftbench.training.footprint import footprint
from peftbench.training.models import load


def tracked_peak(setting: Setting) -> int:
    """Peak bytes of the step on a CPU, with the model as a run loads it, by the tracker that
    records' numbers come from."""
    spec, (_, kind) = setting.spec(), configuration(setting)
    model = load(
        setting.model,
        kind,
        setting.labels,
        setting.pooling,
        setting.base,
        device=torch.device("cpu"),
        dtype=loaded_dtype(setting.precision, METHODS[setting.method].of(setting.args)),
        max_length=setting.length,
        precision=setting.precision,
    )
    return footprint(
        tuning_without_texts(spec, model, setting.lengths, supervised_tokens(setting))
    ).peak_bytes
