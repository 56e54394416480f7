"""Signs of life: a running trial's worker leaves one now and then, and others judge by their own
clocks for how long there has been none (silence.py). Any storage can keep them."""

import time
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from peftbench.tuning.storage_errors import of_server

BEAT_SECONDS = 20  # between two signs of life
SILENT_SECONDS = 120  # without one, after which a worker is taken for dead
GAP_SECONDS = 20  # between two looks at a trial, after which a silence is counted anew


class Heart:
    """Leaves signs of life in a running trial."""

    def __init__(self, storage: BaseStorage, trial_id: int) -> None:
        self._storage, self._trial_id = storage, trial_id
        self._last = time.monotonic()

    def beat(self) -> None:
        """Leave one if it is time for it. A run goes on if that is impossible: its record in the
        store counts, whatever becomes of the trial meanwhile."""
        if time.monotonic() - self._last < BEAT_SECONDS:
            return
        self._last = time.monotonic()
        try:
            # nobody compares it with another clock: it only has to be another value each time
            self._storage.set_trial_user_attr(self._trial_id, "beat", time.time())
        except UpdateFinishedTrialError:
            pass
        except Exception as error:
            if not (of_server(error) or isinstance(error, OSError)):
                raise


def mark_of(trial: FrozenTrial) -> Any:
    """What changes whenever a running trial's worker lives, or it has another one."""
    return trial.datetime_start, trial.user_attrs.get("worker"), trial.user_attrs.get("beat")
