"""The methods, by the names users type."""

from peftbench.methods.base import AbstractMethod
from peftbench.methods.delta_lora import DeltaLoRA
from peftbench.methods.frozen import Frozen
from peftbench.methods.full import Full
from peftbench.methods.lora import LoRA
from peftbench.methods.lora_fa import LoRAFA
from peftbench.methods.lora_plus import LoRAPlus
from peftbench.methods.peft_method import Peft
from peftbench.methods.vera import VeRA

# The suite's own methods, and with them every method that an arm may name.
OURS: dict[str, type[AbstractMethod]] = {
    "full": Full,
    "frozen": Frozen,
    "lora": LoRA,
    "lora-fa": LoRAFA,
    "vera": VeRA,
    "delta-lora": DeltaLoRA,
    "lora+": LoRAPlus,
}
METHODS: dict[str, type[AbstractMethod]] = {**OURS, "peft": Peft}
