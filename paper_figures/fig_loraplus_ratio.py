"""Draw LoRA+ over a grid of learning rates and ratios, against LoRA: loraplus_ratio.{pdf,png}."""

import sys

from peftbench.figures.lora_plus_ratio import lora_plus_ratio
from peftbench.figures.script import script

FIGURES = {"loraplus_ratio": lora_plus_ratio}

if __name__ == "__main__":
    sys.exit(script(__doc__, FIGURES))
