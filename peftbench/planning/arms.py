"""What is planned: each arm of an experiment, or each study of a search, on each task and model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.analysis.blocks import grouped
from peftbench.analysis.labels import spec_labels
from peftbench.analysis.like_runs import in_common
from peftbench.errors import InputError
from peftbench.experiment import Experiment, expand
from peftbench.methods import METHODS
from peftbench.record import Record
from peftbench.spec import Precision, RunSpec
from peftbench.tasks import TASKS
from peftbench.tuning.space import corners
from peftbench.tuning.studies import Study, studies


@dataclass(frozen=True, kw_only=True)
class PlannedArm:
    """Runs that differ in their seeds and, in a search, in what their trials draw."""

    specs: tuple[RunSpec, ...]  # one for each training step that may be the largest
    seeds: int
    trials: int | None = None  # None: no search
    varied: frozenset[str] = frozenset()  # dotted keys that trials draw
    run_ids: frozenset[str] = frozenset()  # of all runs; empty: not known before they are drawn
    study: str | None = None  # the name of the study, which its runs' records have

    @property
    def spec(self) -> RunSpec:
        """Of a first run."""
        return self.specs[0]

    @property
    def runs(self) -> int:
        return self.seeds * (1 if self.trials is None else self.trials)

    def stored(self, records: Iterable[Record]) -> list[Record]:
        """The records that the planned runs have already, one for each run, whichever device it was
        carried out on; done rather than not."""
        own: dict[tuple[object, ...], Record] = {}
        for record in records:
            run = self._run(record)
            if run and (run not in own or own[run].status != "done"):
                own[run] = record
        return list(own.values())

    def _run(self, record: Record) -> tuple[object, ...] | None:
        """What tells a planned run from the others; None: the record is of no planned run."""
        if record.run_id in self.run_ids:
            return (record.run_id,) if record.status != "pruned" else None
        study = record.spec.study
        if study is None or self.study is None or study.name != self.study:
            return None
        return None if study.trial is None else (study.trial, record.spec.seed)


def planned(
    experiment: Experiment, stem: str, settings: Mapping[str, Any], precision: Precision
) -> list[PlannedArm]:
    """Of an experiment, or of a search. stem: of its file. Raises InputError."""
    if not experiment.search:
        return _of_experiment(experiment, settings, precision)
    if settings:
        raise InputError("--set: a search takes none: write the values into its file")
    return [_of_study(study) for study in studies(experiment, stem, precision) if study.dimensions]


def later_runs(experiment: Experiment) -> int:
    """On test, of the file that a search writes."""
    if experiment.search is None:
        return 0
    return len(experiment.arm) * len(experiment.task) * experiment.search.test_seeds


def _of_experiment(
    experiment: Experiment, settings: Mapping[str, Any], precision: Precision
) -> list[PlannedArm]:
    """Each arm on each task and model, all seeds together."""
    specs = expand(experiment, METHODS, TASKS, settings.items(), auto_precision=precision)
    arms = grouped(specs, lambda spec: spec.model_copy(update={"seed": 0}).run_id)
    return [
        PlannedArm(
            specs=(runs[0],), seeds=len(runs), run_ids=frozenset(spec.run_id for spec in runs)
        )
        for runs in arms.values()
    ]


def _of_study(study: Study) -> PlannedArm:
    """The points of a grid are known before it begins, and so are its runs."""
    runs = study.runs({})
    specs = {in_common(spec): spec for spec in (runs[0], study.runs(_highest(study))[0])}
    points = study.points() if study.sampler == "grid" else []
    return PlannedArm(
        specs=tuple(specs.values()),
        seeds=len(runs),
        trials=study.search.trials,
        varied=frozenset(study.dimensions),
        run_ids=frozenset(spec.run_id for point in points for spec in study.runs(point)),
        study=study.name,
    )


def _highest(study: Study) -> dict[str, float]:
    """The highest values of all that the study draws: of a rank or a batch, the largest step."""
    grids = {key: max(of) for key, of in study.dimensions.items() if isinstance(of, tuple)}
    return {**corners(study.dimensions)[-1], **grids}


def labels(arms: Sequence[PlannedArm]) -> list[str]:
    """What each arm is called among those on the same model and task."""
    names: dict[int, str] = {}
    places = grouped(range(len(arms)), lambda i: (arms[i].spec.model, arms[i].spec.task))
    for indices in places.values():
        names |= spec_labels({i: arms[i].spec for i in indices})
    return [names[i] for i in range(len(arms))]
