"""Answers of a language model: many prompts at once, greedy or drawn, each ending where it ends."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from peftbench.errors import InputError
from peftbench.models import LanguageModel, by_length

STOP_WINDOW = 24  # tokens at the end of an answer in which a stop string is looked for
KEPT = 7 / 8  # part of a batch that may be left unfinished before the finished rows are dropped, which copies the cache


@dataclass(frozen=True)
class Generated:
    """Answers in the order of their prompts, and what it took."""

    answers: list[str]
    tokens: int  # generated, with those that ended an answer
    cut: int  # prompts that lost their start, since the window had no room for them and an answer
    halvings: int  # times that a batch did not fit in memory


@dataclass(frozen=True)
class Drawing:
    """Sampling: by inverse transform from one uniform number per answer and token, on the CPU, so that equal seeds draw alike on every
    device and in every batch."""

    temperature: float
    uniform: Tensor  # (prompts, tokens), float64

    @classmethod
    def seeded(cls, temperature: float, tokens: int, seeds: Sequence[int]) -> "Drawing":
        """One seed per prompt."""
        rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
        return cls(temperature, torch.stack([torch.rand(tokens, generator=rng, dtype=torch.float64) for rng in rngs]))

    def of(self, prompts: Sequence[int]) -> "Drawing":
        """That of some of the prompts, in the given order."""
        return Drawing(self.temperature, self.uniform[list(prompts)])

    def draw(self, logits: Tensor, rows: Sequence[int], token: int) -> Tensor:
        """The next token of each row of logits, (rows, vocabulary); `rows` names their prompts, `token` counts from 0."""
        reached = (logits.float() / self.temperature).softmax(-1).cpu().double().cumsum(-1)
        goal = self.uniform[list(rows), token, None] * reached[:, -1:]  # what rounding leaves below 1 is nobody's
        return torch.searchsorted(reached, goal, right=True).clamp(max=logits.shape[-1] - 1).squeeze(-1).to(logits.device)


class End:
    """Tells when an answer has ended."""

    def __init__(self, model: LanguageModel, stops: Sequence[str]) -> None:
        named = model.net.generation_config.eos_token_id
        self.tokens = {model.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
        self.stops = stops
        self.text = model.text
        self.before: list[int] = model.tokenizer("a", add_special_tokens=False)["input_ids"]
        self.closing: dict[int, bool] = {}

    def reached(self, answer: list[int]) -> bool:
        """Whether the newest token ends the answer."""
        if answer[-1] in self.tokens:
            return True
        if not self._closes(answer[-1]):
            return False
        tail = self.text(answer[-STOP_WINDOW:])
        return any(stop in tail for stop in self.stops)

    def _closes(self, token: int) -> bool:
        """Whether a stop string may be complete with this token: decoding every answer at every step would take longer than the network
        on a GPU."""
        if token not in self.closing:
            text = self.text([*self.before, token])[len(self.text(self.before)) :]  # alone, it might lose a leading space
            self.closing[token] = any(stop[-1] in text for stop in self.stops)
        return self.closing[token]


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    max_new_tokens: int,
    stops: Sequence[str],
    batch_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int] = (),
) -> Generated:
    """Answers, each cut before its first stop string; greedy at temperature 0, else drawn, with one seed per prompt.

    Prompts of like length share a batch of at most `batch_tokens` tokens, answers and padding included. A batch that does not fit in memory
    is halved, as are those that wait. Raises InputError where the model's window has no room for an answer.
    """
    room = None if model.window is None else model.window - max_new_tokens
    if room is not None and room < 1:
        raise InputError(f"max_new_tokens = {max_new_tokens} leaves no room for a prompt in the model's window of {model.window} tokens")
    whole: list[list[int]] = [model.tokenizer(prompt)["input_ids"] for prompt in prompts]
    encoded = [tokens if room is None else tokens[-room:] for tokens in whole]
    drawing = Drawing.seeded(temperature, max_new_tokens, seeds) if temperature and prompts else None
    end, new, halvings = End(model, stops), dict[int, list[int]](), 0
    waiting = by_length([len(tokens) + max_new_tokens for tokens in encoded], batch_tokens)
    while waiting:
        chosen = waiting.pop()  # the longest first
        try:
            found = _batch(model, [encoded[i] for i in chosen], max_new_tokens, end, drawing and drawing.of(chosen))
        except (RuntimeError, MemoryError) as error:
            if len(chosen) == 1 or not lacks_memory(error):
                raise
            found = None
        if found is None:  # only here is the memory that the error held free again
            halvings += 1
            waiting = [half for batch in [*waiting, chosen] for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]) if half]
        else:
            new |= zip(chosen, found, strict=True)
    return Generated(
        answers=[_cut(model.text(new[i]), stops) for i in range(len(prompts))],
        tokens=sum(map(len, new.values())),
        cut=sum(len(tokens) < len(all_tokens) for tokens, all_tokens in zip(encoded, whole, strict=True)),
        halvings=halvings,
    )


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that memory is short; torch has a plain RuntimeError for it on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@torch.inference_mode()
def _batch(model: LanguageModel, prompts: list[list[int]], max_new_tokens: int, end: End, drawing: Drawing | None) -> list[list[int]]:
    """New tokens of each prompt."""
    ids, mask = model.pad_rows(prompts, left=True)
    inputs = model.inputs(ids, mask)
    cache = DynamicCache(config=model.net.config)
    rows = list(range(len(prompts)))  # which prompt each row of the batch belongs to
    unfinished = set(rows)
    new: list[list[int]] = [[] for _ in prompts]
    last = {"logits_to_keep": 1} if "logits_to_keep" in model.accepted else {}
    for step in range(max_new_tokens):
        logits = model.net(**inputs, **last, past_key_values=cache, use_cache=True).logits[:, -1]  # (rows, vocabulary)
        token = logits.argmax(-1) if drawing is None else drawing.draw(logits, rows, step)  # (rows,)
        for prompt, value in zip(rows, token.tolist(), strict=True):
            if prompt in unfinished:
                new[prompt].append(value)
                if end.reached(new[prompt]):
                    unfinished.remove(prompt)
        if not unfinished:
            break
        if len(unfinished) <= KEPT * len(rows):
            alive = [row for row, prompt in enumerate(rows) if prompt in unfinished]
            kept = torch.tensor(alive, device=model.device)
            cache.batch_select_indices(kept)
            token, mask = token[kept], mask[kept]
            rows = [rows[row] for row in alive]
        mask = F.pad(mask, (0, 1), value=1)
        inputs = {"input_ids": token[:, None], "attention_mask": mask}
        if "position_ids" in model.accepted:
            inputs["position_ids"] = mask.sum(-1, keepdim=True) - 1
    return new


def _cut(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the stop strings."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text
