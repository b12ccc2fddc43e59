"""What several read of a file is read once: parts, blocks that reads end in, and threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from quantkit.source.base import SourceFile
from quantkit.source.once import OUTSIDE, SMALL_BYTES, SPARE, STEP, Once
from quantkit.storage import Room
from quantkit.tensors import U8
from quantkit.untrusted import InputFile, open_input

SIZE = 1_000_000  # no multiple of a block
BIG = 2 * SMALL_BYTES


class Counted:
    """A file, how often each byte of it was read from the disk, and the bytes themselves."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = np.random.default_rng(7).integers(0, 256, SIZE, np.uint8)
        path.write_bytes(self.held.tobytes())
        self.file = open_input(path)
        self.counts = np.zeros(SIZE, np.int64)
        plain: Callable[[InputFile, int, int], U8] = InputFile._read

        def counting(file: InputFile, start: int, stop: int) -> U8:
            self.counts[start:stop] += 1
            return plain(file, start, stop)

        monkeypatch.setattr(InputFile, "_read", counting)
        self.source = SourceFile(path.name, str(path), SIZE, weights=True, opened=self.file)

    def read(self, start: int, stop: int) -> None:
        found = self.file.read(start, stop)
        assert np.array_equal(found, self.held[start:stop])
        found[:] = 0  # whoever reads owns what is read


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(tmp_path / "file", monkeypatch)


@pytest.mark.parametrize("room", [0, 1 << 30])
@pytest.mark.parametrize("part", [0, STEP, OUTSIDE])
@pytest.mark.parametrize("watched", [False, True])
def test_what_is_kept_is_not_read_again(
    room: int, part: int | str, watched: bool, counted: Counted, tmp_path: Path
) -> None:
    once = Once(Room(room, tmp_path))
    with once.over([counted.source]), ExitStack() as watching:
        if watched:
            watching.enter_context(counted.file.watch())
        with once.reading(part):
            for start in range(0, SIZE, BIG - 7):
                counted.read(start, min(start + BIG - 7, SIZE))
        for start in range(0, SIZE, BIG - 4444):
            counted.read(start, min(start + BIG - 4444, SIZE))
        assert counted.counts.max() == 1
        watching.close()
        once.drop(part)
        counted.read(0, SIZE)
        assert counted.counts.max() == 2, "what is dropped is read from the file"
    counted.counts[:] = 0
    counted.read(0, SIZE)
    assert counted.counts.min() == 1, "nothing is kept after the context"
    assert not [path for path in tmp_path.iterdir() if path.name != "file"]


def test_rows_side_by_side_share_blocks(counted: Counted) -> None:
    """Last reads, in pieces that end in the middle of blocks, while the file is watched: no block twice."""
    once = Once(Room(0))
    with once.over([counted.source]), counted.file.watch():
        for start in range(0, SIZE, BIG + 33):
            counted.read(start, min(start + BIG + 33, SIZE))
        assert counted.counts.max() == counted.counts.min() == 1
        kept = once._files[0]._ranges
        assert len(kept) <= 1, "blocks whose bytes all were asked for are dropped"


def test_what_a_layer_shares_with_the_next_is_kept(counted: Counted, tmp_path: Path) -> None:
    """Tensors need not end with blocks: each layer is read twice, and dropped before the next."""
    once = Once(Room(0, tmp_path))
    step = BIG + 1001
    with once.over([counted.source]), counted.file.watch():
        for layer, start in enumerate(range(0, SIZE, step)):
            for _ in range(2):
                with once.reading(layer):
                    counted.read(start, min(start + step, SIZE))
            once.drop(layer)
        assert counted.counts.max() == 1


def test_spare_parts_are_kept_as_long_as_there_is_room(counted: Counted) -> None:
    once = Once(Room(BIG))
    with once.over([counted.source]), once.reading(SPARE):
        for _ in range(2):
            counted.read(0, BIG)
            counted.read(BIG, 3 * BIG)
    assert (counted.counts[:BIG].max(), counted.counts[BIG : 3 * BIG].min()) == (1, 2)


def test_threads_read_nothing_twice_either(counted: Counted, tmp_path: Path) -> None:
    once = Once(Room(1 << 20, tmp_path))

    def read(at: int) -> None:
        with once.reading(3):
            counted.read(*sorted(((at * 7919) % SIZE, (at * 104729) % SIZE)))

    with once.over([counted.source]), ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(300)))
    assert counted.counts.max() == 1


def test_whoever_hashes_reads_the_file_itself(counted: Counted) -> None:
    once = Once(Room(1 << 30))
    with once.over([counted.source]), once.reading(STEP):
        counted.read(0, SIZE)
        assert np.array_equal(counted.file.read_apart(5, SIZE), counted.held[5:])
    assert counted.counts[5:].min() == 2


def test_room_comes_back(tmp_path: Path) -> None:
    room = Room(100, tmp_path)
    first = room.new(60)
    assert not room.fits(60)
    beyond = [room.new(60) for _ in range(3)]  # in a file that they share
    for number, each in enumerate(beyond):
        each[:] = number
    assert [set(each.tolist()) for each in beyond] == [{0}, {1}, {2}]
    room.settle()
    assert [set(each.tolist()) for each in beyond] == [{0}, {1}, {2}]
    del first
    assert room.fits(100)
    assert not list(tmp_path.iterdir())
