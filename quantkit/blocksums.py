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


def block_bytes(nbytes: int) -> int:
    """How long the blocks of a file of `nbytes` bytes are."""
    found = LEAST_BYTES
    while nbytes > found * MOST_BLOCKS:
        found *= 2
    return found


class BlockSums:
    """What each block of a file held when it was first read; 0 for one that was not read yet. Thread-safe.

    A block is 64-bit words x[0..n-1]. Its sum, modulo 2**64, under two keys a and b that are others for each file and
    run, is of a[i] * x[i], and of b[i] times what lies half a word further: the high half of x[i] and the low one of
    x[i + 1]. Two blocks that differ have one sum with a probability of 2**-32, whoever chose them without the keys:
    where the low halves of a word differ, or after half a word the high ones, the difference d of these two words has
    at most 31 factors of 2, and key * d is each multiple of that power of 2 equally often, 2**33 of them at least.
    (Vector multiply-shift: Dietzfelbinger, Universal hashing and k-wise independent random variables via integer
    arithmetic without primes, 1996.)
    """

    def __init__(self, nbytes: int) -> None:
        self.block = block_bytes(nbytes)
        self._sums = np.zeros(-(-nbytes // self.block), np.uint64)
        self._keys = np.frombuffer(os.urandom(2 * self.block), np.uint64).reshape(2, -1)
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
        self._sum(data[: count * self.block], found[:count])
        if rest:
            last = np.zeros(self.block, np.uint8)
            last[:rest] = data[count * self.block :]
            self._sum(last, found[count:])
        found[found == 0] = 1
        return found

    def _sum(self, data: NDArray[np.uint8], found: NDArray[np.uint64]) -> None:
        """Each of few steps goes through all blocks: before each a thread waits for its turn to run Python."""
        count, words = len(found), self._keys.shape[1]
        if not count:
            return
        aligned = data.view("<u8").reshape(count, words)
        between = np.ndarray((count, words - 1), "<u8", data.data, offset=4, strides=(self.block, 8))
        np.einsum("ij,j->i", aligned, self._keys[0], out=found)
        found += np.einsum("ij,j->i", between, self._keys[1, :-1])
        found += (aligned[:, -1] >> np.uint64(32)) * self._keys[1, -1]
