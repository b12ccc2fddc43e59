"""A file as huggingface_hub sends it: read by the descriptor that was looked at, counted, and compared with itself.

The first reading is that of the hash which the commit names. Every byte that is read to be sent must be what it was
then (`InputFile.watch`): what arrives is what was announced, or nothing does.
"""

from __future__ import annotations

import hashlib
import io
import os
from typing import Any

from huggingface_hub import CommitOperationAdd

from quantkit.errors import InputError, VerificationError
from quantkit.hub.outgoing import Outgoing
from quantkit.source.meter import Meter
from quantkit.untrusted import shown


class Reading(io.BufferedIOBase):
    """A file that is read in order, any number of times; `meter` is told how far."""

    def __init__(self, each: Outgoing, meter: Meter) -> None:
        self._each, self.meter = each, meter
        self._position = 0
        self.moved = 0  # bytes that were read since it was set to 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        left = self._each.nbytes - self._position
        count = left if size is None or size < 0 else min(size, left)
        data = self._each.file.read(self._position, self._position + count).tobytes()
        self._position += count
        self.moved += count
        self.meter.report(self._each.name, self._position)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._each.nbytes}[whence]
        self._position = max(0, min(start + offset, self._each.nbytes))
        return self._position

    def tell(self) -> int:
        return self._position


class Sent:
    """A file, hashed, with the operation that adds it."""

    def __init__(self, each: Outgoing, promised: str | None, meter: Meter) -> None:
        """Reads all of it. Raises VerificationError where it is not what its manifest, or SHA256SUMS, promises."""
        self.name, self.nbytes = each.name, each.nbytes
        self.reading = Reading(each, meter)
        self._each = each
        self.operation: Any = CommitOperationAdd(each.name, self.reading)
        self.sha256: str = self.operation.upload_info.sha256.hex()
        if promised is not None and promised != self.sha256:
            what = f"{shown(each.name)} is not what its manifest says: SHA-256 {self.sha256}, expected {promised}"
            raise VerificationError(what, path=str(each.file.path), hint="convert again, or fetch the artifact again")
        if self.operation.upload_info.size != each.nbytes:
            raise InputError(f"{shown(each.name)} changed while it was read", path=str(each.file.path))

    @property
    def sent_bytes(self) -> int:
        """What of it was sent, counted once however often an attempt failed; small files are looked at besides."""
        return min(self.reading.moved, self.nbytes)

    def is_there(self, remote: Any) -> bool:
        """Whether a file of the repository's list has the same bytes."""
        if remote.lfs is not None:
            return bool(remote.lfs.sha256 == self.sha256)
        if remote.size != self.nbytes:
            return False
        data = self._each.file.read(0, self.nbytes).tobytes()
        return bool(remote.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())

    def unchanged(self) -> None:
        self._each.file.unchanged()
