"""Answers: they depend on nothing but their prompt and seed, end where they should, and none is
lost where memory is short."""

import itertools
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
import transformers
from hypothesis import strategies

from peftbench import tasks
from peftbench.errors import InputError
from peftbench.methods import METHODS
from peftbench.spec import DataSpec, LimitSpec, RunSpec, TrainSpec, validated
from peftbench.tasks.base import few_shot, sample
from peftbench.training import evaluation, generation
from peftbench.training.base import by_length
from peftbench.training.evaluation import evaluate
from peftbench.training.fine_tuning import EncodedSplit, FineTuning, check_specs, shots_of
from peftbench.training.generation import Drawing, End, Generated, generate
from peftbench.training.language_model import LanguageModel
from peftbench.training.models import load
from peftbench.training.run import run

TEXTS = [
    "a",
    "one two three",
    "the quick brown fox jumps over the lazy dog again and again",
    "4 + 5 =",
]
TWELVE = [f"{text} {i}" for text, i in itertools.product(TEXTS, range(3))]
MANY, ONE = 10_000, 1  # tokens in a batch: all prompts share one, or each has its own


def language_model(folder: str) -> LanguageModel:
    """With large weights, so that all that stands before decides the next token; as initialised, a
    small model repeats the last."""
    loaded = load(
        folder, "generation", 1, device=torch.device("cpu"), dtype=torch.float32, max_length=64
    )
    assert isinstance(loaded, LanguageModel)
    loaded.net.eval()
    rng = torch.Generator().manual_seed(0)
    layers = (
        loaded.net.base_model.h
        if hasattr(loaded.net.base_model, "h")
        else loaded.net.base_model.layers
    )
    for weight in layers.parameters():
        if weight.dim() == 2:
            weight.data.normal_(0, 1, generator=rng)
    return loaded


def saved(
    kind: type, config: transformers.PretrainedConfig, folder: Path, tokenizer: str
) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return language_model(str(folder))


@pytest.fixture(scope="module")
def model(small_decoder: str) -> LanguageModel:
    return language_model(small_decoder)


def spec(
    model: str,
    task: str = "gsm_symbolic",
    train: int = 10,
    seed: int = 0,
    eval_every: int | None = None,
    **data: Any,
) -> RunSpec:
    small: dict[str, Any] = {
        "train": train,
        "test": 4,
        "generate": 3,
        "max_length": 64,
        "max_new_tokens": 4,
    }
    return RunSpec(
        model=model,
        task=task,
        task_version=1,
        method="lora",
        method_version=METHODS["lora"].version,
        args=METHODS["lora"].complete({}),
        train=TrainSpec(lr=1e-3, steps=1, batch_size=2, precision="float32", eval_every=eval_every),
        data=DataSpec(**small | data),
        seed=seed,
        split="test",
        limits=LimitSpec(),
    )


def test_answers_do_not_depend_on_their_batch_and_equal_transformers_own(
    model: LanguageModel,
) -> None:
    together, alone = (generate(model, TEXTS, 12, (), tokens) for tokens in (MANY, ONE))
    assert together == alone
    assert together.tokens == 12 * len(TEXTS)
    for text, answer in zip(TEXTS, together.answers, strict=True):
        ids = model.tokenizer(text, return_tensors="pt")
        theirs = model.net.generate(
            **ids, max_new_tokens=12, do_sample=False, pad_token_id=model.pad
        )
        assert answer == model.tokenizer.decode(
            theirs[0, ids["input_ids"].shape[1] :], skip_special_tokens=True
        )


def test_an_answer_ends_before_its_first_stop(model: LanguageModel) -> None:
    whole = generate(model, TEXTS, 12, (), MANY)
    stops = [answer[len(answer) // 2 :][:2] for answer in whole.answers]
    for text, answer, stop in zip(TEXTS, whole.answers, stops, strict=True):
        cut = generate(model, [text], 12, (stop, "never"), MANY)
        assert cut.answers == [answer.split(stop)[0]]
        assert cut.tokens < 12
    together = generate(model, TEXTS, 12, stops, MANY)  # rows leave the batch one by one
    assert together == generate(model, TEXTS, 12, stops, ONE)
    assert together.tokens < whole.tokens
    stop = generate(model, TWELVE[5:6], 12, (), MANY).answers[0][12:16]
    assert generate(model, TWELVE, 12, [stop], MANY) == generate(
        model, TWELVE, 12, [stop], ONE
    )  # one of twelve stays, finished


def stops_of(whole: Generated) -> list[str]:
    """Stops that make answers of many lengths of these."""
    return [answer[3 * i :][:3] for i, answer in enumerate(whole.answers) if i % 3]


def watched(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and columns of everything that the network reads from now on."""
    shapes: list[tuple[int, int]] = []
    forward = model.net.forward

    def recorded(input_ids: torch.Tensor, **inputs: Any) -> Any:
        shapes.append((input_ids.shape[0], input_ids.shape[1]))
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(model.net, "forward", recorded)
    return shapes


def read_and_going_on(shapes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """How many prompts were read at each time but the first, and how many answers went on after
    that."""
    runs = [
        (step, [rows for rows, _ in group])
        for step, group in itertools.groupby(shapes, lambda shape: shape[1] == 1)
    ]
    return [
        (sum(read), after[0])
        for (step, read), (_, after) in itertools.pairwise(runs[1:])
        if not step
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("tokens", "read"), [(60, 1), (60, MANY), (100, 20), (200, 1), (200, MANY)]
)
def test_prompts_are_read_as_answers_end(
    model: LanguageModel,
    temperature: float,
    tokens: int,
    read: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stops = stops_of(generate(model, TWELVE, 12, (), ONE, temperature, range(12)))
    expected = generate(model, TWELVE, 12, stops, ONE, temperature, range(12))
    shapes = watched(model, monkeypatch)
    monkeypatch.setitem(generation.READ_TOKENS, "cpu", read)
    assert generate(model, TWELVE, 12, stops, tokens, temperature, range(12)) == expected
    assert any(
        rows > fresh for fresh, rows in read_and_going_on(shapes)
    )  # prompts that were read go on beside older answers
    assert all(rows == 1 or rows * width <= read for rows, width in shapes if width > 1)
    assert (
        max(rows for rows, width in shapes if width == 1) * (4 + 12) <= tokens
    )  # the shortest prompt has four tokens


def test_finished_rows_stay_within_the_window(
    tmp_path: Path, small_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.GPT2Config(
        vocab_size=49152,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=24,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = saved(transformers.GPT2LMHeadModel, config, tmp_path, small_decoder)
    texts = [f"{TEXTS[2]} {i}" for i in range(12)]  # all fill the room that an answer leaves
    stops = [
        answer[4:10] for answer in generate(model, texts, 12, (), ONE).answers[8:]
    ]  # of six that are read first, four end early
    expected = generate(model, texts, 12, stops, ONE)
    assert expected.cut == 12
    monkeypatch.setattr(
        generation, "FREED", 0.6
    )  # the other two stay, finished, beside four that are read later
    shapes = watched(model, monkeypatch)
    assert generate(model, texts, 12, stops, 150) == expected
    assert any(rows > fresh for fresh, rows in read_and_going_on(shapes))


def test_answers_of_a_model_with_a_window_are_not_joined(
    tmp_path: Path, small_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.MistralConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        eos_token_id=2,
    )
    model = saved(transformers.MistralForCausalLM, config, tmp_path, small_decoder)
    stops = stops_of(generate(model, TWELVE, 12, (), ONE))
    expected = generate(model, TWELVE, 12, stops, ONE)
    shapes = watched(model, monkeypatch)
    monkeypatch.setitem(generation.READ_TOKENS, "cpu", 1)
    assert generate(model, TWELVE, 12, stops, 200) == expected
    assert len(read_and_going_on(shapes)) > 0
    assert all(rows <= read for read, rows in read_and_going_on(shapes))
    assert shapes[0][0] > 1  # all at once
    assert generate(model, TWELVE, 12, stops, MANY) == expected


@pytest.mark.parametrize("stop", ["\nclass ", "\n#", "x", " ", "\n\n"])
def test_a_stop_is_seen_with_the_token_that_completes_it(model: LanguageModel, stop: str) -> None:
    end = End(model, [stop])
    tokens = model.tokenizer(f"some text{stop}more of it", add_special_tokens=False)["input_ids"]
    reached = [end.reached(tokens[: n + 1]) for n in range(len(tokens))]
    complete = [stop in model.text(tokens[: n + 1]) for n in range(len(tokens))]
    assert reached.index(True) == complete.index(True)


def test_every_end_that_the_model_names_ends_an_answer(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = model.tokenizer(
        generate(model, TEXTS[:1], 12, (), MANY).answers[0], add_special_tokens=False
    )["input_ids"]
    monkeypatch.setattr(model.net.generation_config, "eos_token_id", [7, tokens[3]])
    assert generate(model, TEXTS[:1], 12, (), MANY).tokens == tokens.index(tokens[3]) + 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_batch_that_does_not_fit_is_halved(
    model: LanguageModel, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generate(model, TEXTS, 6, (), MANY)
    forward, limit = model.net.forward, [1]

    def short(input_ids: torch.Tensor, **inputs: Any) -> Any:
        if (
            len(input_ids) > limit[0] and inputs["past_key_values"].get_seq_length() > 12
        ):  # in the middle of the answers
            raise error
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(model.net, "forward", short)
    halved = generate(model, TEXTS, 6, (), MANY)
    assert (halved.answers, halved.tokens, halved.halvings) == (whole.answers, whole.tokens, 2)
    limit[0] = 0
    with pytest.raises(type(error), match="memory"):
        generate(model, TEXTS, 6, (), MANY)


def test_other_errors_are_raised(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(*_: object, **__: object) -> None:
        calls.append(1)
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(model.net, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        generate(model, TEXTS, 6, (), MANY)
    assert len(calls) == 1


@hypothesis.given(
    strategies.lists(strategies.integers(1, 300), max_size=40), strategies.integers(1, 1000)
)
def test_batches_keep_to_their_tokens(lengths: list[int], tokens: int) -> None:
    batches = by_length(lengths, tokens)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(
        len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens
        for batch in batches
    )
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths)


def test_a_prompt_beyond_the_window_loses_its_start_and_is_counted(model: LanguageModel) -> None:
    assert model.window == 512
    long = " word" * 600 + " and its end"
    cut = generate(model, [long, "short"], 100, (), MANY)
    tokens = model.tokenizer(long)["input_ids"]
    assert len(tokens) > 512
    assert cut == Generated(
        generate(model, [model.text(tokens[-412:]), "short"], 100, (), MANY).answers,
        cut.tokens,
        cut=1,
        halvings=0,
    )
    message = "max_new_tokens = 512 leaves no room for a prompt in the model's window of 512 tokens"
    with pytest.raises(InputError, match=message):
        generate(model, ["short"], 512, (), MANY)


@hypothesis.given(
    strategies.lists(strategies.floats(-2, 2, width=32), min_size=2, max_size=8),
    strategies.sampled_from([0.5, 1.0, 2.0]),
)
def test_drawing_inverts_the_distribution(logits: list[float], temperature: float) -> None:
    probability = (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(-1)
    ends = probability.cumsum(-1)
    uniform = (ends - probability / 2)[:, None]  # the middle of each token's part of [0, 1]
    rows = range(len(logits))
    drawn = Drawing(temperature, uniform).draw(
        torch.tensor(logits).expand(len(logits), -1), rows, [0] * len(logits)
    )
    assert drawn.tolist() == [*rows]


def test_what_has_no_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 0.5, 1 - 2**-53):
        assert Drawing(1.0, torch.tensor([[uniform]], dtype=torch.float64)).draw(
            logits, [0], [0]
        ).tolist() == [1]


def test_drawn_answers_follow_their_seeds_alone(model: LanguageModel) -> None:
    def drawn(
        texts: list[str], seeds: list[int], tokens: int = MANY, temperature: float = 1.0
    ) -> list[str]:
        return generate(model, texts, 8, (), tokens, temperature, seeds).answers

    answers = drawn(TEXTS, [1, 2, 3, 4])
    assert answers == drawn(TEXTS, [1, 2, 3, 4], ONE)
    assert answers[::-1] == drawn(TEXTS[::-1], [4, 3, 2, 1])
    assert answers[2:] == drawn(TEXTS[2:], [3, 4])
    assert len(set(drawn(TEXTS[:1] * 4, [1, 2, 3, 4]))) == 4
    assert (
        drawn(TEXTS, [1, 2, 3, 4], temperature=1e-4) == generate(model, TEXTS, 8, (), MANY).answers
    )


@torch.no_grad()
def test_drawn_answers_are_those_of_the_plain_loop(model: LanguageModel) -> None:
    seeds, expected = [1, 2, 3, 4], []
    for text, seed in zip(TEXTS, seeds, strict=True):
        ids = model.tokenizer(text)["input_ids"]
        start = len(ids)
        for uniform in torch.rand(
            8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        ):
            reached = (
                (model.net(torch.tensor([ids])).logits[0, -1] / 0.7).softmax(-1).double().cumsum(-1)
            )
            ids.append(int((reached <= uniform * reached[-1]).sum()))
        expected.append(model.text(ids[start:]))
    assert generate(model, TEXTS, 8, (), MANY, 0.7, seeds).answers == expected
    stops = [expected[0][3:6], expected[2][8:11]]
    cut = generate(model, TEXTS, 8, stops, MANY, 0.7, seeds)  # two rows leave the batch
    assert cut.tokens < 8 * 4
    assert cut.answers == [
        expected[0].split(stops[0])[0],
        expected[1],
        expected[2].split(stops[1])[0],
        expected[3],
    ]


def test_several_samples_need_a_temperature() -> None:
    with pytest.raises(
        InputError, match=r"data: temperature: .*several samples need a temperature above 0"
    ):
        validated(DataSpec, {"samples": 2}, "data")
    assert validated(DataSpec, {"samples": 2, "temperature": 0.2}, "data").samples == 2


def test_every_sample_is_a_row_and_scored(small_decoder: str) -> None:
    first, again, other = (
        run(spec(small_decoder, samples=2, temperature=1.0, seed=seed, train=10))
        for seed in (0, 0, 1)
    )
    assert first.predictions is not None
    assert again.predictions is not None
    assert other.predictions is not None
    assert first.record.status == "done"
    assert first.predictions["sample"].tolist() == [
        0,
        1,
        0,
        1,
        0,
        1,
        0,
    ]  # three of four examples are answered
    assert len(set(first.predictions["id"])) == 4
    assert len(first.predictions["score"].dropna()) == 6
    assert first.predictions.groupby("id")["nll"].nunique().tolist() == [1] * 4
    assert len(set(first.predictions["answer"].dropna())) == 6
    assert first.predictions["answer"].equals(again.predictions["answer"])
    assert not first.predictions["answer"].equals(other.predictions["answer"])


def untrained(model: LanguageModel, wanted: RunSpec) -> FineTuning:
    """The model as it is, with two examples to answer."""
    task = tasks.TASKS[wanted.task]()
    examples = task.examples("test")[:2]
    return FineTuning(
        spec=wanted,
        task=task,
        method=METHODS["frozen"].build({}),
        model=model,
        optimizer=None,
        data={"test": EncodedSplit(examples, [model.encode(example) for example in examples])},
        batches=[],
        micro_batch=1,
        shots=shots_of(task, wanted),
        total_params=0,
    )


def test_drawn_answers_follow_the_seed_of_the_run(model: LanguageModel, small_decoder: str) -> None:
    first, again, other = (
        evaluate(untrained(model, spec(small_decoder, seed=seed, temperature=1.0)))
        .predictions["answer"]
        .tolist()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert set(first).isdisjoint(other)


def test_shots_are_solved_training_examples_before_the_prompt(
    model: LanguageModel, small_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks.TASKS["gsm_symbolic"]()
    wanted = spec(small_decoder, train=10, shots=3)
    shots = shots_of(task, wanted)
    assert len(shots) == 3
    assert all(shot in sample(task.examples("train"), 10) for shot in shots)
    seen: list[str] = []

    def recorded(model: LanguageModel, prompts: list[str], *rest: Any) -> Generated:
        seen.extend(prompts)
        return Generated([""] * len(prompts), 0, 0, 0)

    monkeypatch.setattr(evaluation, "generate", recorded)
    examples = task.examples("test")[:2]
    shown = evaluate(untrained(model, wanted))
    assert seen == [few_shot(shots, example) for example in examples]
    for prompt, example in zip(seen, examples, strict=True):
        assert prompt.endswith(f"\n\n{example.text}")
        assert prompt.startswith(f"{shots[0].text}{shots[0].target}\n\n{shots[1].text}")
    plain = evaluate(untrained(model, spec(small_decoder, train=10)))
    assert shown.metrics["nll"] == plain.metrics["nll"]
    assert few_shot([], examples[0]) == examples[0].text


def test_a_run_passes_shots_on_and_records_what_was_cut(
    small_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def recorded(model: LanguageModel, prompts: list[str], *rest: Any) -> Generated:
        seen.extend(prompts)
        return Generated([""] * len(prompts), tokens=0, cut=2, halvings=1)

    monkeypatch.setattr(evaluation, "generate", recorded)
    wanted = spec(small_decoder, shots=2)
    record = run(wanted).record
    assert record.data is not None
    assert (record.data.counts["test_prompts_cut"], record.data.counts["test_batches_halved"]) == (
        2,
        1,
    )
    task = tasks.TASKS["gsm_symbolic"]()
    assert seen == [
        few_shot(shots_of(task, wanted), example)
        for example in sample(task.examples("test"), 4)[:3]
    ]
    assert seen[0].count("Question:") == 3


def test_more_shots_than_training_examples_are_refused(small_decoder: str) -> None:
    with pytest.raises(
        InputError, match=r"data.shots = 11, but task 'gsm_symbolic' trains on 10 examples only"
    ):
        check_specs([spec(small_decoder, train=10, shots=11)])


@pytest.mark.parametrize("task", ["gsm8k", "mbpp"])
def test_data_that_cannot_be_had_are_found_before_anything_runs(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PEFTBENCH_HUB")
    with pytest.raises(InputError, match=r"PEFTBENCH_HUB is not set.*hf download") as caught:
        check_specs([spec("nowhere/at-all", task=task)])
    assert len(str(caught.value).splitlines()) == 1


def test_an_empty_split_is_found_before_anything_runs(
    small_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = tasks.TASKS["gsm_symbolic"]
    original = kind.examples
    monkeypatch.setattr(
        kind, "examples", lambda self, split: [] if split == "valid" else original(self, split)
    )
    check_specs([spec(small_decoder)])
    with pytest.raises(InputError, match="task 'gsm_symbolic': split 'valid' is empty"):
        check_specs([spec(small_decoder, eval_every=1)])
