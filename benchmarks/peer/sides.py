"""The four sides: ours; transformers' Trainer with peft, in random order (`defaults`) and grouped
by length (`grouped`); and peft's network in a plain loop on our batches (`identical`)."""

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.trainer_callback import PrinterCallback

from peer.clock import Clock
from peer.work import WARM_UP, Work, evenly, full_batches
from peftbench.methods.files import save
from peftbench.methods.linear import linearize
from peftbench.training.base import Item
from peftbench.training.fine_tuning import FineTuning, plan_batches, set_up
from peftbench.training.loop import train
from peftbench.training.models import read_config, source
from peftbench.training.run import never

IGNORE = -100  # transformers' label of a position that is not supervised
ROW = {"defaults": "random", "grouped": "group_by_length"}  # Trainer's sampling strategies


@dataclass(frozen=True)
class Lap:
    """What a side did in one repeat, the warm-up left out of tokens and seconds."""

    tokens: int  # real ones, without padding
    seconds: float
    losses: list[float]  # of each step, warm-up included; of Trainer the mean alone

    @property
    def rate(self) -> float:
        """Real tokens a second."""
        return self.tokens / self.seconds


class Pair:
    """Ours and theirs of one comparison, with equal weights at first."""

    def __init__(self, work: Work, device: torch.device) -> None:
        self.work, self.device = work, device
        self.tuning = set_up(work.spec(), device)
        self.items = self.tuning.data["train"].items
        self.lengths = [len(item.tokens) for item in self.items]
        self.theirs: Any = theirs(self.tuning, work.method)
        ours, other = (trained(net) for net in (self.tuning.model.net, self.theirs))
        if ours != other:
            raise ValueError(f"{work.method}: we train {ours:,} parameters, they train {other:,}")
        self.rate = work.spec().train.lr
        self.data = [example(item, self.causal) for item in self.items]

    @property
    def causal(self) -> bool:
        return self.tuning.task.kind == "generation"

    def batches(self, repeat: int) -> list[list[int]]:
        """Ours of a repeat, out of our plan of an epoch."""
        size = self.work.batch_size
        plan = plan_batches(self.lengths, size, max(1, len(self.items) // size), repeat)
        return evenly(plan, self.lengths, self.work.steps, repeat)

    def ours(self, repeat: int) -> Lap:
        """The project's own loop."""
        batches = self.batches(repeat)
        tuning = dataclasses.replace(self.tuning, batches=batches)
        with Clock(self.device) as clock, repeatable(True):
            log = train(tuning, never)
        losses = [point.train_loss for point in log.curve if point.train_loss is not None]
        return self._lap(clock, batches, losses)

    def identical(self, repeat: int) -> Lap:
        """Theirs in the loop that everybody writes, on our batches of the repeat."""
        batches, optimizer, losses = self.batches(repeat), self.plain_optimizer(), []
        parameters = [p for p in self.theirs.parameters() if p.requires_grad]
        self.theirs.train()
        with Clock(self.device) as clock, repeatable(False):
            for indices in batches:
                loss = self.their_loss([self.items[i] for i in indices])
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
        return self._lap(clock, batches, losses)

    def trainer(self, repeat: int, strategy: str) -> Lap:
        """Trainer with its own sampler, collator, optimizer and loop."""
        with tempfile.TemporaryDirectory() as folder, repeatable(False):
            trainer = self._trainer(repeat, strategy, folder)
            with Clock(self.device) as clock:
                output = trainer.train()
        return self._lap(clock, trainer.batches, [output.training_loss])

    def _trainer(self, repeat: int, strategy: str, folder: str) -> "SampledTrainer":
        work, tokenizer = self.work, copy.deepcopy(self.tuning.model.tokenizer)
        tokenizer.pad_token_id = self.tuning.model.pad
        optimizer = self.own_optimizer()
        trainer = SampledTrainer(
            steps=work.steps,
            lengths=self.lengths,
            model=self.theirs,
            args=transformers.TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=work.batch_size,
                max_steps=WARM_UP + work.steps,
                learning_rate=self.rate,
                lr_scheduler_type="constant",
                train_sampling_strategy=strategy,
                seed=repeat,
                use_cpu=self.device.type == "cpu",
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
                logging_strategy="no",
                remove_unused_columns=False,  # there are none
            ),
            train_dataset=self.data,
            data_collator=(
                transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORE)
                if self.causal
                else transformers.DataCollatorWithPadding(tokenizer)
            ),
            optimizers=(optimizer, None),
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _lap(self, clock: Clock, batches: Sequence[Sequence[int]], losses: list[float]) -> Lap:
        tokens = sum(self.lengths[i] for batch in batches[WARM_UP:] for i in batch)
        return Lap(tokens, clock.seconds(WARM_UP, len(batches)), losses)

    def their_loss(self, items: Sequence[Item]) -> Tensor:
        """Transformers' own loss on our batch of the items."""
        batch = self.tuning.model.collate(items)
        labels = batch.target
        if self.causal:
            ids = batch.inputs["input_ids"]
            supervised = torch.tensor([[item.supervised] for item in items], device=ids.device)
            from_end = torch.arange(ids.shape[1], 0, -1, device=ids.device)  # 1: the last token
            labels = ids.where(from_end <= supervised, IGNORE)
        return self.theirs(**batch.inputs, labels=labels).loss

    def our_losses(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Ours on a batch of these examples, in the parts that it is made in."""
        tuning = dataclasses.replace(self.tuning, batches=[list(indices)])
        return tuning.losses(tuning.batch(1))

    def resize(self, batch_size: int) -> None:
        """Have batches of another size from now on."""
        self.work = dataclasses.replace(self.work, batch_size=batch_size)
        self.tuning = dataclasses.replace(self.tuning, micro_batch=batch_size)

    def plain_optimizer(self) -> torch.optim.Optimizer:
        """The AdamW that ours has, for theirs."""
        method, net = self.work.method, self.theirs
        if method == "lora-fa corrected":
            optimizer = self.own_optimizer()
            assert optimizer is not None
            return optimizer
        parameters = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
        fast = [p for name, p in parameters if method == "lora+" and ".lora_B." in name]
        slow = [p for name, p in parameters if method != "lora+" or ".lora_B." not in name]
        ratio = getattr(self.tuning.method, "ratio", 1.0)
        groups = [{"params": slow}, *([{"params": fast, "lr": self.rate * ratio}] if fast else [])]
        return torch.optim.AdamW(groups, lr=self.rate, weight_decay=0.0, fused=True)

    def own_optimizer(self) -> torch.optim.Optimizer | None:
        """What peft offers for the method; None: what Trainer makes."""
        method: Any = self.tuning.method
        if self.work.method == "lora+":
            return create_loraplus_optimizer(
                self.theirs,
                torch.optim.AdamW,
                lr=self.rate,
                loraplus_lr_ratio=method.ratio,
                fused=True,
            )
        if self.work.method == "lora-fa corrected":
            return create_lorafa_optimizer(
                self.theirs, r=method.rank, lora_alpha=method.alpha, lr=self.rate
            )
        return None

    def sides(self) -> dict[str, Callable[[int], Lap]]:
        """Every side by name, as a function of the repeat's number."""
        return {
            "ours": self.ours,
            "identical": self.identical,
            **{
                name: lambda repeat, strategy=strategy: self.trainer(repeat, strategy)
                for name, strategy in ROW.items()
            },
        }


class SampledTrainer(transformers.Trainer):
    """Trainer, on `steps` batches that lie evenly among those of its own sampler's epoch."""

    def __init__(self, *, steps: int, lengths: Sequence[int], **options: Any) -> None:
        self.sampled, self.lengths = steps, lengths
        self.batches: list[list[int]] = []
        super().__init__(**options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        assert sampler is not None
        plan = full_batches([*sampler], self.args.per_device_train_batch_size)
        self.batches = evenly(plan, self.lengths, self.sampled, self.args.seed)
        return [i for batch in self.batches for i in batch]


def theirs(tuning: FineTuning, name: str) -> Any:
    """Transformers' network as it loads it, with peft's layers, and the weights that ours has."""
    spec, kind, labels = tuning.spec, tuning.task.kind, len(tuning.task.labels) or 1
    place, revision = source(spec.model)
    auto = (
        transformers.AutoModelForCausalLM
        if kind == "generation"
        else transformers.AutoModelForSequenceClassification
    )
    net: Any = auto.from_pretrained(
        place,
        revision=revision,
        config=read_config(spec.model, kind, labels),
        dtype=torch.float32,
    )
    linearize(net)
    net.config.pad_token_id = tuning.model.pad
    head = tuning.model.head
    for module in head:  # drawn anew on each side
        source_module = tuning.model.net.get_submodule(module)
        net.get_submodule(module).load_state_dict(source_module.state_dict())
    net = net.to(tuning.model.device)
    if name == "full":
        return net.requires_grad_(True)
    net = peft.get_peft_model(net, config(tuning, name))
    with tempfile.TemporaryDirectory() as folder:
        save(tuning.method, tuning.model.net, head, Path(folder), base_model=spec.model)
        stored = load_file(Path(folder) / "adapter_model.safetensors")
    result = peft.set_peft_model_state_dict(net, stored)
    if result.unexpected_keys:
        raise ValueError(f"peft has no place for {result.unexpected_keys[0]}")
    if name.startswith("lora-fa"):
        for key, parameter in net.named_parameters():
            if ".lora_A." in key:
                parameter.requires_grad_(False)
    return net


def config(tuning: FineTuning, name: str) -> Any:
    """peft's configuration of ours: its defaults but for what ours is given."""
    method: Any = tuning.method
    kind = "CAUSAL_LM" if tuning.task.kind == "generation" else "SEQ_CLS"
    head = list(tuning.model.head) or None
    if name == "vera":
        return peft.VeraConfig(
            r=method.rank,
            d_initial=method.d_init,
            vera_dropout=method.dropout,
            target_modules="all-linear",
            task_type=kind,
            modules_to_save=head,
        )
    return peft.LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules="all-linear",
        task_type=kind,
        modules_to_save=head,
    )


def example(item: Item, causal: bool) -> dict[str, Any]:
    """An encoded example as transformers' collators take it."""
    if causal:
        ignored = len(item.tokens) - item.supervised
        return {"input_ids": item.tokens, "labels": [IGNORE] * ignored + item.tokens[ignored:]}
    types = {} if item.types is None else {"token_type_ids": item.types}
    return {"input_ids": item.tokens, "label": item.target} | types


def trained(net: nn.Module) -> int:
    """How many parameters require a gradient."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """With torch's repeatable kernels, as our runs have them, or as torch is by default."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)
