"""What a disk may hold after the power failed: replay a log of system calls, lose what was not synced.

The model is the most careless file system that POSIX allows. A new, removed or changed name is safe once the folder of
the (new) name was synced; until then it may be lost, whatever became of later ones. File contents are safe up to the
file's last fsync; each later write may be there, missing, or cut; where the file grew, anything may lie.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quantkit.storage.disk import Args, Result
from quantkit.storage.owner import this_process


@dataclass(frozen=True)
class Call:
    name: str
    args: tuple[object, ...]
    result: object


class Recorder:
    """An `Ops` that makes the calls and keeps a log of them."""

    def __init__(self) -> None:
        self.log: list[Call] = []

    def __call__(self, call: Callable[[*Args], Result], *args: *Args) -> Result:
        kept = tuple(bytes(a) if isinstance(a, memoryview) else a for a in args)
        result = call(*args)
        self.log.append(Call(call.__name__, kept, result))
        return result


@dataclass
class Inode:
    """A file: its contents at the last fsync, and what was written since as (offset, bytes); sizes are kept."""

    durable: bytearray = field(default_factory=bytearray)
    size: int = 0
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    def after_power_loss(self, dice: random.Random) -> bytes:
        data = bytearray(self.durable[: self.size])
        grown = self.size - len(data)
        if dice.random() < 0.7:  # else the new size was lost, too
            data += dice.choice([bytes(grown), dice.randbytes(grown)])
        for offset, written in self.pending:
            kept = written[: dice.choice([0, len(written), len(written) // 2])]
            if offset + len(kept) <= len(data):
                data[offset : offset + len(kept)] = kept
        return bytes(data)

    def sync(self) -> None:
        data = self.durable[: self.size] + bytes(max(0, self.size - len(self.durable)))
        for offset, written in self.pending:
            data[offset : offset + len(written)] = written
        self.durable, self.pending = data, []


Names = dict[Path, Inode | None]  # None: a folder


@dataclass
class Change:
    """A change of names, applied as far as the changes before it were not lost; `safe` once its folder was synced."""

    apply: Callable[[Names], None]
    folder: Path
    safe: bool = False


class Machine:
    """Replays a log."""

    def __init__(self, root: Path, before: dict[str, bytes]) -> None:
        self.start: Names = {root: None}
        self.start |= {(root / name).parent: None for name in before}
        self.start |= {root / name: Inode(bytearray(data), len(data)) for name, data in before.items()}
        self.names: Names = dict(self.start)
        self.changes: list[Change] = []
        self.open: dict[int, tuple[Path, Inode | None]] = {}

    def replay(self, log: Sequence[Call]) -> None:
        for call in log:
            getattr(self, f"_{call.name}", lambda *args: None)(*call.args, call.result)

    def after_power_loss(self, dice: random.Random, *, keep: float | None = None) -> dict[Path, bytes | None]:
        """One possible state; `keep` is the share of unsynced changes of names that happen to survive."""
        share = dice.choice([0.0, 0.5, 1.0]) if keep is None else keep
        names = dict(self.start)
        for change in self.changes:
            if change.safe or dice.random() < share:
                change.apply(names)
        return {path: inode and inode.after_power_loss(dice) for path, inode in sorted(names.items())}

    def _change(self, apply: Callable[[Names], None], path: Path) -> None:
        apply(self.names)
        self.changes.append(Change(apply, path.parent))

    def _open(self, path: Path, flags: int, fd: int) -> None:
        self.open[fd] = (path, None)

    def _open_at(self, path: Path, flags: int, fd: int) -> None:
        if path not in self.names:
            inode = Inode()
            self._change(lambda names: add(names, path, inode), path)
        self.open[fd] = (path, self.names[path])

    def _mkdir(self, path: Path, mode: int, result: None) -> None:
        self._change(lambda names: add(names, path, None), path)

    def _rename(self, old: Path, new: Path, result: None) -> None:
        inode = self.names[old]  # the new name leads to the file even if the old one was lost

        def move(names: Names) -> None:
            add(names, new, inode)
            for path in [p for p in names if p == old or old in p.parents]:
                found = names.pop(path)
                add(names, new / path.relative_to(old), found)  # nowhere, where its folder was lost

        self._change(move, new)

    _replace = _rename
    _rename_noreplace = _rename

    def _link(self, old: Path, new: Path, result: None) -> None:
        inode = self.names[old]
        self._change(lambda names: add(names, new, inode), new)

    def _unlink(self, path: Path, result: None) -> None:
        self._change(lambda names: remove(names, path), path)

    _rmdir = _unlink

    def _pwrite(self, fd: int, data: bytes, offset: int, written: int) -> None:
        inode = self._inode(fd)
        inode.pending.append((offset, data[:written]))
        inode.size = max(inode.size, offset + written)

    def _write(self, fd: int, data: bytes, written: int) -> None:
        self._pwrite(fd, data, self._inode(fd).size, written)

    def _ftruncate(self, fd: int, nbytes: int, result: None) -> None:
        self._inode(fd).size = nbytes

    def _fallocate(self, fd: int, nbytes: int, result: None) -> None:
        self._inode(fd).size = max(self._inode(fd).size, nbytes)

    def _fsync(self, fd: int, result: None) -> None:
        path, inode = self.open[fd]
        if inode is not None:
            inode.sync()
            return
        for change in self.changes:
            change.safe |= change.folder == path

    def _inode(self, fd: int) -> Inode:
        inode = self.open[fd][1]
        assert inode is not None
        return inode


def add(names: Names, path: Path, inode: Inode | None) -> None:
    if path.parent in names:
        names[path] = inode


def remove(names: Names, path: Path) -> None:
    if not any(path in p.parents for p in names):
        names.pop(path, None)


def restore(state: dict[Path, bytes | None], root: Path, folder: Path) -> None:
    """Lay a state out in a real folder. Leases are of the time before the machine was started again."""
    boot = this_process().boot.encode()
    for path, data in state.items():
        place = folder / os.path.relpath(path, root)
        if data is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.write_bytes(data.replace(boot, boot[::-1]) if place.name.startswith("lease-") else data)
