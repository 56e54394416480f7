"""Which commit of a hub model a run uses. It is settled before the runs are, since it is a part of
their ids."""

from collections.abc import Callable
from pathlib import Path

from peftbench import assets
from peftbench.errors import InputError, first_line
from peftbench.experiment import Experiment
from peftbench.spec import is_commit, split_revision


def pinned(experiment: Experiment, commit_of: Callable[[str], str] | None = None) -> Experiment:
    """The experiment with the commit of each hub model in its name. commit_of: what says
    `id@commit` of a model; None: `resolve`. Raises InputError."""
    names = {entry.model or experiment.model for entry in experiment.task} - {None, ""}
    commits = {name: (commit_of or resolve)(name) for name in sorted(filter(None, names))}
    entries = [
        entry.model_copy(update={"model": commits.get(entry.model or "")})
        for entry in experiment.task
    ]
    model = commits.get(experiment.model or "", experiment.model)
    return experiment.model_copy(update={"task": tuple(entries), "model": model})


def resolve(model: str) -> str:
    """`id@commit` for a hub id or `id@revision`: what the hub says, or without a network the
    cache. A packaged model, a local folder and a commit stay as they are. Raises InputError."""
    if model in assets.MODELS or is_folder(model):
        return model
    name, revision = split_revision(model)
    if is_commit(revision):
        return model
    import huggingface_hub  # takes a second

    huggingface_hub.logging.set_verbosity_error()  # the error below says it in one line
    try:
        commit = huggingface_hub.resolve_revision(name, revision=revision).resolved
    # without a network or in offline mode, the type depends on the HTTP client
    except Exception as error:
        raise unavailable(model, error) from error
    return f"{name}@{commit}"


def is_folder(name: str) -> bool:
    """Whether a model's name is that of a folder here; a name that no file can have is not."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def unavailable(model: str, error: Exception) -> InputError:
    """The error for a model that neither this machine nor the hub has, with what would be right."""
    known = ", ".join(sorted(assets.MODELS))
    return InputError(
        f"model {model!r}: not a local folder, and not available from the hub as ID or "
        f"ID@REVISION (packaged models: {known}): {first_line(error)}"
    )
