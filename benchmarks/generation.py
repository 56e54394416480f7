"""How fast answers are generated: ours, many at once, against transformers' `generate`, one by one;
the same answers, in one run."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from peftbench.errors import InputError, unknown
from peftbench.tasks import TASKS
from peftbench.tasks.base import sample
from peftbench.training.evaluation import GENERATE_TOKENS
from peftbench.training.generation import generate
from peftbench.training.measure import choose_device, choose_dtype
from peftbench.training.models import LanguageModel, load

# of logits: where two tokens are closer than this, a batch's other order of sums may pick the other
# one
TIE = 1e-3


@dataclass(frozen=True)
class Timed:
    """Answers, and the tokens generated per second."""

    answers: list[str]
    tokens_per_second: float


def ours(model: LanguageModel, prompts: Sequence[str], new_tokens: int) -> Timed:
    start = time.perf_counter()
    found = generate(model, prompts, new_tokens, (), GENERATE_TOKENS[model.device.type])
    return Timed(found.answers, found.tokens / (time.perf_counter() - start))


@torch.inference_mode()
def theirs(model: LanguageModel, prompts: Sequence[str], new_tokens: int) -> Timed:
    answers, tokens, start = [], 0, time.perf_counter()
    for prompt in prompts:
        inputs = model.tokenizer(prompt, return_tensors="pt").to(model.device)
        found = model.net.generate(
            **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=model.pad
        )
        new = found[0, inputs["input_ids"].shape[1] :].tolist()
        tokens += len(new)
        answers.append(model.text(new))
    return Timed(answers, tokens / (time.perf_counter() - start))


@torch.inference_mode()
def tied(model: LanguageModel, prompt: str, one: str, other: str) -> bool:
    """Whether two answers part where the logits of their next tokens are as good as equal."""
    first, second = (model.tokenizer(prompt + answer)["input_ids"] for answer in (one, other))
    part = next(
        (i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(second)),
    )
    logits = model.net(torch.tensor([first[:part]], device=model.device)).logits[0, -1].float()
    return bool(logits.max() - logits.topk(2).values[-1] < TIE)


def spread(values: Sequence[float], unit: str) -> str:
    return f"{statistics.median(values):.1f}{unit} ({min(values):.1f} to {max(values):.1f})"


def main() -> int:
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
    parser.add_argument("--repeats", type=int, default=3, help="of both in turn (default: 3)")
    options = parser.parse_args()
    try:
        if options.task not in TASKS:
            raise unknown("task", options.task, TASKS)
        prompts = [
            example.text
            for example in sample(TASKS[options.task]().examples("test"), options.questions)
        ]
        device = choose_device()
        dtype = choose_dtype(device, "auto")
        model = load(options.model, "generation", 1, device=device, dtype=dtype, max_length=512)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    assert isinstance(model, LanguageModel)
    model.net.eval()
    sides: dict[str, Callable[[LanguageModel, Sequence[str], int], Timed]] = {
        "ours": ours,
        "one by one": theirs,
    }
    for side in sides.values():
        side(model, prompts[:2], 4)  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in sides}
    print(
        f"{options.model}, {len(prompts)} questions of {options.task}, {options.new_tokens} new tokens, {device}, {dtype}",
        flush=True,
    )
    for repeat in range(options.repeats):
        found = {name: side(model, prompts, options.new_tokens) for name, side in sides.items()}
        for name, timed in found.items():
            rates[name].append(timed.tokens_per_second)
        pairs = list(zip(prompts, found["ours"].answers, found["one by one"].answers, strict=True))
        different = [pair for pair in pairs if pair[1] != pair[2]]
        if not all(tied(model, *pair) for pair in different):
            print(
                "the answers differ, and not only where two tokens are as likely", file=sys.stderr
            )
            return 1
        same = f"{len(pairs) - len(different)} of {len(pairs)} answers are the same" + (
            ", the others part at a tie" if different else ""
        )
        rate = ", ".join(f"{name} {timed.tokens_per_second:.1f}" for name, timed in found.items())
        print(
            f"repeat {repeat + 1}: tokens/s: {rate}; {same}; load average {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    for name, values in rates.items():
        print(f"{name}: {spread(values, ' tokens/s')}")
    print(f"ratio: {spread([a / b for a, b in zip(*rates.values(), strict=True)], ' x')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
