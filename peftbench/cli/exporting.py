"""`peftbench export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from peftbench.cli.typed import RESULTS, StoreOption, say, typed_only, typed_path
from peftbench.door import exporting

EXPORT_EXAMPLE = (
    "Example: peftbench export experiments/tuned/study.toml --only method=vera,task=sst2 "
    "--to peft --out recipe"
)


def export_command(
    subject: Annotated[
        str,
        typer.Argument(
            help="A run id or its beginning, or an experiment file such as `peftbench search` "
            "writes (TOML)."
        ),
    ],
    to: Annotated[
        Literal["peft", "trl", "llama-factory", "axolotl", "torchtune", "unsloth", "lora"],
        typer.Option(help="The tool; lora: the run's adapter as an ordinary LoRA file."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The folder to write to; nothing there is replaced.",
            parser=typed_path,
            metavar="<path>",
        ),
    ],
    store: StoreOption = RESULTS,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a file, one arm on one task: method=, task=, model= or seed=, separated by "
            "commas."
        ),
    ] = None,
    adapters: Annotated[
        Path | None,
        typer.Option(
            help="Of --to lora: the folder that `peftbench run --adapters` saved the run's "
            "adapter below.",
            parser=typed_path,
            metavar="<path>",
        ),
    ] = None,
) -> None:
    """Write a run or a tuned arm as a recipe that another tool accepts: its file or script, and the
    run's own tokens in the order of its steps.

    What the tool cannot say is an error, never an approximation; what cannot be the same bit for
    bit stands in the file's header, with the records that it rests on.
    """
    paths = exporting.export(subject, to, out, store, only=typed_only(only), adapters=adapters)
    for path in paths:
        say(str(path))
