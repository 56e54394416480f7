"""Answers of a language model: many at once, greedy or drawn, each ending where it ends and making
room for the next."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from peftbench.errors import InputError
from peftbench.training.base import by_length, room_for_prompt
from peftbench.training.language_model import LanguageModel

STOP_WINDOW = 24  # tokens at the end of an answer in which a stop string is looked for
# part of the rows that must have finished before others take their places, which copies the cache
FREED = 1 / 8
# padded tokens of prompts that are read at once; more is no faster, and adds padding
READ_TOKENS = {"cpu": 1024, "cuda": 16384}


@dataclass(frozen=True)
class Generated:
    """Answers in the order of their prompts, and what it took."""

    answers: list[str]
    tokens: int  # generated, including those that ended an answer
    cut: int  # prompts that lost their start, for want of room in the window
    halvings: int  # how often memory was short


@dataclass(frozen=True)
class Drawing:
    """Sampling: by inverse transform from one uniform number per answer and token, on the CPU, so
    that equal seeds draw alike on every device and in every batch."""

    temperature: float
    uniform: Tensor  # (prompts, tokens), float64

    def draw(self, logits: Tensor, prompts: Sequence[int], places: Sequence[int]) -> Tensor:
        """The next token of each row of logits, (rows, vocabulary): whose prompt it is, and which
        of its tokens, from 0."""
        cumulative = (logits.float() / self.temperature).softmax(-1).cpu().double().cumsum(-1)
        # times the sum of the probabilities, which rounding may leave below 1
        uniform = self.uniform[list(prompts), list(places), None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, uniform, right=True)  # (rows, 1)
        return token.clamp(max=logits.shape[-1] - 1).squeeze(-1).to(logits.device)


class End:
    """Tells when an answer has ended."""

    def __init__(self, model: LanguageModel, stops: Sequence[str]) -> None:
        named = model.net.generation_config.eos_token_id
        self.tokens = {
            model.tokenizer.eos_token_id,
            *(named if isinstance(named, list) else [named]),
        } - {None}
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
        """Whether a stop string may be complete with this token. Without this test every answer
        would be decoded at every step, which takes longer than the network on a GPU."""
        if token not in self.closing:
            # after another token, since alone it might lose a leading space
            text = self.text([*self.before, token])[len(self.text(self.before)) :]
            self.closing[token] = any(stop[-1] in text for stop in self.stops)
        return self.closing[token]


@dataclass(frozen=True)
class Running:
    """Answers in progress, one in each row. The tokens that a row has read are at its right end."""

    prompts: list[int]  # the prompt of each row
    token: Tensor  # (rows,), read next
    mask: Tensor  # (rows, width), of the tokens that have been read
    # in each layer keys and values, (rows, heads, width, size), or the state of a recurrence
    cache: DynamicCache

    def only(self, rows: list[int]) -> "Running":
        """Some of the rows. The cache is the same object, changed."""
        kept = torch.tensor(rows, device=self.mask.device)
        # by its name for beams, but the one selection that layers of every kind have
        self.cache.reorder_cache(kept)  # type: ignore[arg-type]
        return Running(
            [self.prompts[row] for row in rows], self.token[kept], self.mask[kept], self.cache
        )

    def trimmed(self) -> "Running":
        """Without the columns that are padding in every row. The cache is the same object,
        changed."""
        start = int(self.mask.any(0).int().argmax())
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.keys, layer.values = layer.keys[:, :, start:], layer.values[:, :, start:]
        return Running(self.prompts, self.token, self.mask[:, start:], self.cache)


@dataclass
class Work:
    """Answers that are to be generated. Prompts are read as others' answers end, so that no short
    answer waits for a long one."""

    model: LanguageModel
    prompts: list[list[int]]
    max_new_tokens: int
    end: End
    drawing: Drawing | None

    def __post_init__(self) -> None:
        self.new: list[list[int]] = [[] for _ in self.prompts]
        self.unfinished = set(range(len(self.prompts)))
        self.in_use = (0, 0)  # rows and tokens of the last batch that was tried
        # whether rows may join a batch in progress: caches of other kinds have a window
        layers = DynamicCache(config=self.model.net.config).layers
        self.joins = all(type(layer) is DynamicLayer for layer in layers)
        self.cache_argument = cache_argument(self.model.net)

    @torch.inference_mode()
    def finish(self, tokens: int) -> None:
        """Generate what is unfinished. About `tokens` tokens are in progress at a time, counting
        padding and the tokens that the answers may still get, but one row at least."""
        with self.model.computing():
            self._finish(tokens)

    def _finish(self, tokens: int) -> None:
        # the longest is read first
        waiting = sorted(self.unfinished, key=lambda i: len(self.prompts[i]))
        for prompt in waiting:
            self.new[prompt] = []
        running: Running | None = None
        while waiting or running:
            if running:
                running = self._unfinished(running)
            in_progress = running.prompts if running else []
            busy = len(in_progress)
            if waiting and (self.joins or not busy):
                longest = self.max_new_tokens + max(
                    len(self.prompts[i]) for i in [*in_progress, waiting[-1]]
                )
                free = max(tokens // longest, 1) - busy
                if not busy or free > FREED * busy:
                    taken = [waiting.pop() for _ in range(min(free, len(waiting)))]
                    self.in_use = (busy + len(taken), (busy + len(taken)) * longest)
                    parts = [running] if running else []
                    running = self._joined([*parts, *self._read(taken)])
            if running:
                running = self._step(running)

    def _unfinished(self, running: Running) -> Running | None:
        """The rows without the finished ones, as soon as those are many."""
        alive = [row for row, prompt in enumerate(running.prompts) if prompt in self.unfinished]
        if not alive:
            return None
        if len(alive) > (1 - FREED) * len(running.prompts):
            return running
        left = running.only(alive)
        return left.trimmed() if self.joins else left

    def _read(self, taken: list[int]) -> list[Running]:
        """The prompts, with the first token of each answer, those of like length together."""
        lengths = [len(self.prompts[i]) for i in taken]
        budget = READ_TOKENS[self.model.device.type] if self.joins else sum(lengths) * len(taken)
        groups: list[Running] = []
        for batch in by_length(lengths, budget):
            group = [taken[i] for i in batch]
            ids, mask = self.model.pad_rows([self.prompts[i] for i in group], left=True)
            cache = DynamicCache(config=self.model.net.config)
            token = self._next(group, self.model.inputs(ids, mask), cache, first=True)
            if self.joins and not cache.get_seq_length():
                raise InputError(f"{about(self.model.net)} leaves the cache empty that it is given")
            groups.append(Running(group, token, mask, cache))
        return groups

    def _step(self, running: Running) -> Running:
        # a finished row reads no more, and so stays within the window
        reads = [[prompt in self.unfinished] for prompt in running.prompts]
        mask = torch.cat([running.mask, running.mask.new_tensor(reads)], 1)
        inputs = {"input_ids": running.token[:, None], "attention_mask": mask}
        if "position_ids" in self.model.accepted:
            inputs["position_ids"] = mask.sum(-1, keepdim=True) - 1
        token = self._next(running.prompts, inputs, running.cache)
        return Running(running.prompts, token, mask, running.cache)

    def _next(
        self,
        prompts: list[int],
        inputs: dict[str, Tensor],
        cache: DynamicCache,
        first: bool = False,
    ) -> Tensor:
        """The next token of each row, (rows,); an unfinished answer gets it. first: the cache is
        empty."""
        last = {"logits_to_keep": 1} if "logits_to_keep" in self.model.accepted else {}
        # the model's own: a recurrence takes no mask after its first step
        prepared = self.model.net.prepare_inputs_for_generation(
            **inputs,
            **last,
            **{self.cache_argument: cache},
            use_cache=True,
            is_first_iteration=first,
        )
        logits = self.model.net(**prepared).logits[:, -1]  # (rows, vocabulary)
        if self.drawing is None:
            token = logits.argmax(-1)
        else:
            places = [min(len(self.new[i]), self.max_new_tokens - 1) for i in prompts]
            token = self.drawing.draw(logits, prompts, places)
        for prompt, value in zip(prompts, token.tolist(), strict=True):
            if prompt in self.unfinished:
                answer = self.new[prompt]
                answer.append(value)
                if len(answer) == self.max_new_tokens or self.end.reached(answer):
                    self.unfinished.remove(prompt)
        return token

    def _joined(self, parts: list[Running]) -> Running:
        """All rows in one."""
        if len(parts) == 1:
            return parts[0]
        width = max(part.mask.shape[1] for part in parts)
        cache = DynamicCache(config=self.model.net.config)
        for i, layers in enumerate(zip(*(part.cache.layers for part in parts), strict=True)):
            keys, values = (
                [F.pad(states, (0, 0, width - states.shape[2], 0)) for states in group]
                for group in zip(*((layer.keys, layer.values) for layer in layers), strict=True)
            )
            cache.update(torch.cat(keys), torch.cat(values), i)
        return Running(
            [prompt for part in parts for prompt in part.prompts],
            torch.cat([part.token for part in parts]),
            torch.cat([F.pad(part.mask, (width - part.mask.shape[1], 0)) for part in parts]),
            cache,
        )


def cache_argument(net: Any) -> str:
    """What the network's forward calls its cache: keys and values, or in Mamba states. Raises
    InputError where it takes none of transformers' caches."""
    accepted = inspect.signature(type(net).forward).parameters
    for name in ("past_key_values", "cache_params"):
        if name in accepted and net._supports_default_dynamic_cache():
            return name
    raise InputError(
        f"{about(net)} takes no cache of keys and values or states, "
        "without which no answers are generated here"
    )


def about(net: Any) -> str:
    """How messages name a network."""
    return f"model {net.config.name_or_path!r} ({net.config.model_type})"


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    max_new_tokens: int,
    stops: Sequence[str],
    batch_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int] = (),
) -> Generated:
    """Answers, each cut before its first stop string; greedy at temperature 0, else drawn, with one
    seed per prompt.

    About `batch_tokens` tokens are in progress at a time, counting padding and the tokens that the
    answers may still get; half as many where memory is short. Raises InputError where the model's
    window has no room for an answer.
    """
    window = None if model.window is None else model.window - len(model.virtual)
    room = room_for_prompt(window, max_new_tokens)
    encoded: list[list[int]] = [model.tokenizer(prompt)["input_ids"] for prompt in prompts]
    cut = 0
    if room is not None:
        cut = sum(len(tokens) > room for tokens in encoded)
        encoded = [tokens[-room:] for tokens in encoded]
    drawing = None
    if temperature and prompts:
        rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
        draws = [torch.rand(max_new_tokens, generator=rng, dtype=torch.float64) for rng in rngs]
        drawing = Drawing(temperature, torch.stack(draws))
    work, halvings = Work(model, encoded, max_new_tokens, End(model, stops), drawing), 0
    while work.unfinished:
        try:
            work.finish(batch_tokens)
        except (RuntimeError, MemoryError) as error:
            rows, tokens = work.in_use
            if rows == 1 or not lacks_memory(error):
                raise
            batch_tokens, halvings = tokens // 2, halvings + 1
    return Generated(
        answers=[_cut(model.text(tokens), stops) for tokens in work.new],
        tokens=sum(map(len, work.new)),
        cut=cut,
        halvings=halvings,
    )


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that memory is short; on a CPU torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _cut(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the stop strings."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text
