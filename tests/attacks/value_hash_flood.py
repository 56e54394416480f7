"""Answers a dictionary whose keys all have one hash.

Fate: wrong.
"""


def solve() -> dict[int, int]:
    modulus = (1 << 61) - 1  # sys.hash_info.modulus
    return {modulus * number: 1 for number in range(1, 2000)}
