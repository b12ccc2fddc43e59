"""SHA-256 of the source files, taken while they are being quantized so that each page comes from the disk once.

Planning a conversion is Python on one core: hashing begins beside it, on another.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from quantkit.errors import InputError
from quantkit.source import SourceFile
from quantkit.storage import hash_file

READ_BYTES = 8 << 20
LEAD_BYTES = 1 << 30  # how far the hash may run ahead of the quantizer: what is read stays in the page cache


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

    Use as a context manager, or `close` it; `result` waits for the remaining files. Meanwhile the files are watched:
    what the hash is of and what others read from them is the same, or InputError is raised.
    """

    def __init__(self, files: Sequence[SourceFile]) -> None:
        self._files = files
        self._condition = threading.Condition()
        self._allowed = LEAD_BYTES
        self._hashed = 0
        self._stopped = False
        self._watching = ExitStack()
        for file in files:
            if file.opened is not None:
                self._watching.enter_context(file.opened.watch())
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._future: Future[dict[str, str]] = self._pool.submit(self._run)

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
            self._allowed = sum(f.nbytes for f in self._files) + LEAD_BYTES
            self._condition.notify_all()
        return self._future.result()

    def _run(self) -> dict[str, str]:
        try:
            return {f.name: self._hash(f) for f in self._files}
        except _StoppedError:
            return {}

    def _hash(self, file: SourceFile) -> str:
        if file.opened is None:
            return hash_file(Path(file.path), self._pace)
        digest = hashlib.sha256()
        for start in range(0, file.nbytes, READ_BYTES):
            stop = min(start + READ_BYTES, file.nbytes)
            digest.update(file.opened.read_apart(start, stop).data)
            self._pace(stop - start)
        return digest.hexdigest()

    def _pace(self, nbytes: int) -> None:
        with self._condition:
            self._hashed += nbytes
            self._condition.wait_for(lambda: self._stopped or self._hashed <= self._allowed)
            if self._stopped:
                raise _StoppedError
