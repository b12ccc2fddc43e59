"""Seeded mutants of a valid file, damaged as the fuzzers damage bytes."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from fuzz_mutators import damaged


def mutants(seed_file: bytes, count: int, seed: int, head: int | None = None) -> Iterator[bytes]:
    """`count` damaged copies of `seed_file`; damage falls into its first `head` bytes (all by default)."""
    rng = random.Random(seed)
    return (damaged(seed_file, rng, head) for _ in range(count))
