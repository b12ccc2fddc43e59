"""Was a file the same whenever it was read? Sums of its blocks, compared between all who read them.

A source is read at least twice: by whoever quantizes it and by whoever hashes it for the manifest. That both saw the
same bytes is what the manifest says, so it is checked, block by block, as they read: a time of change can be put back,
and a file mapped into memory can be written without one.
"""

from __future__ import annotations

import os
import threading

import numpy as np
from numpy.typing import NDArray

LEAST_BYTES = 16 << 10
MOST_BLOCKS = 1 << 19  # 4 MB of sums for a file of any size
# Blocks that are summed at once: they stay in a core's cache, and each step is long beside the wait for a turn to run
# Python, which comes before it.
TOGETHER_BYTES = 1 << 20


def block_bytes(nbytes: int) -> int:
    """How long the blocks of a file of `nbytes` bytes are."""
    found = LEAST_BYTES
    while nbytes > found * MOST_BLOCKS:
        found *= 2
    return found


class BlockSums:
    """What each block of a file held when it was first read; 0 for one that was not read yet. Thread-safe.

    The sums are NH, the universal hash of UMAC (RFC 4418), under a key that is another for each file and run: two
    blocks that differ have one sum with a probability of 2**-32, whoever chose them without the key. What is added to
    NH here leaves its proof as it is: in each pair it depends on the second word alone, and the proof takes the key of
    that word as given where second words differ, and else the second words are the same.
    """

    def __init__(self, nbytes: int) -> None:
        self.block = block_bytes(nbytes)
        self._sums = np.zeros(-(-nbytes // self.block), np.uint64)
        self._key = np.frombuffer(os.urandom(self.block), np.uint32)
        self._lock = threading.Lock()

    def around(self, start: int, stop: int, nbytes: int) -> tuple[int, int]:
        """The whole blocks that hold bytes [start, stop) of a file of `nbytes` bytes."""
        return start - start % self.block, min(-(-stop // self.block) * self.block, nbytes)

    def agree(self, start: int, data: NDArray[np.uint8]) -> bool:
        """Whether blocks from byte `start` on hold `data`, contiguous, as far as any was read before."""
        found = self._summed(data)
        first = start // self.block
        with self._lock:
            known = self._sums[first : first + len(found)]
            same = bool(np.all((known == 0) | (known == found)))
            known[known == 0] = found[known == 0]
        return same

    def _summed(self, data: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """The sum of every block of `data`, 1 where it is 0; a last block that is short counts as filled with zeros."""
        count, rest = divmod(data.size, self.block)
        found = np.empty(count + (rest > 0), np.uint64)
        together = max(TOGETHER_BYTES // self.block, 1)
        blocks = data[: count * self.block].view(np.uint32).reshape(count, self._key.size)
        low = np.empty((min(together, max(count, 1)), self._key.size), np.uint32)
        high = np.empty((len(low), self._key.size // 2), np.uint64)
        for at in range(0, count, together):
            self._sum(blocks[at : at + together], low, high, found[at : min(at + together, count)])
        if rest:
            last = np.zeros((1, self.block), np.uint8)
            last[0, :rest] = data[count * self.block :]
            self._sum(last.view(np.uint32), low, high, found[count:])
        found[found == 0] = 1
        return found

    def _sum(
        self,
        blocks: NDArray[np.uint32],
        low: NDArray[np.uint32],
        high: NDArray[np.uint64],
        found: NDArray[np.uint64],
    ) -> None:
        """found[i] = sum over pairs (a, b) of 32-bit words of block i: (a + key) * (b + key) + 2**32 * (b + key)**2,
        modulo 2**64; NH is the first product alone, which would have to be freed of the second.

        `low` and `high` are room for so many blocks: allocating it anew costs more than the arithmetic.
        """
        low, high = low[: len(blocks)], high[: len(blocks)]
        np.add(blocks, self._key, out=low)
        pairs = low.view(np.uint64)
        np.right_shift(pairs, np.uint64(32), out=high)
        np.einsum("ij,ij->i", high, pairs, out=found)
