"""SHA-256 of the source files, taken while they are being quantized so that each page comes from the disk once.

Importing what converts, and planning, is Python on one core: hashing begins before it, on another. So this module
imports little.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from quantkit.errors import InputError, QuantkitError
from quantkit.untrusted import InputFile, Stamp, open_input

if TYPE_CHECKING:
    from quantkit.source import SourceFile

READ_BYTES = 8 << 20
LEAD_BYTES = 1 << 30  # how far the hash may run ahead of the quantizer: what is read stays in the page cache
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
FILES_AHEAD = 4


def hash_ahead(source: str) -> SourceHasher:
    """A hasher that has begun with the weights in a folder, before what opens it as a checkpoint is imported.

    With nothing where `source` is no folder, or what is in it cannot be opened as it is: whoever opens the source says
    what is wrong. Links are not followed.
    """
    found: list[InputFile] = []
    with suppress(OSError, ValueError):
        folder = os.path.realpath(os.path.expanduser(source))  # noqa: PTH111 - Path's raises for an unknown user
        for name in sorted(filter(WEIGHTS.fullmatch, os.listdir(folder))):  # noqa: PTH208
            if len(found) < FILES_AHEAD and sum(file.nbytes for file in found) < LEAD_BYTES:
                with suppress(QuantkitError):
                    found.append(open_input(Path(folder, name), follow=False))
    return SourceHasher(ahead=found)


def require_published(files: Sequence[SourceFile], hashes: Mapping[str, str]) -> None:
    """Raise InputError for a file that is not what its publisher says it is (files of the Hub carry their hash)."""
    for file in files:
        if file.sha256 is not None and hashes[file.name] != file.sha256:
            raise InputError(
                f"{file.name} has sha256 {hashes[file.name]}, the Hub says {file.sha256}",
                hint="delete the file from the cache and run the command again",
                path=file.path,
            )


class _StoppedError(Exception):
    """The run ended before the hashes were wanted."""


class SourceHasher:
    """Hashes files in order on one thread, at most LEAD_BYTES ahead of what `advance` was told.

    `ahead` are weights that were opened before the source was. Once it is open, `go_on` with its files: those that are
    the same count as begun. Use as a context manager, or `close` it; `result` waits for the remaining files. Meanwhile
    the files are watched: what the hash is of and what others read from them is the same, or InputError is raised.
    """

    def __init__(self, files: Sequence[SourceFile] = (), *, ahead: Sequence[InputFile] = ()) -> None:
        self._condition = threading.Condition()
        self._allowed = LEAD_BYTES
        self._hashed = 0
        self._stopped = False
        self._nbytes = 0
        self._unwanted: frozenset[Stamp] = frozenset()
        self._watching = ExitStack()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._digests: dict[str, Future[str]] = {}
        self._ahead: dict[Stamp, tuple[InputFile, Future[str]]] = {}
        for opened in ahead:
            self._watching.callback(opened.close)
            self._watching.enter_context(opened.watch())
            self._ahead[opened.stamp] = opened, self._pool.submit(self._hash_opened, opened)
        self.go_on(files)

    def go_on(self, files: Sequence[SourceFile]) -> None:
        """Hash these files, in this order; what was begun with and is none of them is left."""
        for file in files:
            begun = self._ahead.pop(file.opened.stamp, None) if file.opened is not None else None
            if file.opened is not None:
                self._watching.enter_context(file.opened.watch(begun[0] if begun else None))
            self._digests[file.name] = begun[1] if begun else self._pool.submit(self._hash, file)
            self._nbytes += file.nbytes
        if files:
            self._unwanted = frozenset(self._ahead)

    def __enter__(self) -> SourceHasher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop hashing and watching; what is not hashed by then has no result. May be called again."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        self._pool.shutdown(wait=True)
        self._watching.close()

    def advance(self, done_bytes: int) -> None:
        """Tell how many source bytes the quantizer has finished."""
        with self._condition:
            self._allowed = max(self._allowed, done_bytes + LEAD_BYTES)
            self._condition.notify_all()

    def result(self) -> Mapping[str, str]:
        """File name to lower-case hex digest, for all files. Raises what reading them raised."""
        with self._condition:
            self._allowed = self._nbytes + 2 * LEAD_BYTES  # the second for what was begun with and left
            self._condition.notify_all()
        return {name: digest.result() for name, digest in self._digests.items()}

    def _hash(self, file: SourceFile) -> str:
        if file.opened is None:
            from quantkit.storage import hash_file  # few sources have such files

            self._pace(0)
            return hash_file(Path(file.path), self._pace)
        return self._hash_opened(file.opened)

    def _hash_opened(self, file: InputFile) -> str:
        digest = hashlib.sha256()
        for start in range(0, file.nbytes, READ_BYTES):
            self._pace(0)
            if file.stamp in self._unwanted:
                raise _StoppedError
            stop = min(start + READ_BYTES, file.nbytes)
            digest.update(file.read_apart(start, stop).data)
            self._pace(stop - start)
        return digest.hexdigest()

    def _pace(self, nbytes: int) -> None:
        """Count bytes that were hashed, and wait until more may be. Raises where nobody waits for them any more."""
        with self._condition:
            self._hashed += nbytes
            self._condition.wait_for(lambda: self._stopped or self._hashed <= self._allowed)
            if self._stopped:
                raise _StoppedError
