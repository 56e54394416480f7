"""How fast answers are generated: by peftbench, many at once; by transformers' `generate`, one by
one; and by transformers' `generate_batch`, many at once. The same answers, in one process."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from peftbench.errors import InputError, unknown
from peftbench.tasks import TASKS
from peftbench.tasks.base import sample
from peftbench.training.environment import auto_precision, choose_device
from peftbench.training.evaluation import GENERATE_TOKENS
from peftbench.training.generation import generate
from peftbench.training.language_model import LanguageModel
from peftbench.training.models import load

# Of logits. Where two tokens are closer than this, a batch's different order of sums may decide.
TIE = 1e-3


@dataclass(frozen=True)
class Answers:
    """Texts, and the number of tokens generated for them."""

    texts: list[str]
    tokens: int


def ours(model: LanguageModel, prompts: Sequence[str], new_tokens: int) -> Answers:
    generated = generate(model, prompts, new_tokens, (), GENERATE_TOKENS[model.device.type])
    return Answers(generated.answers, generated.tokens)


@torch.inference_mode()
def one_by_one(model: LanguageModel, prompts: Sequence[str], new_tokens: int) -> Answers:
    rows: list[list[int]] = []
    for prompt in prompts:
        inputs = model.tokenizer(prompt, return_tensors="pt").to(model.device)
        output = model.net.generate(**inputs, generation_config=greedy(model, new_tokens))
        rows.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    return Answers([model.text(row) for row in rows], sum(map(len, rows)))


def generate_batch(model: LanguageModel, prompts: Sequence[str], new_tokens: int) -> Answers:
    outputs = model.net.generate_batch(
        [model.tokenizer(prompt)["input_ids"] for prompt in prompts],
        generation_config=greedy(model, new_tokens),
    )
    rows = [output.generated_tokens for output in outputs.values()]
    if len(rows) != len(prompts):
        raise RuntimeError(f"generate_batch answered {len(rows)} of {len(prompts)} questions")
    return Answers([model.text(row) for row in rows], sum(map(len, rows)))


def greedy(model: LanguageModel, new_tokens: int) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=model.pad,
        eos_token_id=model.net.generation_config.eos_token_id,
    )


SIDES = {"ours": ours, "one by one": one_by_one, "generate_batch": generate_batch}


@torch.inference_mode()
def tied(model: LanguageModel, prompt: str, one: str, other: str) -> bool:
    """Whether the first tokens in which two answers differ are equally likely, or nearly so."""
    first, second = (model.tokenizer(prompt + answer)["input_ids"] for answer in (one, other))
    part = next(
        (i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(second)),
    )
    logits = model.net(torch.tensor([first[:part]], device=model.device)).logits[0, -1].float()
    return bool(logits.max() - logits.topk(2).values[-1] < TIE)


def spread(values: Sequence[float], unit: str) -> str:
    return f"{statistics.median(values):.1f} {unit} ({min(values):.1f} to {max(values):.1f})"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: python benchmarks/generation.py --questions 16 --repeats 2",
    )
    parser.add_argument(
        "--model",
        default="smollm2-135m",
        help="a packaged model, a folder or a hub id (default: smollm2-135m)",
    )
    parser.add_argument(
        "--task",
        default="gsm_symbolic",
        help="whose test questions; gsm8k needs the hub or a mirror (default: gsm_symbolic)",
    )
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument(
        "--new-tokens",
        type=int,
        default=128,
        help="of an answer, at most; no stop string ends it before (default: 128)",
    )
    parser.add_argument("--repeats", type=int, default=3, help="all sides in turn (default: 3)")
    return parser.parse_args()


def main() -> int:
    given = options()
    device = choose_device()
    dtype = torch.float32 if auto_precision(device) == "float32" else torch.bfloat16
    try:
        if given.task not in TASKS:
            raise unknown("task", given.task, TASKS)
        examples = sample(TASKS[given.task]().examples("test"), given.questions)
        model = load(given.model, "generation", 1, device=device, dtype=dtype, max_length=512)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    assert isinstance(model, LanguageModel)
    model.net.eval()
    prompts = [example.text for example in examples]
    print(
        f"{given.model}, {len(prompts)} questions of {given.task}, "
        f"{given.new_tokens} new tokens, {device}, {dtype}",
        flush=True,
    )
    for side in SIDES.values():
        side(model, prompts[:2], 4)  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    for repeat in range(given.repeats):
        answers: dict[str, Answers] = {}
        for name, side in SIDES.items():
            start = time.perf_counter()
            answers[name] = side(model, prompts, given.new_tokens)
            rates[name].append(answers[name].tokens / (time.perf_counter() - start))
        print(f"repeat {repeat + 1}, load average {os.getloadavg()[0]:.1f}:", flush=True)
        for name, values in rates.items():
            pairs = zip(prompts, answers[name].texts, answers["one by one"].texts, strict=True)
            different = [pair for pair in pairs if pair[1] != pair[2]]
            if not all(tied(model, *pair) for pair in different):
                print(f"{name}: an answer differs, and not from a tie on", file=sys.stderr)
                return 1
            ties = f", {len(different)} answers differ from a tie on" if different else ""
            print(f"  {name}: {values[-1]:.1f} tokens/s{ties}", flush=True)
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(rates["ours"], values, strict=True)]
        print(f"{name}: {spread(values, 'tokens/s')}; ours is {spread(ratios, 'times as fast')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
