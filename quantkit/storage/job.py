"""A job: files under construction that survive anything, and reach their final names only whole and checked."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Self

from quantkit.errors import BusyError, ExistsError, QuantkitError, VerificationError
from quantkit.platforms import MOVES_OPEN_FILES
from quantkit.storage import journal
from quantkit.storage.claim import (
    JOURNAL,
    JobFolder,
    claim_run,
    goes,
    locked_folder,
    new_run,
    not_ours,
)
from quantkit.storage.disk import Disk, File, Ops, is_at, is_own, is_there, look
from quantkit.storage.elsewhere import OpenFiles
from quantkit.storage.failures import explained, shown
from quantkit.storage.faults import from_environment
from quantkit.storage.files import exists, holds, open_regular, preflight, write_through
from quantkit.storage.journal import History, Move, PartFile, Record, Retirement
from quantkit.storage.keys import user_key
from quantkit.storage.nested import part_name, placed, remove_all, require_names
from quantkit.storage.part import Part, PublishedFile
from quantkit.storage.readback import read_back

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RECORD = ".record"  # in the run folder, once its files have left it
SYNC_BYTES = 256 << 20
SYNC_SECONDS = 10.0
RESERVE_BYTES = 1 << 20  # for what is written besides the parts: journal, manifest, sums
SLAB_BYTES = 1 << 20  # stretches of a file of this size are sent to the disk as soon as a write has filled one


def open_job(
    folder: Path, *, digest: str, files: Sequence[PartFile], fresh: bool = False, ops: Ops | None = None
) -> Job:
    """Begin or continue the job in `folder`, which lies beside the final files: `<parent>/.quantkit-<digest[:12]>`.

    A file may lie one folder below the others: FOLDER/NAME; `Job.publish` makes that folder.
    `digest` stands for the bytes to be written: everything that decides them must have entered it. Of an earlier run
    with the same digest and files, `Job.records` are the finished tensors whose bytes on the disk still have their
    hash; each is read once. What lies outside of tensors (headers) every run writes anew, what is never written is
    zero. Work of another digest, version or user in the folder is removed, and all of it for a `fresh` job. Every block
    is allocated before this returns.

    Raises ResourceError, before anything is created, when the disk is too small; BusyError when another process is at
    work in the folder; NotWritableError when the place cannot be written.
    """
    require_names(files)
    needed = sum(f.nbytes for f in files)
    preflight(folder, needed + RESERVE_BYTES)
    disk = Disk(ops or from_environment())
    with explained(folder, needed), ExitStack() as held:
        place = held.enter_context(locked_folder(disk, folder))
        job = Job(disk, (place, claim_run(disk, place, fresh=fresh)), files, held.pop_all())
        held.callback(job.close)
        job._restore(digest)
        held.pop_all()
    return job


class Job:
    """Files under construction, beside their final names. `write` and `finish` may be called from several threads.

    What survives: when the process dies, every finished tensor; when the machine dies, every finished tensor but those
    of the last 256 MB or 10 s. A journal line may reach the disk before the bytes it speaks of; that is harmless,
    because the next run believes a line only after hashing those bytes.

    `records` are the finished tensors by name: those of earlier runs from the start, others as they are finished.
    """

    def __init__(self, disk: Disk, place: tuple[JobFolder, str], files: Sequence[PartFile], held: ExitStack) -> None:
        """Use `open_job`. `place` is the folder and the name of the run in it.

        `held` closes what is open, in reverse order; the lock of the folder is its first entry.
        """
        self._place, self._run = place
        self.folder = self._place.path
        self._disk = disk
        self._files = tuple(files)
        self._held = held
        self._parts: list[Part] = []
        self._finished: dict[str, Record] = {}
        self.records: Mapping[str, Record] = MappingProxyType(self._finished)
        self._key = b""
        self._closed = False
        self._opened = OpenFiles()
        self._retired: tuple[str, ...] = ()
        self._resumable = is_there(self._within(JOURNAL))
        self._mutex = threading.Lock()
        self._unsynced_bytes = 0
        self._synced_at = time.monotonic()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where each file can be read now: under construction, or its final name once it has that."""
        return tuple(part.published.path if part.published else part.file.path for part in self._parts)

    def write(self, file: int, offset: int, data: bytes | memoryview | NDArray[np.generic]) -> None:
        """Write C-contiguous `data` at `offset` of file number `file`; every byte or an error.

        In a file that an earlier run had published already, the bytes are compared instead.
        Raises ResourceError, VerificationError when a published file has other bytes.
        """
        part = self._parts[file]
        view = memoryview(data)  # type: ignore[arg-type]  # numpy declares its buffers from Python 3.12 on
        if not 0 <= offset <= offset + view.nbytes <= part.nbytes:
            raise ValueError(
                f"bytes {offset} to {offset + view.nbytes} are outside of file {file}: {part.nbytes} bytes"
            )
        if view.nbytes == 0:
            return
        view = view.cast("B")
        with self._explained():
            if part.published is None:
                self._disk.write(part.file, view, offset)
                if part.written is not None:
                    part.written.append((offset, offset + len(view)))
                self._send(part.file, offset, offset + len(view))
            elif self.read(file, offset, len(view)) != view:
                path = shown(part.file.path)
                raise VerificationError(f"{path}: published with other bytes at {offset}", path=path)

    def _send(self, file: File, start: int, stop: int) -> None:
        """Let the disk begin with stretches that end in bytes [start, stop), which were written just now: what fills
        one write by write has come in order."""
        first, last = start - start % SLAB_BYTES, stop - stop % SLAB_BYTES
        if first < last:
            self._disk.forget(file, first, last - first)

    def finish(self, record: Record) -> None:
        """Enter a tensor, all of whose bytes were written, in the journal. Raises ResourceError."""
        if not journal.inside(record, self._files):
            raise ValueError(f"not inside its file: {record}")
        if self._place.lease.is_lost:
            raise self._taken_over()
        with self._mutex, self._explained():
            self._resumable = True
            self._disk.append(self._journal, journal.record_line(record, self._key))
            self._finished[record.tensor] = record
            self._unsynced_bytes += record.nbytes
            if self._unsynced_bytes >= SYNC_BYTES or time.monotonic() - self._synced_at >= SYNC_SECONDS:
                self._sync()

    def read(self, file: int, offset: int, nbytes: int) -> bytes:
        """Bytes [offset, offset + nbytes) of file number `file`, as they are now."""
        data = bytearray(nbytes)
        with self._explained():
            count = self._disk.read(self._parts[file].file, memoryview(data), offset)
        return bytes(data[:count])

    def flush(self) -> None:
        """Make durable what was written and finished until now. Raises ResourceError."""
        with self._mutex, self._explained():
            self._sync()

    def publish(
        self,
        targets: Sequence[Path],
        *,
        overwrite: bool,
        check: Callable[[Path], None],
        retire: Callable[[], Sequence[str]] = tuple,
    ) -> tuple[PublishedFile, ...]:
        """Give every file its final name, after all of them were found good on the disk.

        Each file is synced, read back from the disk, compared with the hashes of its finished tensors and given to
        `check`, which raises when the structure is wrong. Only then is the first one renamed. A target that already
        has exactly these bytes counts as published. Killed at any point, the same job continues.

        `retire` is asked just before the first rename for names beside the job folder: files of an older artifact,
        its manifest first, which are removed in this order. Killed meanwhile, the same job removes the rest of them.

        Raises VerificationError when the disk returns other bytes than were written, ExistsError when a target exists
        and differs and `overwrite` is false, BusyError when another process took the job over, ResourceError.
        """
        with self._explained():
            for index in range(len(self._files)):
                self._pad(index)
            self.flush()
            sums = [self._seal(index, check) for index in range(len(self._files))]
            self._retire(tuple(retire()))
            for index, (target, sha256) in enumerate(zip(targets, sums, strict=True)):
                self._move(index, PublishedFile(target, self._files[index].nbytes, sha256), overwrite)
        return tuple(part.published for part in self._parts if part.published is not None)

    def seal(self, target: Path, data: bytes) -> None:
        """Write the small file at `target` that says what was published, replacing what is there.

        Raises BusyError in a process whose work was taken over: it has no run folder to rename it from."""
        with self._explained():
            try:
                write_through(self._disk, self._within(RECORD), target, data)
            except FileNotFoundError as error:
                raise self._taken_over() from error

    def require_turn(self) -> None:
        """Raise BusyError when another process has taken the work over: for before steps outside of the job."""
        if not self._place.lease.is_held():
            raise self._taken_over()

    def discard(self) -> None:
        """Remove the job folder; to be called when everything it was for is published. Not that of another process."""
        if not self._closed and self._place.lease.is_held():
            if not MOVES_OPEN_FILES:
                self._opened.close_all()
            with self._explained():
                self._disk.remove_tree(self.folder, goes)
        self.close()

    def close(self) -> None:
        """Give the lock back. Finished tensors stay for the next run; without any, nothing stays."""
        if self._closed:
            return
        self._closed = True
        self._opened.close_all()
        if not self._resumable:
            with suppress(OSError):  # tidying must not hide why the job ends
                self._disk.remove_tree(self._place / self._run)
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _taken_over(self) -> BusyError:
        path = shown(self.folder)
        return BusyError(f"another process took over {path}", hint="wait for it to end", path=path)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.folder, sum(f.nbytes for f in self._files))

    def _open(self, path: Path, flags: int) -> File:
        return self._opened.keep(self._disk.open(path, flags))

    def _within(self, name: str) -> Path:
        """The path of a file of this run. It leads nowhere once another process took the run over."""
        return self._place / f"{self._run}/{name}"

    def _open_journal(self) -> File:
        file = self._open(self._within(JOURNAL), os.O_RDWR | os.O_CREAT | os.O_APPEND)
        if not is_own(file):
            raise not_ours(file.path)
        return file

    def _sync(self) -> None:
        for part in self._parts:
            if part.published is None:
                self._disk.sync(part.file)
        self._disk.sync(self._journal)
        self._unsynced_bytes = 0
        self._synced_at = time.monotonic()

    def _restore(self, digest: str) -> None:
        """Open all files, keep of an earlier run what its journal and the disk agree on."""
        self._journal = self._open_journal()
        log = bytearray(min(os.fstat(self._journal.fd).st_size, journal.MAX_BYTES))
        self._disk.read(self._journal, memoryview(log), 0)
        self._key = journal.job_key(user_key(), digest, self._files)
        history = journal.replay(bytes(log), digest, self._files, self._key)
        if history is None:
            if log:
                self._opened.close(self._journal.fd)
                self._disk.remove_tree(self._place / self._run)
                self._run = new_run(self._disk, self._place)
                self._journal = self._open_journal()
            self._disk.append(self._journal, journal.header_line(digest, self._files, self._key))
            history = History({}, {})
        elif not log.endswith(b"\n"):
            self._disk.append(self._journal, b"\n")  # a torn last line must not swallow the next one
        self._retired = history.retired
        self._parts = [self._restore_part(index, history) for index in range(len(self._files))]
        self._disk.sync_folder(self.folder / self._run)
        self._resumable = bool(self._finished or self._retired)

    def _restore_part(self, index: int, history: History) -> Part:
        nbytes = self._files[index].nbytes
        path = self._within(part_name(index, self._files[index].name))
        records = [r for r in history.records.values() if r.file == index]
        if is_there(path) and look(path).st_nlink > 1:
            self._disk.remove(path)  # already linked to its final name: writing here would write there
        move = history.moves.get(index)
        if move is not None and not is_there(path):
            with placed(self._disk, self.folder.parent, move.target) as target:
                if target is not None and holds(target, nbytes, move.sha256):
                    self._finished |= {r.tensor: r for r in records}
                    file = self._opened.keep(open_regular(target))
                    goal = PublishedFile(self.folder.parent / move.target, nbytes, move.sha256)
                    return Part(file, nbytes, published=goal)
        file = self._open(path, os.O_RDWR | os.O_CREAT)
        if not is_own(file):
            raise not_ours(file.path)
        written: list[tuple[int, int]] | None = [] if os.fstat(file.fd).st_size else None
        kept = [r for r in records if self._disk.hash(file, r.offset, r.nbytes) == r.sha256]
        self._disk.allocate(file, nbytes)
        self._finished |= {r.tensor: r for r in kept}
        return Part(file, nbytes, written)

    def _pad(self, index: int) -> None:
        """Write zeros where neither a tensor lies nor this run has written: an earlier run may have left anything."""
        part = self._parts[index]
        if part.written is None or part.published is not None:
            return
        tensors = [(r.offset, r.offset + r.nbytes) for r in self._finished.values() if r.file == index]
        end = 0
        for start, stop in [*sorted(tensors + part.written), (part.nbytes, part.nbytes)]:
            for at in range(end, start, SLAB_BYTES):
                self._disk.write(part.file, memoryview(bytes(min(SLAB_BYTES, start - at))), at)
            end = max(end, stop)

    def _seal(self, index: int, check: Callable[[Path], None]) -> str:
        """SHA-256 of a file as the disk returns it, after its tensors were compared and `check` passed."""
        part = self._parts[index]
        if part.published is not None:
            return part.published.sha256
        records = [r for r in self._finished.values() if r.file == index]
        sha256 = read_back(self._disk, part.file, part.nbytes, records)
        try:
            check(part.file.path)
        except (QuantkitError, OSError):
            if is_at(part.file, part.file.path):  # else another process took the job over: the rename will fail, too
                raise
        return sha256

    @property
    def retired(self) -> tuple[str, ...]:
        """Names of files of an older artifact that this job has removed, or began to."""
        return self._retired

    def _retire(self, names: Sequence[str]) -> None:
        """Remove an older artifact, after the journal knows of all its files."""
        if names:
            self._retired = tuple(dict.fromkeys([*self._retired, *names]))
            self._disk.append(self._journal, journal.retirement_line(Retirement(self._retired), self._key))
            self._disk.sync(self._journal)
            self._resumable = True
        kept = {self._relative(part.published) for part in self._parts if part.published is not None}
        remove_all(self._disk, self.folder.parent, [name for name in self._retired if name not in kept])

    def _relative(self, goal: PublishedFile) -> str:
        return Path(os.path.relpath(goal.path, self.folder.parent)).as_posix()

    def _move(self, index: int, goal: PublishedFile, overwrite: bool) -> None:
        part, name = self._parts[index], self._relative(goal)
        nested = self._files[index].name
        if "/" in nested and name != nested:
            raise ValueError(f"{goal.path} is not {nested} beside the job")
        with placed(self._disk, self.folder.parent, nested, make=True) as below:
            target = below if "/" in nested and below is not None else goal.path
            there = holds(target, goal.nbytes, goal.sha256)
            if part.published is not None and not (there and part.published.path.absolute() == goal.path.absolute()):
                path = shown(goal.path)
                what = f"{path} is not what the run before published as {shown(part.published.path)}"
                raise ExistsError(what, path=path)
            if not there:
                self._disk.append(self._journal, journal.move_line(Move(index, name, goal.sha256), self._key))
                if not MOVES_OPEN_FILES:
                    self._opened.close(part.file.fd)
                self._rename(part.file.path, replace(goal, path=target), overwrite)
                if not MOVES_OPEN_FILES:
                    part = replace(part, file=self._opened.keep(open_regular(target)))
            self._disk.sync_name(target)
        self._parts[index] = replace(part, published=goal)

    def _rename(self, source: Path, goal: PublishedFile, overwrite: bool) -> None:
        try:
            self._disk.move(source, goal.path, overwrite=overwrite)
        except FileExistsError as error:
            if not holds(goal.path, goal.nbytes, goal.sha256):
                raise exists(goal.path) from error
        except FileNotFoundError as error:
            if not holds(goal.path, goal.nbytes, goal.sha256):
                raise self._taken_over() from error
