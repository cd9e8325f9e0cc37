"""Checksums of stored tensors: XXH3 of 128 bits, which costs a tenth of what any disk does.

It finds damage, not malice: nothing that is opened is trusted because of it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import xxhash

ALGORITHM = "xxh3_128"
BLOCK = 8 << 20


def running_sum() -> xxhash.xxh3_128:
    """A checksum that takes one ``update`` after another."""
    return xxhash.xxh3_128()


def file_sum(path: Path, algorithm: str = ALGORITHM) -> str:
    """The checksum of a file, in hex; ``sha256`` is that of older checkpoints. OSError when it cannot be read."""
    with path.open("rb") as file:
        if algorithm != ALGORITHM:
            return hashlib.file_digest(file, algorithm).hexdigest()
        digest = running_sum()
        while block := file.read(BLOCK):
            digest.update(block)
        return digest.hexdigest()
