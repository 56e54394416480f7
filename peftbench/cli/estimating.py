"""`peftbench estimate`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from peftbench.cli.typed import one_line, say, show, typed_path, typed_settings
from peftbench.output import ensure_writable, write_whole
from peftbench.spec import Base, Precision

EXAMPLE = "Example: peftbench estimate --model Llama-2-7b-hf --method lora --batch 4 --length 768"
File = Annotated[
    Path | None,
    typer.Argument(
        help="An experiment file: all of its arms, in place of --model and the step's options.",
        parser=typed_path,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="A well-known model (peftbench list shapes), a folder with a config.json, or a hub "
        "id, of which the configuration alone is fetched."
    ),
]
Methods = Annotated[list[str] | None, typer.Option(help="A method; again for more. [every one]")]
Rank = Annotated[int | None, typer.Option(help="The rank. [the method's own]")]
Targets = Annotated[
    str | None, typer.Option(help="Linear layers, such as q_proj,v_proj. [all-linear]")
]
Others = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE, another hyperparameter, such as dropout=0.05."),
]
Batch = Annotated[int, typer.Option(min=1, help="Examples of a step, on each GPU.")]
MicroBatch = Annotated[
    int | None, typer.Option(min=1, help="Of them, on the GPU at a time. [the whole batch]")
]
Length = Annotated[int, typer.Option(min=2, help="Tokens of the longest example.")]
Supervised = Annotated[
    int | None, typer.Option(min=1, help="Of them, the answer's. [nearly all of them]")
]
HowPrecise = Annotated[Precision, typer.Option(help="What is float32 and what bfloat16.")]
HowKept = Annotated[Base, typer.Option(help="How frozen weights are kept.")]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Each transformer block is computed twice.")
]
Attention = Annotated[
    Literal["fused", "math"],
    typer.Option(help="fused: by a kernel that keeps no scores; math: with all scores."),
]
Optimizer = Annotated[
    Literal["fused", "foreach"],
    typer.Option(help="The form of AdamW; foreach is torch's default on CUDA."),
]
GPUs = Annotated[int, typer.Option(min=1, help="How many GPUs.")]
Sharding = Annotated[
    Literal["replicated", "full"],
    typer.Option(help="replicated: everything on each GPU (DDP); full: divided (FSDP)."),
]
Implementation = Annotated[
    Literal["ours", "peft"],
    typer.Option(help="peft: transformers' own network and loss with peft's layers."),
]
Fits = Annotated[
    float | None,
    typer.Option(help="GiB of a GPU: the largest step of each method that fits into them."),
]
Largest = Annotated[
    Literal["micro-batch", "length", "rank"],
    typer.Option(help="With --fits: what is made as large as it can be."),
]
Grid = Annotated[
    Path | None,
    typer.Option(
        help="Write the forecasts of all methods, for --model or seven sizes of Qwen2.5, to this "
        "file, which paper_figures/fig_memory_at_scale.py --grid draws.",
        parser=typed_path,
        metavar="<path>",
    ),
]
HowPrinted = Annotated[Literal["text", "json"], typer.Option(help="How to print it.")]


def estimate_command(
    file: File = None,
    model: Model = None,
    method: Methods = None,
    rank: Rank = None,
    targets: Targets = None,
    others: Others = None,
    batch: Batch = 4,
    micro_batch: MicroBatch = None,
    length: Length = 512,
    supervised: Supervised = None,
    precision: HowPrecise = "bf16-mixed",
    base: HowKept = "plain",
    checkpointing: Checkpointing = False,
    attention: Attention = "fused",
    optimizer: Optimizer = "fused",
    gpus: GPUs = 1,
    sharding: Sharding = "replicated",
    implementation: Implementation = "ours",
    fits: Fits = None,
    largest: Largest = "micro-batch",
    grid: Grid = None,
    format: HowPrinted = "text",
) -> None:
    """Say what a step of training takes on a machine that you do not have: parameters, bytes with
    their parts, FLOPs, without weights and without a GPU.
    """
    from peftbench.estimate import asked

    step: dict[str, Any] = {"batch": batch, "micro_batch": micro_batch, "length": length}
    step |= {"supervised": supervised, "precision": precision, "base": base}
    step |= {"checkpointing": checkpointing}
    machine: dict[str, Any] = {"attention": attention, "optimizer": optimizer, "gpus": gpus}
    machine |= {"sharding": sharding, "implementation": implementation}
    arguments = typed_settings(others)
    arguments |= {} if rank is None else {"rank": rank}
    if targets is not None:
        arguments["targets"] = targets if targets == "all-linear" else targets.split(",")
    if grid is not None:
        _write_grid(grid, model, asked.for_methods("", method or [], arguments, step | machine))
        return
    settings = asked.settings(file, model, method or [], arguments, step, machine)
    if fits is None:
        _estimate(settings, format)
    else:
        _fit(settings, largest, fits, format)


def _estimate(settings: list[Any], format: str) -> None:
    from peftbench.estimate import answers
    from peftbench.estimate.forecast import forecast

    made = [forecast(setting) for setting in settings]
    if format == "json":
        show(json.dumps([answers.as_data(each) for each in made], indent=2))
    elif len(made) == 1:
        say(answers.described(made[0]))
    else:
        show(answers.table(made))


def _fit(settings: list[Any], largest: Any, gib: float, format: str) -> None:
    from peftbench.estimate import fits

    made = fits.all_that_grow(settings, largest, gib)
    if format == "json":
        show(json.dumps([*map(asdict, made)], indent=2))
    else:
        show(fits.table(made))


def _write_grid(file: Path, model: str | None, settings: list[Any]) -> None:
    from peftbench.at_scale import written
    from peftbench.estimate import grid

    ensure_writable(file)
    rows = grid.grid([model] if model else grid.MODELS, settings, lambda text: say(one_line(text)))
    write_whole(file, written(rows).encode())
    say(f"{file}: {len(rows)} forecasts")
