"""What is being trained: a run's spec made into a model, a method, an optimizer and batches."""

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from peftbench.errors import InputError, UnsupportedError, ValuesNeededError
from peftbench.methods import METHODS
from peftbench.methods.base import AbstractMethod, Upcoming
from peftbench.methods.linear import linear_layers
from peftbench.methods.quantized import library, parameter_count
from peftbench.spec import Pooling, Precision, RunSpec, TrainSpec
from peftbench.tasks import TASKS
from peftbench.tasks.base import AbstractTask, Example, Split, TaskKind, sample
from peftbench.training import checks
from peftbench.training.base import AbstractModel, Batch, Item, room_for_prompt, window
from peftbench.training.environment import choose_device
from peftbench.training.generation import cache_argument
from peftbench.training.language_model import LanguageModel
from peftbench.training.models import load, skeleton
from peftbench.training.rates import check_precision
from peftbench.training.transformer_blocks import check_transformer_blocks

POOL = 32  # batches that are sorted by length together
SEEN = 64  # training examples from which initial values may be made


@dataclass(frozen=True)
class EncodedSplit:
    """The examples of a split that a run uses, as text and as tokens."""

    examples: list[Example]
    items: list[Item]


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """A method attached to a model, with all that training and scoring it take."""

    spec: RunSpec
    task: AbstractTask
    method: AbstractMethod
    model: AbstractModel  # the method is attached to its network
    optimizer: torch.optim.Optimizer | None  # None: nothing is trained
    data: dict[Split, EncodedSplit]
    batches: list[list[int]]  # of each step, indices of training examples
    micro_batch: int  # examples of a step that are on the device at a time, at the most
    shots: list[Example]  # before the prompt of every generated answer
    total_params: int  # of the plain model, head included

    def batch(self, step: int) -> list[Batch]:
        """The batch of a step, counted from 1, in micro-batches."""
        return self._micro_batches(self.batches[step - 1])

    def largest_batch(self) -> list[Batch]:
        """The batch with the most tokens, padding included, in micro-batches."""
        items = self.data["train"].items
        return self._micro_batches(
            max(
                self.batches,
                key=lambda batch: len(batch) * max(len(items[i].tokens) for i in batch),
            )
        )

    def losses(self, micro_batches: Sequence[Batch]) -> Iterator[Tensor]:
        """The mean nll of a batch's supervised tokens, in parts that add up to it: one for each of
        its micro-batches, made when it is asked for. For training also what the method adds."""
        count = sum(batch.count for batch in micro_batches)
        for batch in micro_batches:
            yield self.model.score(batch).nll.sum() / count
        penalty = self.method.penalty(self.model.net) if torch.is_grad_enabled() else None
        if penalty is not None:
            yield penalty

    def _micro_batches(self, indices: Sequence[int]) -> list[Batch]:
        """Examples of like length share one, the longest first: what does not fit fails at once."""
        items = [self.data["train"].items[i] for i in indices]
        if self.micro_batch < len(items):
            items.sort(key=lambda item: -len(item.tokens))
        cuts = range(0, len(items), self.micro_batch)
        return [self.model.collate(items[i : i + self.micro_batch]) for i in cuts]


def accumulate(losses: Iterable[Tensor]) -> list[Tensor]:
    """Add the gradients of each loss to those there are, before the next loss is made, so that one
    loss's activations are alive at a time; returns the losses."""
    values: list[Tensor] = []
    for loss in losses:
        loss.backward()
        values.append(loss.detach())
        del loss  # and with it what its backward pass went through
    return values


def set_up(spec: RunSpec, device: torch.device) -> FineTuning:
    """Load, attach and encode. Seeds torch's global generator, and demands repeatable kernels of
    this process. Raises InputError."""
    check_precision(spec.train.precision, device)
    if spec.base != "plain":  # afterwards the layers have no weight that a method could ask for
        with _quiet():
            _check_models([spec])
    make_repeatable(spec.seed)
    task, method = TASKS[spec.task](), METHODS[spec.method].build(spec.args)
    splits = _splits(spec)
    examples = [_examples(task, spec, split) for split in splits]
    shots = shots_of(task, spec)
    precision = spec.train.precision
    max_length = spec.data.max_length
    model = load(
        spec.model,
        task.kind,
        len(task.labels) or 1,
        spec.pooling,
        spec.base,
        device=device,
        dtype=loaded_dtype(precision, method),
        max_length=max_length,
        precision=precision,
    )
    data: dict[Split, EncodedSplit] = {
        split: EncodedSplit(part, model.encode_all(part))
        for split, part in zip(splits, examples, strict=True)
    }
    items = data["train"].items
    lengths = [len(item.tokens) for item in items]
    total_params = parameter_count(model.net)
    model.start([item.target for item in items])
    check_transformer_blocks(model.net, spec.train, device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        method.anticipate(model.net, upcoming(model, items, spec.train.steps))
    optimizer = attach(method, model, spec)
    # what the checks draw, such as dropout, must not change what the run draws
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        checks.named_failures(model),
    ):
        checks.check_padding(model, items)
        checks.check_adapters(model, method, items)
        if isinstance(model, LanguageModel) and spec.data.generate != 0:
            checks.check_cache(model, [example.text for example in data[spec.split].examples])
    return FineTuning(
        spec=spec,
        task=task,
        method=method,
        model=model,
        optimizer=optimizer,
        data=data,
        batches=plan_batches(lengths, spec.train.batch_size, spec.train.steps, spec.seed),
        micro_batch=micro_batch(spec.train, len(items)),
        shots=shots,
        total_params=total_params,
    )


def check_specs(specs: Sequence[RunSpec], *, here: bool = True) -> dict[str, str]:
    """Try everything that can be wrong with a spec and is cheap to try: the precision on this
    machine, the task's data, the model's configuration, the method's fit to its structure. Returns
    why runs will be skipped, by their ids: what their method cannot do. here: whether they take
    place on this machine; else nothing is asked of it. Raises InputError."""
    for spec in specs if here else ():
        check_precision(spec.train.precision, choose_device())
    for spec in {(spec.task, spec.data, *_splits(spec)): spec for spec in specs}.values():
        task = TASKS[spec.task]()
        for split in _splits(spec):
            _examples(task, spec, split)
        shots_of(task, spec)
    with _quiet():
        return _check_models(specs, here)


def _check_models(specs: Sequence[RunSpec], here: bool = True) -> dict[str, str]:
    """Read the structure of each model once, and attach every method to it. Returns why methods
    cannot do theirs, by the ids of runs."""
    reasons: dict[str, str] = {}
    nets: dict[tuple[str, TaskKind, int, Pooling], Any] = {}
    distinct = {
        (
            *(spec.model, spec.pooling, spec.base, spec.task, spec.data.max_new_tokens),
            *(spec.method, repr(spec.args), spec.train.checkpointing, spec.train.compile),
        ): spec
        for spec in specs
    }
    for spec in distinct.values():
        task = TASKS[spec.task]
        key = (spec.model, task.kind, len(task.labels) or 1, spec.pooling)
        net = nets[key] = nets.get(key) or skeleton(*key)
        if task.kind == "generation":
            room_for_prompt(window(net), spec.data.max_new_tokens)
            cache_argument(net)
        check_transformer_blocks(net, spec.train, choose_device() if here else None)
        try:
            with suppress(ValuesNeededError):  # then the run will show it
                _check_method(spec, copy.deepcopy(net))
        except UnsupportedError as error:
            reasons[spec.run_id] = str(error)
    return reasons


def _check_method(spec: RunSpec, net: Any) -> None:
    """Attach the method to the plain structure. Raises InputError where it does not fit, or trains
    weights that the base keeps quantised."""
    linears = {}
    if spec.base != "plain":
        library()
        linears = linear_layers(net, "all-linear")
    weights = {name: linear.weight for name, linear in linears.items()}
    METHODS[spec.method].build(spec.args).attach(net, torch.Generator())
    if trained := [name for name, weight in weights.items() if weight.requires_grad]:
        raise InputError(
            f"method {spec.method!r} trains weights that base = {spec.base!r} keeps quantised, "
            f'such as that of {trained[0]}: take base = "plain", or a method of adapters'
        )


def upcoming(model: AbstractModel, items: Sequence[Item], steps: int) -> Upcoming:
    """What a method may know of a training on `items`, with the network in evaluation mode."""

    def inputs(place: int) -> dict[str, Tensor]:
        return model.collate([items[place]]).inputs

    def loss(place: int) -> Tensor:
        batch = model.collate([items[place]])
        return model.score(batch).nll.sum() / batch.count

    model.net.eval()
    return Upcoming(steps, min(SEEN, len(items)), inputs, loss)


def attach(
    method: AbstractMethod, model: AbstractModel, spec: RunSpec
) -> torch.optim.Optimizer | None:
    """Attach the method, add the head's own group, and make the optimizer; None where nothing is
    trained."""
    head = model.head_parameters()
    outside = {id(parameter) for parameter in head}
    stored = {id(parameter) for parameter in model.net.parameters()} - outside
    method.attach(model.net, torch.Generator().manual_seed(spec.seed))
    for parameter in head:
        parameter.requires_grad_(True)
    own = [p for p in model.net.parameters() if p.requires_grad and id(p) not in outside]
    if not method.trains_weights and any(id(p) in stored for p in own):
        raise ValueError(
            f"{type(method).__name__} trains weights of the model: it must say "
            "trains_weights = True"
        )
    set_dtypes(model.net, spec.train.precision)
    groups = method.param_groups(own, model.net, spec.train.lr) if own else []
    groups.append({"params": head, "lr": spec.train.head_lr})
    return make_optimizer(groups, spec.train) if own or head else None


def loaded_dtype(
    precision: Precision, method: AbstractMethod | type[AbstractMethod]
) -> torch.dtype:
    """In which a model's weights are loaded for a method."""
    wide = precision == "float32" or (precision == "bf16-mixed" and method.trains_weights)
    return torch.float32 if wide else torch.bfloat16


def set_dtypes(net: nn.Module, precision: Precision) -> None:
    """Give each parameter its dtype: bfloat16, but float32 in mixed precision where it is trained.
    In float32 everything is as it was loaded and made."""
    if precision == "float32":
        return
    for parameter in net.parameters():
        trained = precision == "bf16-mixed" and parameter.requires_grad
        parameter.data = parameter.data.to(torch.float32 if trained else torch.bfloat16)


def make_optimizer(groups: list[dict[str, Any]], spec: TrainSpec) -> torch.optim.AdamW:
    """AdamW; `peak` in each group keeps the learning rate that the schedule multiplies."""
    groups = [group | {"peak": group["lr"]} for group in groups if group["params"]]
    return torch.optim.AdamW(
        groups,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        fused=True,
    )


def micro_batch(spec: TrainSpec, examples: int) -> int:
    """How many examples of a step are on the device at a time, of so many training examples; of
    "auto", how many are tried first."""
    size = min(spec.batch_size, examples)
    return min(spec.micro_batch, size) if isinstance(spec.micro_batch, int) else size


def plan_batches(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Which examples make up the batch of each step: `steps` lists of indices.

    Epoch after epoch in a new random order; within a pool of 32 batches examples of like length
    share a batch (padding is computed like anything else), and the pool's batches come in random
    order. An epoch's incomplete last batch is left out, unless it is the only one.
    """
    rng = torch.Generator().manual_seed(seed)
    batches: list[list[int]] = []
    size = min(batch_size, len(lengths))
    while len(batches) < steps:
        order = torch.randperm(len(lengths), generator=rng).tolist()
        order = order[: len(order) // size * size]
        for start in range(0, len(order), size * POOL):
            pool = sorted(order[start : start + size * POOL], key=lambda i: lengths[i])
            cuts = [pool[i : i + size] for i in range(0, len(pool), size)]
            batches.extend(cuts[i] for i in torch.randperm(len(cuts), generator=rng).tolist())
    return batches[:steps]


def shots_of(task: AbstractTask, spec: RunSpec) -> list[Example]:
    """The training examples before every prompt: the same for all prompts and seeds, and among
    those trained on. Raises InputError where there are fewer of those."""
    if not spec.data.shots:
        return []
    examples = task.examples("train")
    trained = len(sample(examples, spec.data.train))
    if trained < spec.data.shots:
        raise InputError(
            f"data.shots = {spec.data.shots}, "
            f"but task {spec.task!r} trains on {trained} examples only"
        )
    return sample(examples, spec.data.shots)


def make_repeatable(seed: int) -> None:
    """Seed what draws from global generators (a new head's initial values, dropout masks) and
    demand repeatable kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # needed by deterministic cuBLAS
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.manual_seed(seed)
    # warn only: a model may need a CUDA kernel that has no repeatable form
    torch.use_deterministic_algorithms(True, warn_only=True)
    # writes NaN to all new memory otherwise: 6 % of a step, to show reads that no kernel here makes
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers prints while it loads a model: what matters of it is an error."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _splits(spec: RunSpec) -> list[Split]:
    """The splits that a run reads."""
    splits: list[Split] = ["train", *(["valid"] if spec.train.eval_every else []), spec.split]
    return list(dict.fromkeys(splits))


def _examples(task: AbstractTask, spec: RunSpec, split: Split) -> list[Example]:
    """The examples of a split that a run uses. Raises InputError where there are none."""
    examples = sample(task.examples(split), getattr(spec.data, split))
    if not examples:
        raise InputError(f"task {spec.task!r}: split {split!r} is empty")
    return examples
