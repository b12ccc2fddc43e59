"""Was a file the same whenever it was read? Sums of its blocks, compared between all who read them.

A source is read at least twice: by whoever quantizes it and by whoever hashes it for the manifest. That both saw the
same bytes is what the manifest says, so it is checked, block by block, as they read: a time of change can be put back,
and a file mapped into memory can be written without one.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

LEAST_BYTES = 16 << 10
MOST_BLOCKS = 1 << 20  # 4 MB of sums for a file of any size


class BlockSums:
    """What each block of a file held when it was first read; 0 for one that was not read yet. Thread-safe."""

    def __init__(self, nbytes: int) -> None:
        self.block = LEAST_BYTES
        while nbytes > self.block * MOST_BLOCKS:
            self.block *= 2
        self._sums = np.zeros(-(-nbytes // self.block), np.uint32)
        self._lock = threading.Lock()

    def around(self, start: int, stop: int, nbytes: int) -> tuple[int, int]:
        """The whole blocks that hold bytes [start, stop) of a file of `nbytes` bytes."""
        return start - start % self.block, min(-(-stop // self.block) * self.block, nbytes)

    def agree(self, start: int, data: NDArray[np.uint8]) -> bool:
        """Whether blocks from byte `start` on hold `data`, as far as any was read before.

        The sums are Python's hashes of bytes: SipHash under a key that is another in each process.
        """
        size, view = self.block, data.data
        found = [hash(bytes(view[at : at + size])) & 0xFFFFFFFF or 1 for at in range(0, len(view), size)]
        first = start // size
        with self._lock:
            known = self._sums[first : first + len(found)]
            same = bool(np.all((known == 0) | (known == found)))
            known[known == 0] = np.array(found, np.uint32)[known == 0]
        return same
