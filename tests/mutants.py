"""Seeded mutants of a valid file: flipped bytes, false numbers, cut, doubled, moved and swapped pieces."""

from __future__ import annotations

import random
from collections.abc import Iterator

NUMBERS = [0, 1, 2, 3, 9, 13, 31, 32, 64, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]


def mutants(seed_file: bytes, count: int, seed: int, head: int | None = None) -> Iterator[bytes]:
    """`count` damaged copies of `seed_file`; damage falls into its first `head` bytes (all by default)."""
    rng = random.Random(seed)
    limit = len(seed_file) if head is None else head
    for _ in range(count):
        raw = bytearray(seed_file)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            _damage(raw, rng, min(limit, len(raw)))
        yield bytes(raw)


def _damage(raw: bytearray, rng: random.Random, limit: int) -> None:
    if not limit:
        return
    at = rng.randrange(limit)
    length = rng.choice((1, 2, 4, 8, 16))
    match rng.randrange(8):
        case 0:
            raw[at] ^= 1 << rng.randrange(8)
        case 1:
            raw[at] = rng.randrange(256)
        case 2 | 3:
            width = rng.choice((1, 2, 4, 8))
            raw[at : at + width] = (rng.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")
        case 4:
            del raw[at : at + length]
        case 5:
            raw[at:at] = raw[at : at + length]
        case 6:
            del raw[at:]
        case _:
            other = rng.randrange(limit)
            raw[at : at + length] = raw[other : other + length]
