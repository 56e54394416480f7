"""What a pruner would have saved and lost: a search over full-length trials whose curves are known,
told step by step."""

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState

Curve = Sequence[tuple[int, float]]  # (step, valid nll), the last one after the last step


@dataclass(frozen=True)
class Replay:
    """Of one search over all curves."""

    share: float  # of the steps that all trials at full length take
    # how much worse, relatively, the best trial that was not ended is than the best of all
    regret: float


def replay(curves: Sequence[Curve], pruner: BasePruner) -> Replay:
    """The search that sees the curves in this order, one after another."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(pruner=pruner)
    taken, kept = 0, []
    for curve in curves:
        trial = study.ask()
        end = next((step for step, nll in curve[:-1] if _ended(trial, step, nll)), None)
        if end is None:
            end, nll = curve[-1]
            kept.append(nll)
            study.tell(trial, nll)
        else:
            study.tell(trial, state=TrialState.PRUNED)
        taken += end
    best = min(curve[-1][1] for curve in curves)
    return Replay(taken / sum(curve[-1][0] for curve in curves), min(kept) / best - 1)


def _ended(trial: optuna.Trial, step: int, nll: float) -> bool:
    trial.report(nll, step)
    return trial.should_prune()
