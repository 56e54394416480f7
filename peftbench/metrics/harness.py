"""GSM8K's two metrics as lm-evaluation-harness computes them.

EleutherAI/lm-evaluation-harness 0.4.13: lm_eval/tasks/gsm8k/gsm8k.yaml (its version 3.0), with
lm_eval/filters/extraction.py (RegexFilter) and lm_eval/api/metrics.py (exact_match_hf_evaluate).
"""

import re

# name -> what is found in an answer, and which of the finds counts
FILTERS = {
    "strict-match": (re.compile(r"#### (\-?[0-9\.\,]+)"), 0),
    "flexible-extract": (re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)"), -1),
}
# removed one after the other, from the find and from the worked answer
IGNORED = [re.compile(pattern) for pattern in (",", r"\$", r"(?s).*#### ", r"\.$")]
NO_FIND = "[invalid]"


def agrees(name: str, answer: str, reference: str) -> bool:
    """Whether an answer is right by the filter `name`; reference: the worked answer."""
    pattern, counts = FILTERS[name]
    finds = list(pattern.finditer(answer))
    find = finds[counts][finds[counts].lastindex or 0].strip() if finds else NO_FIND
    for ignored in IGNORED:
        find, reference = ignored.sub("", find), ignored.sub("", reference)
    return find.lower() == reference.lower()
