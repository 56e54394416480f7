"""LoRA: y = W x + (alpha / r) B A x, A and B trained."""

from peftbench.methods.base import rates
from peftbench.methods.low_rank import AbstractLowRankMethod


class LoRA(AbstractLowRankMethod):
    """Low-rank adaptation.

    alpha is not searched: under Adam, alpha times c with B's learning rate divided by c trains
    identically (see the invariance in tests/test_methods.py), so that lr and alpha together are lr
    and LoRA+'s ratio. In LoRA-FA alpha and lr are the same dimension, and in Delta-LoRA (K = 0)
    alpha and lambda are.
    """

    version = 1
    paper = "arXiv:2106.09685"
    lr = 1e-3
    space = rates(1e-4, 1e-2)
