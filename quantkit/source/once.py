"""Files of a source that several read, and the disk gives once: what one has read is kept until the others had it.

Whoever converts a model and runs it beside reads each weight twice, a layer apart at most when both go through the
layers in the same order. So bytes are kept in parts, one for each layer, and a part is dropped as a whole. Kept are
whole blocks as the sums of a file have them (quantkit/blocksums.py), so that comparing reads nothing twice, either.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from quantkit.blocksums import block_bytes
from quantkit.source.base import SourceFile
from quantkit.storage import Room
from quantkit.tensors import U8

Part = int | str

STEP = "step"  # kept to the end
OUTSIDE = "outside"  # what lies in no layer
SPARE = "spare"  # kept as long as memory has room, for passes to come
EDGE = "edge"  # blocks that a read ends in: kept until the next one has had the rest
SMALL_BYTES = 64 << 10  # vectors: kept to the end whoever reads them


class Once:
    """What is kept of the files of a source. Each thread says into which part goes what it reads, None for what it
    reads last; layers are parts by their number. Safe to share between threads."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._local = threading.local()
        self._files: list[_File] = []

    @contextmanager
    def over(self, files: Sequence[SourceFile]) -> Iterator[None]:
        """Keep what is read of these files until the context ends."""
        opened = [file.opened for file in files if file.opened is not None]
        self._files = [_File(self, file.nbytes) for file in opened]
        for file, kept in zip(opened, self._files, strict=True):
            file.watched.kept = kept
        try:
            yield
        finally:
            for file in opened:
                file.watched.kept = None
            self._files = []

    @property
    def part(self) -> Part | None:
        """Where that goes which this thread reads."""
        found: Part | None = getattr(self._local, "part", None)
        return found

    def expect(self, part: Part | None) -> None:
        """From now on what this thread reads goes into this part."""
        self._local.part = part

    @contextmanager
    def reading(self, part: Part | None) -> Iterator[None]:
        """What this thread reads in the context goes into this part."""
        before = self.part
        self.expect(part)
        try:
            yield
        finally:
            self.expect(before)

    def drop(self, part: Part) -> None:
        """Forget a part: whoever reads its bytes again reads the file."""
        for file in self._files:
            file.drop(part)

    def settle(self) -> None:
        """Give back the memory that files occupy."""
        self._room.settle()

    def place(self, part: Part, nbytes: int) -> U8 | None:
        """An array for bytes of a part, None where they are not kept. Layers are in memory whatever room there is."""
        if isinstance(part, int) or part == EDGE:
            return np.empty(nbytes, np.uint8)
        return None if part == SPARE and not self._room.fits(nbytes) else self._room.new(nbytes)


@dataclass
class _Range:
    """Bytes from `start` on, and at an edge how many of them nobody has asked for."""

    start: int
    part: Part
    data: U8
    left: int = 0

    @property
    def stop(self) -> int:
        return self.start + len(self.data)


class _File:
    """What is kept of one file: ranges of whole blocks, disjoint and in their order."""

    def __init__(self, once: Once, nbytes: int) -> None:
        self._once, self._nbytes, self._block = once, nbytes, block_bytes(nbytes)
        self._ranges: list[_Range] = []
        self._lock = threading.RLock()

    def read(self, start: int, stop: int, fresh: Callable[[int, int], U8]) -> U8:
        """See `untrusted.Kept`."""
        if start == stop:
            return np.empty(0, np.uint8)
        first, last = start - start % self._block, min(-(-stop // self._block) * self._block, self._nbytes)
        part = self._once.part
        if part is None and stop - start <= SMALL_BYTES:
            part = STEP
        if part is not None:
            with self._lock:  # nobody else reads meanwhile what is to be kept
                out, gaps = self._filled(first, last, fresh)
                for kept in self._overlapping(first, last):
                    kept.part = STEP if kept.part == EDGE else kept.part
                for low, high in self._cut(gaps, start, stop):
                    whole = start <= low and high <= stop
                    self._keep(low, part if whole else STEP, out[low - first : high - first])
        else:
            out, gaps = self._filled(first, last, fresh)
            with self._lock:
                self._asked(start, stop)
                for low in {first, last - (last - 1) % self._block - 1}:
                    high = min(low + self._block, last)
                    used = min(high, stop) - max(low, start)
                    if used < high - low and any(a <= low and high <= b for a, b in gaps):
                        self._keep(low, EDGE, out[low - first : high - first], high - low - used)
        return out[start - first : stop - first]

    def drop(self, part: Part) -> None:
        with self._lock:
            self._ranges = [kept for kept in self._ranges if kept.part != part]

    def _filled(self, first: int, last: int, fresh: Callable[[int, int], U8]) -> tuple[U8, list[tuple[int, int]]]:
        """Bytes [first, last), and which of them were not there."""
        with self._lock:
            kept = self._overlapping(first, last)
        gaps, at = [], first
        for one in kept:
            if at < one.start:
                gaps.append((at, one.start))
            at = max(at, one.stop)
        if at < last:
            gaps.append((at, last))
        if not kept:
            return fresh(first, last), gaps
        out = np.empty(last - first, np.uint8)
        for one in kept:
            low, high = max(first, one.start), min(last, one.stop)
            out[low - first : high - first] = one.data[low - one.start : high - one.start]
        for low, high in gaps:
            out[low - first : high - first] = fresh(low, high)
        return out, gaps

    def _cut(self, gaps: Sequence[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Gaps, with blocks that are not wanted as a whole apart: what lies beside in them is read later."""
        inner, outer = (
            -(-start // self._block) * self._block,
            stop if stop == self._nbytes else stop - stop % self._block,
        )
        for low, high in gaps:
            cuts = sorted({low, high, *(at for at in (inner, outer) if low < at < high)})
            yield from pairwise(cuts)

    def _overlapping(self, first: int, last: int) -> list[_Range]:
        at = self._index(first)
        stop = self._index(last - 1)
        return [kept for kept in self._ranges[max(at - 1, 0) : stop] if kept.stop > first and kept.start < last]

    def _index(self, byte: int) -> int:
        return bisect_right(self._ranges, byte, key=lambda kept: kept.start)

    def _keep(self, start: int, part: Part, data: U8, left: int = 0) -> None:
        if self._overlapping(start, start + len(data)):
            return  # another thread was here first
        place = self._once.place(part, len(data))
        if place is not None:
            place[:] = data
            self._ranges.insert(self._index(start), _Range(start, part, place, left))

    def _asked(self, start: int, stop: int) -> None:
        """Note that these bytes were asked for: an edge whose other side was, too, is not needed any more."""
        for kept in self._overlapping(start, stop):
            if kept.part == EDGE:
                kept.left -= min(stop, kept.stop) - max(start, kept.start)
                if kept.left <= 0:
                    self._ranges.remove(kept)
