"""Every family of the zoo is right in all that a run does with it, or refused in one line."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_generation
import torch
import transformers
import zoo
from test_methods import DISTINCT

from peftbench.errors import InputError
from peftbench.methods import METHODS, OURS, files
from peftbench.methods.adapter_file import AdapterFile
from peftbench.spec import RunSpec
from peftbench.training.fine_tuning import FineTuning, check_specs, set_up
from peftbench.training.generation import generate
from peftbench.training.language_model import LanguageModel
from peftbench.training.loop import train
from peftbench.training.run import never

peft = pytest.importorskip("peft", reason="peft is the peer that opens what is saved")
pytestmark = pytest.mark.filterwarnings(
    # peft 0.21 reads an attribute that transformers 5.23 has renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    # of a network that has both layouts, as in adapter_file.py
    "ignore:fan_in_fan_out is set to:UserWarning",
)
TEXTS = ["a", "one two three", "the quick brown fox jumps over the lazy dog", "4 + 5 ="]
ALWAYS = {"llama", "mamba", "lfm2", "recurrent_gemma", "bert", "mobilebert"}  # not only when slow


def cases(kinds: list[zoo.Family], encoder: bool) -> list[Any]:
    def marks(kind: zoo.Family) -> list[pytest.MarkDecorator]:
        return [] if kind.name in ALWAYS else [pytest.mark.slow]

    return [
        pytest.param(kind, encoder, id=f"{kind.name}-{encoder}", marks=marks(kind))
        for kind in kinds
    ]


families = pytest.mark.parametrize(
    ("kind", "encoder"), [*cases(zoo.DECODERS, False), *cases(zoo.ENCODERS, True)]
)


def spec(folder: str, method: str, encoder: bool) -> RunSpec:
    wanted = test_generation.spec(folder, "rte" if encoder else "gsm_symbolic")
    return wanted.model_copy(
        update={
            "method": method,
            "method_version": METHODS[method].version,
            "args": METHODS[method].complete({}),
            "train": wanted.train.model_copy(update={"steps": 2}),
        }
    )


@families
def test_a_family_is_right_or_refused_in_one_line(
    kind: zoo.Family, encoder: bool, tmp_path: Path
) -> None:
    folder = zoo.save(kind, encoder, tmp_path / "model")
    for method in OURS if kind.name in ALWAYS else ("frozen", *DISTINCT):
        wanted = spec(folder, method, encoder)
        adapts = isinstance(METHODS[method].file, AdapterFile)
        if words := kind.refused or (adapts and kind.adapters):
            assert words in refusal(wanted)
            continue
        check_specs([wanted])
        tuning = set_up(wanted, torch.device("cpu"))
        if method == "frozen" and isinstance(tuning.model, LanguageModel):
            answers_are_those_of_the_plain_loop(tuning.model)
        padding_changes_nothing(tuning)
        trains_what_it_says(tuning)
        if adapts and kind.unopened and method != "vera":
            with pytest.raises(ValueError, match=kind.unopened):
                opens_in_peft(tuning, encoder, folder, tmp_path / method)
        elif adapts:
            opens_in_peft(tuning, encoder, folder, tmp_path / method)


def refusal(wanted: RunSpec) -> str:
    def refused(step: Callable[[], object]) -> str | None:
        try:
            step()
        except InputError as error:
            return str(error)
        return None

    message = refused(lambda: check_specs([wanted]))
    message = message or refused(lambda: set_up(wanted, torch.device("cpu")))
    assert message is not None
    assert len(message.splitlines()) == 1
    return message


@torch.no_grad()
def answers_are_those_of_the_plain_loop(model: LanguageModel) -> None:
    model.net.eval()
    answers = generate(model, TEXTS, 8, (), 10_000).answers
    for text, answer in zip(TEXTS, answers, strict=True):
        ids: list[int] = model.tokenizer(text)["input_ids"]
        start = len(ids)
        while len(ids) < start + 8 and ids[-1] != zoo.SPECIAL["eos"]:
            logits = model.net(torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
        assert answer == model.text(ids[start:])


@torch.no_grad()
def padding_changes_nothing(tuning: FineTuning) -> None:
    model, items = tuning.model, tuning.data["train"].items[:4]
    model.net.eval()
    together = model.score(model.collate(items)).nll
    alone = torch.cat([model.score(model.collate([item])).nll for item in items])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def trains_what_it_says(tuning: FineTuning) -> None:
    net = tuning.model.net
    frozen = {n: p.clone() for n, p in net.named_parameters() if not p.requires_grad}
    log = train(tuning, never)
    assert all(point.train_loss and math.isfinite(point.train_loss) for point in log.curve)
    after = dict(net.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    if tuning.optimizer is not None:
        assert len(log.curve) == 2
        assert set(after) - set(frozen)


def opens_in_peft(tuning: FineTuning, encoder: bool, folder: str, saved: Path) -> None:
    net = tuning.model.net.eval()
    files.save(tuning.method, net, tuning.model.head, saved, base_model=folder)
    auto: Any = transformers.AutoModelForCausalLM
    labels = {}
    if encoder:
        auto, labels = transformers.AutoModelForSequenceClassification, {"num_labels": 2}
    base = auto.from_pretrained(folder, **labels)
    base.config.pad_token_id = zoo.SPECIAL["pad"]
    opened = peft.PeftModel.from_pretrained(base, saved).eval()
    inputs = tuning.model.collate(tuning.data["test"].items).inputs
    with torch.no_grad():
        theirs, ours = opened(**inputs).logits, net(**inputs).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_the_zoo_is_large() -> None:
    kinds = {kind.name: kind for kind in [*zoo.DECODERS, *zoo.ENCODERS]}
    assert sum(kind.refused is None for kind in kinds.values()) >= 60
