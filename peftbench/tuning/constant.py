"""Whether anything was learned in a study: whether a trial beats the best constant predictor."""

import math

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from peftbench.metrics.constant import constant_nlls
from peftbench.tasks import TASKS
from peftbench.tuning.storage import Search
from peftbench.tuning.studies import Study

ERRORS = 2  # standard errors over examples by which a gain must lie above zero


def any_learned(search: Search, study: Study) -> bool | None:
    """Whether the valid nll of any trial of the study is lower than that of the best constant
    predictor, by more than its examples' spread would give. None where that is unknown: answers are
    generated, no trial has come to its end, or a trial has no predictions in the store.

    Raises InputError if predictions were changed.
    """
    if TASKS[study.task.name].kind == "generation":
        return None
    complete = [trial for trial in search.trials(study) if trial.state is TrialState.COMPLETE]
    for trial in sorted(complete, key=lambda trial: trial.values[0]):
        gains = _gains(search, study, trial)
        if gains is None:
            return None
        if gains.mean() > ERRORS * gains.std() / math.sqrt(len(gains)):
            return True
    return False if complete else None


def _gains(search: Search, study: Study, trial: FrozenTrial) -> np.ndarray | None:
    """How much lower a trial's nll of each example is than the constant predictor's, a mean over
    the seeds, which see the same examples: (examples,)."""
    targets, nlls = np.empty(0), []
    for spec in study.runs(trial.params):
        key = f"{search.folder}/{spec.run_id}"
        record = search.store.find(key)
        if record is None or record.predictions is None:
            return None
        table = search.store.predictions(key)
        targets = table["target"].to_numpy(float)
        nlls.append(table["nll"].to_numpy(float))
    regression = TASKS[study.task.name].kind == "regression"
    return constant_nlls(targets, regression=regression) - np.mean(nlls, axis=0)
