"""Whether vLLM and SGLang serve what an arm leaves as it is, as far as the arm decides. Whether
they have the model is another question."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from peftbench.servable.answer import Form, Obstacle, Servable
from peftbench.servable.rules import (
    BIASES,
    BUFFERS,
    CHANGED_BASE,
    FEATURES,
    KEEP_BASE,
    LOFTQ,
    LONE_HEAD,
    MEAN_HEAD,
    MOST_RANK,
    READ,
    SGLANG,
    SGLANG_HEAD,
    SGLANG_NOT_LORA,
    SGLANG_SCALE,
    SGLANG_TARGETS,
    SGLANG_TOGETHER,
    VARIANTS,
    VLLM,
    VLLM_HEAD,
    VLLM_NOT_LORA,
    VLLM_RANK,
    VLLM_SOME_HEADS,
    of_sglang,
    of_vllm,
    unknown,
)
from peftbench.spec import RunSpec
from peftbench.wording import Words

# Methods of peft whose adapters `peftbench export --to lora` makes into plain LoRA, and the key of
# their rank.
EXPORTED = {"VERA": "r", "ADALORA": "init_r"}


class LowRankArgs(BaseModel):
    """Of our methods, what decides; further args do not."""

    model_config = ConfigDict(frozen=True)

    rank: int
    targets: str | tuple[str, ...] = "all-linear"
    start_step: int = 0  # Delta-LoRA's


class PeftLoraArgs(BaseModel):
    """Of peft's LoRA, what decides beside VARIANTS."""

    model_config = ConfigDict(frozen=True)

    r: int
    lora_alpha: float
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    bias: str = "none"
    init_lora_weights: bool | str | None = True
    target_modules: str | tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] | None = None

    @property
    def uniform(self) -> bool:
        """Whether all layers have the same rank and alpha."""
        ranks, alphas = (self.rank_pattern or {}).values(), (self.alpha_pattern or {}).values()
        return {*ranks} <= {self.r} and {*alphas} <= {self.lora_alpha}

    @property
    def is_doubled(self) -> bool:
        """Whether the initial values are taken out of the base: the suite saves such an adapter
        as an ordinary LoRA file of twice the rank, which opens on the plain model."""
        init = self.init_lora_weights
        return isinstance(init, str) and init.lower() not in KEEP_BASE

    @property
    def changes_base(self) -> bool:
        """Whether no file of it opens on the plain model."""
        return self.is_doubled and (not self.uniform or self.init_lora_weights == LOFTQ)


def servable(spec: RunSpec, *, head: bool) -> Servable:
    """How what an arm's run leaves can be served.

    head: whether the run has trained a classification head, which an adapter's file holds among
    peft's `modules_to_save`.
    """
    try:
        return _servable(spec, head)
    except ValidationError:  # a record may hold args that no method has
        return Servable("adapter", *(unknown("its args", server) for server in (VLLM, SGLANG)))


def _servable(spec: RunSpec, head: bool) -> Servable:
    """Raises ValidationError on args that are not those of the method."""
    match spec.method:
        case "full":
            own = MEAN_HEAD if head and spec.pooling == "mean" else None
            return Servable("model", own, own)
        case "frozen":
            alone = LONE_HEAD if head else None
            return Servable("base", alone, alone)
        case "lora" | "lora-fa" | "lora+":
            return _plain("adapter", spec, 1, head)
        case "delta-lora":
            return _plain("adapter", spec, _ranks_of_delta(spec), head)
        case "vera":  # A' = diag(d) A, B' = diag(b) B
            return _plain("export", spec, 1, head)
        case "peft" if spec.args.get("peft_type") == "LORA":
            args = PeftLoraArgs.model_validate(spec.args)
            return Servable(
                "adapter",
                _worst(_vllm_on_peft(spec, args, head)),
                _worst(_sglang_on_peft(spec, args, head)),
            )
        case "peft" if spec.args.get("peft_type") in EXPORTED:
            targets = spec.args.get("target_modules") or "all-linear"
            rank = spec.args.get(EXPORTED[spec.args["peft_type"]])
            own = LowRankArgs.model_validate({"rank": rank, "targets": targets})
            return _ordinary("export", spec, own, own.rank, head)
        case "peft":
            return Servable("adapter", VLLM_NOT_LORA, SGLANG_NOT_LORA)
        case method:
            return Servable("adapter", *(unknown(method, server) for server in (VLLM, SGLANG)))


def _ranks_of_delta(spec: RunSpec) -> int:
    """How many times its rank the adapter has: twice once W moves from a step on that is not the
    start (methods/delta_lora.py)."""
    start = LowRankArgs.model_validate(spec.args).start_step
    return 2 if 1 <= start <= spec.train.steps else 1


def _plain(form: Form, spec: RunSpec, ranks: int, head: bool) -> Servable:
    """Of an adapter that is an ordinary LoRA file, or becomes one, of `ranks` times its rank: the
    scale is alpha / r, and the layers are a list (but where their names end alike, as
    methods/adapter_file.py says)."""
    args = LowRankArgs.model_validate(spec.args)
    return _ordinary(form, spec, args, ranks * args.rank, head)


def _ordinary(form: Form, spec: RunSpec, args: LowRankArgs, rank: int, head: bool) -> Servable:
    """Likewise of a file of a rank."""
    obstacles = [VLLM_RANK] if rank > MOST_RANK else []
    obstacles += [_head(spec)] if head else []
    sglang = SGLANG_HEAD if head else _together(args.targets)
    return Servable(form, _worst(obstacles), sglang)


def _worst(obstacles: Iterable[Obstacle]) -> Obstacle | None:
    """The first that is certain, else the first; None without any."""
    return min(obstacles, key=lambda obstacle: not obstacle.certain, default=None)


def _head(spec: RunSpec) -> Obstacle:
    """The head on the mean is a module of ours, called neither score nor classifier."""
    return VLLM_HEAD if spec.pooling == "mean" else VLLM_SOME_HEADS


def _together(targets: str | tuple[str, ...]) -> Obstacle | None:
    """SGLang joins projections that it computes as one."""
    if isinstance(targets, str):  # all linear layers
        return None
    names = {target.rpartition(".")[2] for target in targets}
    parted = names & {"q_proj", "k_proj", "v_proj"} and not {"q_proj", "v_proj"} <= names
    return SGLANG_TOGETHER if parted or ("up_proj" in names and "gate_proj" not in names) else None


def _vllm_on_peft(spec: RunSpec, args: PeftLoraArgs, head: bool) -> Iterator[Obstacle]:
    """What keeps vLLM from serving an adapter of peft's LoRA."""
    if args.modules_to_save:
        yield VLLM_HEAD
    if head:
        yield _head(spec)
    rank = max([args.r, *(args.rank_pattern or {}).values()])
    if (2 if args.is_doubled else 1) * rank > MOST_RANK:
        yield VLLM_RANK
    yield from (of_vllm(words, place) for words, place, _ in _variants(spec.args))
    if args.bias != "none":
        yield of_vllm(BIASES, "lora/peft_helper.py, PEFTHelper.validate_legal")
    if args.changes_base:
        yield of_vllm(CHANGED_BASE, FEATURES)
    yield from (unknown(name, VLLM) for name in _unread(spec.args))


def _sglang_on_peft(spec: RunSpec, args: PeftLoraArgs, head: bool) -> Iterator[Obstacle]:
    """What keeps SGLang from serving an adapter of peft's LoRA."""
    if head or args.modules_to_save:
        yield SGLANG_HEAD
    yield from (of_sglang(words, place) for words, _, place in _variants(spec.args))
    if (args.use_rslora and not args.is_doubled) or not args.uniform:
        yield SGLANG_SCALE
    if args.bias != "none":
        yield of_sglang(BIASES, BUFFERS)
    if args.changes_base:
        yield of_sglang(CHANGED_BASE, "lora_config.py, LoRAConfig")
    targets = args.target_modules or ()
    if isinstance(targets, str) and targets != "all-linear":
        yield SGLANG_TARGETS
    elif parted := _together(targets):
        yield parted
    yield from (unknown(name, SGLANG) for name in _unread(spec.args))


def _variants(args: Mapping[str, Any]) -> Iterator[tuple[Words, str, str]]:
    return (variant for name, variant in VARIANTS.items() if args.get(name))


def _unread(args: Mapping[str, Any]) -> list[str]:
    """Settings that are on and of which nothing was read."""
    return [name for name, value in args.items() if value and name not in READ]
