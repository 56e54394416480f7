"""The tasks, by the names users type."""

from peftbench.tasks.base import AbstractTask
from peftbench.tasks.glue import MNLI, MRPC, QNLI, QQP, RTE, SST2, STSB, WNLI, CoLA
from peftbench.tasks.gsm8k import GSM8K
from peftbench.tasks.gsm_symbolic import GSMSymbolic
from peftbench.tasks.humaneval import HumanEval
from peftbench.tasks.mbpp import MBPP
from peftbench.tasks.reviews import Reviews

TASKS: dict[str, type[AbstractTask]] = {
    "reviews": Reviews,
    "gsm_symbolic": GSMSymbolic,
    "humaneval": HumanEval,
    "cola": CoLA,
    "sst2": SST2,
    "mrpc": MRPC,
    "stsb": STSB,
    "qqp": QQP,
    "mnli": MNLI,
    "qnli": QNLI,
    "rte": RTE,
    "wnli": WNLI,
    "gsm8k": GSM8K,
    "mbpp": MBPP,
}
