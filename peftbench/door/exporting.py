"""The door to other tools."""

from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.door.given import Selection, selected, store_of
from peftbench.door.places import this_device
from peftbench.errors import InputError, unknown
from peftbench.experiment import Experiment
from peftbench.store import Store

if TYPE_CHECKING:
    from peftbench.exports.subject import Subject


def export(
    subject: Experiment | Path | str,
    to: str,
    out: Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    adapters: Path | str | None = None,
) -> list[Path]:
    """Write what another tool needs to train as a run or a tuned arm did, or a run's adapter as an
    ordinary LoRA file.

    subject: a run's id, its beginning or its key, or an experiment file (TOML) such as `search`
        writes, or an `Experiment`, of which `only` leaves one arm on one task.
    to: "peft", "trl", "llama-factory", "axolotl", "torchtune" or "unsloth": a recipe; "lora": the
        adapter, which must be a run's.
    out: the folder to write to. Nothing there is replaced.
    store: the folder of results, or a `Store`: where the run is, and what a tuned arm rests on.
    only: as in `run`; of several seeds the first is taken.
    adapters: for "lora": the folder that the run's adapter was saved below (`run(adapters=...)`).

    Returns the files. A recipe holds the run's own tokens in the order of its steps; its header
    says what it rests on and what is not as in the run. Raises InputError that names what the tool
    cannot say: nothing is approximated.

    Example:

        peftbench.export("experiments/tuned/study.toml", "peft", "recipe",
                         only={"method": "vera", "task": "sst2"})
    """
    from peftbench.exports.tools import TOOLS
    from peftbench.exports.write import adapter_files, recipe_files, write

    if to not in (known := [*TOOLS, "lora"]):
        raise unknown("tool in --to", to, known)
    if (to == "lora") != (adapters is not None):
        raise InputError("--to lora needs --adapters DIR, and nothing else does")
    exported = _subject(subject, store, only)
    if adapters is None:
        return write(Path(out), recipe_files(exported, TOOLS[to]))
    if exported.record is None:
        raise InputError("--to lora is for a run: name its id, since a file has no adapter")
    return write(Path(out), adapter_files(exported, Path(adapters)))


def _subject(
    subject: Experiment | Path | str, store: Store | Path | str, only: Selection | None
) -> "Subject":
    """The run, or the arm of a file with what the store knows of it."""
    from peftbench.exports.subject import of_arm, of_run

    kept = store_of(store)
    if isinstance(subject, Experiment) or str(subject).endswith(".toml"):
        name, _, part = selected(subject, only)
        return of_arm(name, part, kept.read_all(), this_device()[1])
    if only:
        raise InputError("--only is for an experiment file: a run is one arm on one task already")
    return of_run(kept.read(str(subject)))
