"""What the servers do with an adapter: each rule as it was read off the source of one version, the
wheel on PyPI.

A setting that a server does not read is an obstacle where it changes what the adapter computes:
such an adapter loads, and answers wrongly.
"""

from peftbench.servable.answer import Obstacle
from peftbench.wording import Words

VLLM, SGLANG = "vLLM 0.33.0", "SGLang 0.5.23"  # as they were read, on 2026-11-30
MOST_RANK = 512  # the highest of vLLM's MaxLoRARanks; a rank is rounded up to one of them


def of_vllm(words: Words, place: str) -> Obstacle:
    return Obstacle(words, f"{VLLM}: vllm/{place}")


def of_sglang(words: Words, place: str) -> Obstacle:
    return Obstacle(words, f"{SGLANG}: sglang/srt/lora/{place}")


def unknown(name: str, server: str) -> Obstacle:
    words = Words("nothing is known here of {0}", "此处不了解 {0}").format(name)
    return Obstacle(words, f"{server}: not looked for", certain=False)


FEATURES = "lora/peft_helper.py, PEFTHelper._validate_features"
NAMES = "lora/utils.py, parse_fine_tuned_lora_name"  # lora_A, lora_B, score and classifier
BUFFERS = "mem_pool.py, load_lora_weight_to_buffer"  # of a layer, what is no lora_A is a lora_B

NOT_LORA = Words("serves LoRA only", "只支持 LoRA")
VLLM_NOT_LORA = of_vllm(NOT_LORA, NAMES)
SGLANG_NOT_LORA = of_sglang(NOT_LORA, "lora.py, LoRAAdapter.__init__")

HEAD = Words("a trained head", "训练过的分类头")
VLLM_HEAD = of_vllm(HEAD, FEATURES)
VLLM_SOME_HEADS = Obstacle(
    Words(
        "a trained head, unless it is one linear layer called score or classifier",
        "训练过的分类头,除非是名为 score 或 classifier 的单个线性层",
    ),
    f"{VLLM_HEAD.source}; vllm/lora/lora_model.py, from_lora_tensors",
    certain=False,
)
SGLANG_HEAD = of_sglang(HEAD, "lora.py, LoRAAdapter._process_weight")  # leaves it out

MEAN_HEAD = Obstacle(
    Words("a head that transformers does not have", "transformers 没有的分类头"),
    "peftbench/training/mean_pooling.py",
)
LONE_HEAD = Obstacle(
    Words("a trained head, saved alone", "训练过的分类头,单独保存"), "peftbench/methods/frozen.py"
)

VLLM_RANK = of_vllm(
    Words(f"rank above {MOST_RANK}", f"秩大于 {MOST_RANK}"), "config/lora.py, MaxLoRARanks"
)
SGLANG_SCALE = of_sglang(
    Words("takes alpha / r for the scale of all layers", "所有层的缩放一律取 alpha / r"),
    "lora.py, LoRAAdapter.__init__",
)
SGLANG_TARGETS = of_sglang(
    Words("target_modules must be a list", "target_modules 必须是列表"),
    "utils.py, get_normalized_target_modules",
)
SGLANG_TOGETHER = of_sglang(
    Words(
        "takes q_proj and v_proj together, k_proj with them, and up_proj with gate_proj",
        "q_proj 与 v_proj 须同时适配,k_proj 须与二者一起,up_proj 须与 gate_proj 一起",
    ),
    "lora.py, normalize_qkv_proj, normalize_gate_up_proj",
)
BIASES = Words("trained biases", "训练过的偏置")
CHANGED_BASE = Words("initial values that change the base", "改变基座权重的初始化")
# Initial values that leave the base as it is (vLLM's _init_is_supported). The others, PiSSA's for
# one, are taken out of it, and LoftQ's base is another one altogether.
KEEP_BASE = {"gaussian", "eva", "orthogonal", "mica"}
LOFTQ = "loftq"

# Settings of peft's LoRA that make it compute something else, and where the servers fail it.
VARIANTS: dict[str, tuple[Words, str, str]] = {
    "use_dora": (Words.same("DoRA"), FEATURES, "lora_manager.py, validate_new_adapter"),
    "lora_bias": (BIASES, FEATURES, BUFFERS),
    "alora_invocation_tokens": (Words.same("aLoRA"), FEATURES, "lora_config.py, LoRAConfig"),
    "layer_replication": (
        Words("replicated layers", "复制的层"),
        FEATURES,
        "lora_config.py, LoRAConfig",
    ),
    "use_bdlora": (Words.same("BD-LoRA"), FEATURES, BUFFERS),
    "use_qalora": (Words.same("QALoRA"), FEATURES, BUFFERS),
    "trainable_token_indices": (Words("trained tokens", "训练过的词元"), NAMES, BUFFERS),
}
# Settings that say where an adapter is, how it begins or trains, and those that are asked about.
READ = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path"),
    *("revision", "inference_mode", "lora_dropout", "fan_in_fan_out", "runtime_config"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "megatron_config"),
    *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("qalora_group_size", "ensure_weight_tying"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias"),
    *("init_lora_weights", "target_modules", "modules_to_save", *VARIANTS),
}
