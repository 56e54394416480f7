"""Text to tensors and back: padding changes nothing, what is cut is counted."""

from typing import Any

import pytest
import tokenizers
import torch
import transformers

from peftbench.errors import InputError
from peftbench.tasks.base import Example
from peftbench.training.base import AbstractModel
from peftbench.training.classifier import Classifier
from peftbench.training.models import load, read_config, skeleton

CPU = torch.device("cpu")
TEXTS = [
    "a",
    "one two three",
    "the quick brown fox jumps over the lazy dog again and again",
    "4 + 5 =",
]


def subject(folder: str, kind: str, labels: int = 2, max_length: int = 64) -> AbstractModel:
    torch.manual_seed(0)
    return load(folder, kind, labels, device=CPU, dtype=torch.float32, max_length=max_length)  # type: ignore[arg-type]


def examples(kind: str) -> list[Example]:
    targets = {
        "generation": [" b", " four five six seven", " x", " 9"],
        "classification": [0, 1, 1, 0],
        "regression": [0.5, 2.0, 5.0, 1.5],
    }
    return [
        Example(id=str(i), text=text, target=target)
        for i, (text, target) in enumerate(zip(TEXTS, targets[kind], strict=True))
    ]


@pytest.mark.parametrize(
    ("fixture", "kind"),
    [
        ("small_encoder", "classification"),
        ("small_encoder", "regression"),
        ("small_decoder", "classification"),
        ("small_decoder", "regression"),
        ("small_decoder", "generation"),
    ],
)
@torch.no_grad()
def test_padding_changes_no_score(fixture: str, kind: str, request: pytest.FixtureRequest) -> None:
    model = subject(request.getfixturevalue(fixture), kind, labels=1 if kind == "regression" else 2)
    model.net.eval()
    items = [model.encode(example) for example in examples(kind)]
    together = model.score(model.collate(items))
    alone = [model.score(model.collate([item])) for item in items]
    torch.testing.assert_close(
        together.nll, torch.cat([one.nll for one in alone]), rtol=1e-5, atol=1e-5
    )
    assert together.count.tolist() == [int(one.count.item()) for one in alone]
    batch = model.collate(items)
    assert batch.tokens == sum(len(item.tokens) for item in items)
    assert batch.padded == len(items) * max(len(item.tokens) for item in items)


@torch.no_grad()
def test_nll_is_that_of_the_plain_formula(small_decoder: str) -> None:
    model = subject(small_decoder, "generation")
    model.net.eval()
    item = model.encode(examples("generation")[1])
    answer = item.tokens[-item.supervised :]
    assert answer[-1] == model.tokenizer.eos_token_id
    assert model.tokenizer.decode(answer[:-1]) == " four five six seven"
    logits = model.net(torch.tensor([item.tokens])).logits[0].log_softmax(-1)
    start = len(item.tokens) - item.supervised
    expected = -sum(logits[start - 1 + i, token] for i, token in enumerate(answer))
    torch.testing.assert_close(model.score(model.collate([item])).nll[0], expected)


@pytest.mark.parametrize(
    ("fixture", "kind"),
    [
        ("small_encoder", "classification"),
        ("small_decoder", "classification"),
        ("small_decoder", "generation"),
    ],
)
def test_examples_are_encoded_together_as_alone(
    fixture: str, kind: str, request: pytest.FixtureRequest
) -> None:
    """Long and short, single texts and pairs, in any order."""
    model, long = subject(request.getfixturevalue(fixture), kind), " ".join(["word"] * 200)
    several = examples(kind)
    target = several[0].target
    several.insert(1, Example(id="long", text=long, target=target))
    if kind == "classification":
        several.insert(2, Example(id="pair", text="one", pair="two three", target=target))
        several.insert(3, Example(id="long pair", text=long, pair="two three", target=target))
    items = model.encode_all(several)
    assert items == [*map(model.encode, several)]
    assert [item.truncated for item in items] == ["long" in example.id for example in several]


def test_what_is_too_long_is_cut_and_counted(small_decoder: str, small_encoder: str) -> None:
    long = " ".join(["word"] * 200)
    model = subject(small_decoder, "generation")
    item = model.encode(Example(id="0", text=long, target=" the end"))
    assert len(item.tokens) == 64
    assert item.truncated
    # the answer stays whole, the prompt's start goes
    assert (
        model.tokenizer.decode(item.tokens[-item.supervised :], skip_special_tokens=True)
        == " the end"
    )
    item = model.encode(Example(id="0", text="start", target=f" {long}"))
    assert (len(item.tokens), item.truncated, item.supervised) == (64, True, 63)
    encoder = subject(small_encoder, "classification")
    item = encoder.encode(Example(id="0", text=long, pair=long, target=1))
    assert (len(item.tokens), item.truncated) == (64, True)
    assert not encoder.encode(Example(id="0", text="short", pair="pair", target=1)).truncated


def test_the_window_of_the_model_is_a_limit_too(small_encoder: str) -> None:
    assert subject(small_encoder, "classification", max_length=100_000).max_length == 128


@pytest.mark.parametrize(
    ("fixture", "kind"), [("small_encoder", "classification"), ("small_decoder", "generation")]
)
def test_text_without_a_token_is_named(
    fixture: str, kind: str, request: pytest.FixtureRequest
) -> None:
    model = subject(request.getfixturevalue(fixture), kind)
    with pytest.raises(InputError, match="'e7'"):
        model.encode(Example(id="e7", text="", target=1 if kind == "classification" else " x"))


def test_the_head_is_what_lies_outside_the_trunk(small_encoder: str, small_decoder: str) -> None:
    assert subject(small_encoder, "classification").head == ("classifier",)
    assert subject(small_decoder, "classification").head == ("score",)
    assert subject(small_decoder, "generation").head == ()


def test_a_new_head_follows_the_seed(small_encoder: str) -> None:
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        net = load(
            small_encoder, "classification", 2, device=CPU, dtype=torch.float32, max_length=64
        ).net
        heads.append(net.classifier.weight.detach())
    torch.testing.assert_close(heads[0], heads[1], rtol=0, atol=0)
    assert not torch.equal(heads[0], heads[2])


def test_a_model_that_cannot_do_a_task_is_refused(small_encoder: str, tmp_path: object) -> None:
    with pytest.raises(InputError, match="no causal language model"):
        read_config(small_encoder, "generation", 1)
    with pytest.raises(
        InputError, match=r"'nowhere/at-all'.*packaged models: minilm-l6, smollm2-135m"
    ):
        read_config("nowhere/at-all", "generation", 1)
    with pytest.raises(InputError, match="no readable config"):
        read_config(str(tmp_path), "generation", 1)


def test_a_skeleton_has_no_memory_behind_it(small_decoder: str) -> None:
    assert {p.device.type for p in skeleton(small_decoder, "generation", 1).parameters()} == {
        "meta"
    }


# -- pairs


def pair(text: str, second: str) -> Example:
    return Example(id="0", text=text, pair=second, target=0)


@torch.no_grad()
def test_an_encoder_knows_which_text_a_token_is_of(small_encoder: str) -> None:
    model: Any = subject(small_encoder, "classification")
    model.net.eval()
    texts = [("She left the car", "pet is red"), ("a", "longer than the first of them")]
    items = [model.encode(pair(*each)) for each in texts]
    together = model.net(**model.collate(items).inputs).logits
    for row, (first, second) in zip(together, texts, strict=True):
        encoded = model.tokenizer(first, second, return_tensors="pt")
        assert encoded["token_type_ids"].any()
        torch.testing.assert_close(row, model.net(**encoded).logits[0])
    single = model.collate([model.encode(Example(id="0", text="one text", target=0))]).inputs
    without = {name: value for name, value in single.items() if name != "token_type_ids"}
    assert torch.equal(model.net(**single).logits, model.net(**without).logits)


def generated(kind: str) -> Any:
    """A tokenizer of one of the three algorithms, which puts no token around or between texts."""
    models: dict[str, tuple[Any, Any, Any]] = {
        "bpe": (
            tokenizers.models.BPE(unk_token="<unk>"),
            tokenizers.trainers.BpeTrainer,
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ),
        "wordpiece": (
            tokenizers.models.WordPiece(unk_token="<unk>"),
            tokenizers.trainers.WordPieceTrainer,
            tokenizers.pre_tokenizers.Whitespace(),
        ),
        "unigram": (
            tokenizers.models.Unigram(),
            tokenizers.trainers.UnigramTrainer,
            tokenizers.pre_tokenizers.Metaspace(),
        ),
    }
    model, trainer, split = models[kind]
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = split
    options: dict[str, Any] = {"unk_token": "<unk>"} if kind == "unigram" else {}
    text = [
        *TEXTS,
        "She left the car pet is red\ncarpet",
    ]
    tokenizer.train_from_iterator(
        text * 5,
        trainer(vocab_size=150, special_tokens=["<unk>", "</s>"], show_progress=False, **options),
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>"
    )


@pytest.mark.parametrize("kind", ["smollm2", "bpe", "wordpiece", "unigram"])
def test_a_decoder_keeps_the_texts_of_a_pair_apart(kind: str, small_decoder: str) -> None:
    model = subject(small_decoder, "classification")
    if kind != "smollm2":
        model = Classifier(model.net, generated(kind), CPU, 64)

    def tokens(text: str) -> list[int]:
        return model.tokenizer(text, add_special_tokens=False)["input_ids"]

    first, second = tokens("She left the car"), tokens("pet is red")
    found = model.encode(pair("She left the car", "pet is red")).tokens
    separator = found[len(first) : -len(second)]
    assert found == [*first, *separator, *second]
    assert separator == ([model.tokenizer.eos_token_id] if kind == "wordpiece" else tokens("\n"))
    assert separator
    with pytest.raises(InputError, match=r"'0'.*no token"):
        model.encode(pair("", ""))


@pytest.mark.parametrize(("first", "second"), [(3, 90), (90, 3), (90, 90), (91, 40), (20, 43)])
def test_the_longer_text_of_a_pair_is_cut(first: int, second: int, small_decoder: str) -> None:
    model = subject(small_decoder, "classification")
    item = model.encode(pair("a" + " a" * (first - 1), "b" + " b" * (second - 1)))
    separator = model.tokenizer("\n")["input_ids"]
    (at,) = [i for i, token in enumerate(item.tokens) if [token] == separator]
    lengths = (at, len(item.tokens) - at - 1)
    assert item.truncated == (first + second + 1 > 64)
    while first + second + 1 > 64:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    assert lengths == (first, second)
