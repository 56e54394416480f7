"""The tools, by the names that `--to` takes."""

from peftbench.export.axolotl import AXOLOTL
from peftbench.export.llama_factory import LLAMA_FACTORY
from peftbench.export.scripts import PEFT, TRL, UNSLOTH
from peftbench.export.tool import Tool
from peftbench.export.torchtune import TORCHTUNE

TOOLS: dict[str, Tool] = {
    tool.name: tool for tool in (PEFT, TRL, LLAMA_FACTORY, AXOLOTL, TORCHTUNE, UNSLOTH)
}
