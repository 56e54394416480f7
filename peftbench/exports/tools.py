"""The tools, by the names that `--to` takes."""

from peftbench.exports.axolotl import AXOLOTL
from peftbench.exports.llama_factory import LLAMA_FACTORY
from peftbench.exports.scripts import PEFT, TRL, UNSLOTH
from peftbench.exports.tool import Tool
from peftbench.exports.torchtune import TORCHTUNE

TOOLS: dict[str, Tool] = {
    tool.name: tool for tool in (PEFT, TRL, LLAMA_FACTORY, AXOLOTL, TORCHTUNE, UNSLOTH)
}
