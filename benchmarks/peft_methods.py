"""Every method of the installed huggingface/peft, tried on a tiny encoder and a tiny decoder:

    python benchmarks/peft_methods.py --write docs/peft_methods.md [--store results]

What is declared to be trained against what requires a gradient at every step and what changes, the
output at the start against the plain model's, whether a seed changes the initial values, whether
the file restores the outputs, whether merging keeps them; parameters, bytes, and the time of a step
beside LoRA's. The page's text is peft_methods_page.md beside this file. --store: a store with the
runs of experiments/cpu_peft_methods.toml, whose table the page gets.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import torch
from jinja2 import Environment, StrictUndefined
from pandas import DataFrame
from torch import Tensor

from peftbench.doctor.models import decoder, encoder, spec
from peftbench.door import stored
from peftbench.errors import InputError, UnsupportedError
from peftbench.methods import files
from peftbench.methods.linear import replaced
from peftbench.methods.peft_method import peft_types
from peftbench.servable.arms import servable
from peftbench.spec import RunSpec
from peftbench.tasks import TASKS
from peftbench.training.fine_tuning import FineTuning, set_up
from peftbench.training.footprint import footprint
from peftbench.training.loop import InvariantError, train
from peftbench.training.models import load
from peftbench.training.run import never
from peftbench.wording import size

CPU = torch.device("cpu")
TEXT = Path(__file__).with_name("peft_methods_page.md")
# What peft's defaults do not fit in models as small as these: the smallest change that does.
ARGS: Mapping[str, dict[str, Any]] = {
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1},
    "C3A": {"block_size": 16},
    "FOURIERFT": {"n_frequency": 64},
    "MISS": {"r": 8},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "PSOFT": {"r": 8},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 32},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [100, 101, 104]},
    "VBLORA": {"vector_length": 16, "num_vectors": 32},
    "WAVEFT": {"n_frequency": 64},
}
# LoRA with other initial values or another form, by their names.
LORA: Mapping[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "eva": {"init_lora_weights": "eva", "eva_config": {}},
    "corda": {"init_lora_weights": "corda", "corda_config": {}},
    "lora_ga": {"init_lora_weights": "lora_ga", "lora_ga_config": {}},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "bias": {"bias": "all"},
}
# The methods that promise no more than to begin near the plain model, or not even that.
STARTS_ELSEWHERE = {
    *("ADAPTION_PROMPT", "C3A", "FOURIERFT", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"),
    *("UNILORA", "VBLORA"),
}
LAYER_NORMS = {"decoder": ["input_layernorm", "post_attention_layernorm"], "encoder": ["LayerNorm"]}
OWN_TARGETS = {"ADAPTION_PROMPT", "TRAINABLE_TOKENS"}
CLOSE = 1e-4  # of logits of about 1 to 30, after sums in another order
Status = Literal["works", "skipped", "wrong"]
Which = Literal["encoder", "decoder"]
TASK: dict[Which, str] = {"encoder": "reviews", "decoder": "gsm_symbolic"}


@dataclass(frozen=True)
class Tried:
    """What came of a method on a model."""

    name: str
    model: Which
    status: Status
    why: str = ""
    params: int | None = None  # trained, without the head
    starts: float | None = None  # largest difference of a logit from the plain model's
    seeded: str = ""  # how many of the file's tensors another seed changes
    restored: float | None = None  # largest difference of a logit
    merged: float | None = None  # likewise; None: peft cannot merge
    served: str = ""  # what serves the adapter
    peak_bytes: int | None = None
    step_seconds: float | None = None


def arms() -> dict[str, dict[str, Any]]:
    """The args of every method of peft, and of LoRA's variants, by their names."""
    own = {kind: {"peft_type": kind, **ARGS.get(kind, {})} for kind in peft_types()}
    variants = {
        f"LORA ({name})": {"peft_type": "LORA", **changes} for name, changes in LORA.items()
    }
    return own | variants


def run_spec(scratch: Path, args: Mapping[str, Any], which: Which) -> RunSpec:
    """A short run. Raises InputError."""
    kind = args["peft_type"]
    fields = peft_types()[kind].__dataclass_fields__
    targets: dict[str, Any] = {}
    if kind == "LN_TUNING":
        targets = {"target_modules": LAYER_NORMS[which]}
    elif "target_modules" in fields and kind not in OWN_TARGETS:
        targets = {"target_modules": "all-linear"}
    make: Callable[[Path], str] = {"encoder": encoder, "decoder": decoder}[which]
    return spec(make(scratch), "peft", TASK[which], **{**targets, **args})


def tried(scratch: Path, name: str, args: Mapping[str, Any], which: Which) -> Tried:
    """Try a method. scratch: a folder for models and adapters."""
    try:
        wanted = run_spec(scratch, args, which)
        with warnings.catch_warnings(action="ignore"):
            tuning = set_up(wanted, CPU)
    except UnsupportedError as error:
        return Tried(name, which, "skipped", str(error).removeprefix("peft: "))
    found = _examined(scratch, wanted, tuning, Tried(name, which, "works"))
    wrong = _wrong(found, args["peft_type"])
    return replace(found, status="wrong", why=wrong) if wrong else found


def _examined(scratch: Path, wanted: RunSpec, tuning: FineTuning, found: Tried) -> Tried:
    plain, starts = _start(wanted, tuning)
    seeded = _seeded(wanted, tuning)
    before = {n: t.detach().clone() for n, t in tuning.model.net.state_dict().items()}
    try:
        log = train(tuning, never)
    except InvariantError as error:
        return replace(found, status="wrong", why=str(error))
    undeclared = _undeclared(tuning, before)
    trained = logits(tuning)
    size_of = footprint(tuning)
    return replace(
        found,
        why=undeclared,
        params=size_of.trained_params,
        starts=starts,
        seeded=seeded,
        restored=_restored(scratch, wanted, tuning, plain, trained),
        merged=_merged(tuning, trained),
        served=servable(wanted, head=bool(tuning.model.head)).words()["en"],
        peak_bytes=size_of.peak_bytes,
        step_seconds=median(log.step_seconds),
    )


def logits(tuning: FineTuning, net: Any = None) -> Tensor:
    """Of a few examples; net: another network."""
    batch = tuning.model.collate(tuning.data["train"].items[:3])
    net = (net or tuning.model.net).eval()
    with torch.inference_mode():
        return net(**batch.inputs).logits.clone()


def plain_net(wanted: RunSpec) -> Any:
    """The network before the method."""
    task = TASKS[wanted.task]
    model = load(
        *(wanted.model, task.kind, len(task.labels) or 1),
        device=CPU,
        dtype=torch.float32,
        max_length=wanted.data.max_length,
    )
    return model.net


def _start(wanted: RunSpec, tuning: FineTuning) -> tuple[Any, float | None]:
    """The plain network with the same head, and how far the method begins from it. None: its inputs
    are longer."""
    plain = plain_net(wanted)
    for name in tuning.model.head:
        head = plain.get_submodule(name)
        head.load_state_dict(tuning.model.net.get_submodule(name).state_dict())
    if getattr(tuning.model, "virtual", []):
        return plain, None
    batch = tuning.model.collate(tuning.data["train"].items[:3])
    inputs = dict(batch.inputs)
    inputs["attention_mask"] = inputs["attention_mask"][:, -inputs["input_ids"].shape[1] :]
    with torch.inference_mode():
        answer = plain.eval()(**inputs).logits
    return plain, (logits(tuning) - answer).abs().max().item()


def _seeded(wanted: RunSpec, tuning: FineTuning) -> str:
    """How many of the method's tensors are others with another seed."""
    with warnings.catch_warnings(action="ignore"):
        other = set_up(wanted.model_copy(update={"seed": 1}), CPU)
    assert tuning.method.file is not None
    one, two = (t.method.file.tensors(t.model.net, ()) for t in (tuning, other))  # type: ignore[union-attr]
    changed = sum(not torch.equal(tensor, two[key]) for key, tensor in one.items())
    return f"{changed} of {len(one)}"


def _undeclared(tuning: FineTuning, before: Mapping[str, Tensor]) -> str:
    """What changed in training and is not declared; empty where nothing did."""
    after = tuning.model.net.state_dict()
    optimizer = tuning.optimizer
    groups = optimizer.param_groups if optimizer is not None else []
    own = {id(p) for group in groups for p in group["params"]}
    named = tuning.model.net.named_parameters(remove_duplicate=False)
    others = {name for name, parameter in named if id(parameter) not in own}
    changed = {n for n, t in before.items() if n in after and not torch.equal(t, after[n])}
    return min(changed & others, default="")


def _restored(
    scratch: Path, wanted: RunSpec, tuning: FineTuning, plain: Any, trained: Tensor
) -> float:
    """How far the outputs are apart after saving, and loading onto the plain network."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        files.save(
            tuning.method, tuning.model.net, tuning.model.head, folder, base_model=wanted.model
        )
        torch.manual_seed(123)  # nothing that is drawn now may matter
        files.load(tuning.method, plain, folder)
    return (logits(tuning, plain) - trained).abs().max().item()


def _merged(tuning: FineTuning, trained: Tensor) -> float | None:
    modules = tuning.method.merged(tuning.model.net)
    if modules is None:
        return None
    with replaced(tuning.model.net, modules):
        return (logits(tuning) - trained).abs().max().item()


def _wrong(found: Tried, kind: str) -> str:
    """What a method does not keep; empty where there is nothing."""
    far = [
        f"{what} outputs are {difference:.2g} apart"
        for what, difference in (("restored", found.restored), ("merged", found.merged))
        if difference is not None and difference > CLOSE
    ]
    if found.starts is not None and found.starts > CLOSE and kind not in STARTS_ELSEWHERE:
        far.append(f"it begins {found.starts:.2g} from the plain model")
    if found.why:
        far.append(f"{found.why} changes and is not declared")
    return "; ".join(far)


def sheet(rows: list[Tried]) -> str:
    """The rows as a Markdown table."""
    lora = {row.model: row for row in rows if row.name == "LORA"}
    header = (
        *("method", "model", "", "trained", "start", "other seed", "restored", "merged"),
        *("served by", "peak", "step / LoRA's"),
    )
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in rows:
        cells = [row.name, row.model, row.status]
        if row.params is None:
            cells += [row.why, *[""] * (len(header) - 4)]
        else:
            reference = lora[row.model]
            cells += [
                f"{row.params:,}",
                _apart(row.starts),
                row.seeded,
                _apart(row.restored),
                "no" if row.merged is None else _apart(row.merged),
                row.served,
                size(row.peak_bytes),
                f"{row.step_seconds / reference.step_seconds:.2f}",  # type: ignore[operator]
            ]
            if row.why:
                cells[2] += f": {row.why}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _apart(difference: float | None) -> str:
    if difference is None:
        return "–"
    return "equal" if difference <= CLOSE else f"{difference:.2g}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, help="the page to write")
    parser.add_argument("--store", type=Path, help="with the runs of the experiment")
    parser.add_argument("--only", nargs="*", help="names of methods")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[Tried] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, args in arms().items():
            if options.only and name not in options.only:
                continue
            for which in TASK:
                rows.append(tried(Path(scratch), name, args, which))
                print(rows[-1], flush=True)
    if options.write:
        options.write.write_text(page(rows, options.store), encoding="utf-8")
    else:
        print(sheet(rows))


def experiment_table(store: Path) -> str:
    """The runs on test of the experiment, as a Markdown table, the lowest nll first. Raises
    InputError where the store has none."""
    frame: Any = stored.compare(store)
    test = frame[(frame["task"] == "reviews") & (frame["split"] == "test")]
    peft = test[test["method"].str.startswith("peft")]
    if peft.empty:
        raise InputError(f"{store}: no runs of peft's methods on the test split of reviews")
    own = test[test["data"] == peft.iloc[0]["data"]]
    shown: list[dict[str, Any]] = []
    for _, row in own.sort_values("nll").iterrows():
        shown.append(
            {
                "method": row["label"],
                "learning rate": f"{json.loads(row['train'])['lr']:.2g}",
                "seeds": row["seeds"],
                "nll": _interval(row, "nll", ".3f"),
                "accuracy": _interval(row, "metric", ".3f"),
                "trained": f"{row['trained_params']:,}",
                "peak": size(row["peak_bytes"]),
            }
        )
    return DataFrame(shown).to_markdown(index=False, disable_numparse=True)


def _interval(row: Any, name: str, form: str) -> str:
    """A mean and its 95 % interval."""
    return f"{row[name]:{form}} ({row[f'{name}.low']:{form}} to {row[f'{name}.high']:{form}})"


def page(rows: list[Tried], store: Path | None) -> str:
    """The whole page."""
    import peft
    import transformers

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEXT.read_text(encoding="utf-8")).render(
        peft=peft.__version__,
        torch=torch.__version__,
        transformers=transformers.__version__,
        table=sheet(rows),
        close=CLOSE,
        counts={status: sum(row.status == status for row in rows) for status in get_args(Status)},
        experiment=experiment_table(store) if store else None,
    )


if __name__ == "__main__":
    main()
