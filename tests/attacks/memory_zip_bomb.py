"""Unpacks gigabytes from a few kilobytes.

Fate: error.
"""

import zlib


def solve() -> int:
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    unpacked = []
    while True:
        unpacked.append(zlib.decompress(packed))
