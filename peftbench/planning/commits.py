"""Which commit of a hub model is planned for where the hub cannot be asked."""

from collections.abc import Callable, Sequence

from peftbench.errors import InputError
from peftbench.record import Record
from peftbench.shapes import known_shape
from peftbench.spec import is_commit, split_revision
from peftbench.training.revisions import resolve
from peftbench.wording import model_name


def commit_of(records: Sequence[Record], say: Callable[[str], object]) -> Callable[[str], str]:
    """What says `id@commit` of a model: the hub; else the latest runs in a store; else, of a model
    that is known by its shape, the bare id, which no run in a store has.

    say: called with a line where it is not the hub.
    """

    def named(model: str) -> str:
        try:
            return resolve(model)
        except InputError:
            name, revision = split_revision(model)
            if revision is not None:
                raise
            if runs := [record for record in records if _is_commit_of(record.spec.model, name)]:
                latest = max(runs, key=lambda record: record.started).spec.model
                say(f"{name}: the hub did not answer: {model_name(latest)}, as in the store")
                return latest
            if known_shape(name) is None:
                raise
            say(f"{name}: the hub did not answer, and the store has no runs: by its known shape")
            return name

    return named


def _is_commit_of(model: str, name: str) -> bool:
    base, revision = split_revision(model)
    return base == name and is_commit(revision)
