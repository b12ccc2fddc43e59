"""What the disk holds of a file under construction: read back, compared, hashed."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from quantkit.errors import VerificationError
from quantkit.storage.disk import Disk, File
from quantkit.storage.failures import shown
from quantkit.storage.journal import Record


def read_back(disk: Disk, file: File, nbytes: int, records: Iterable[Record]) -> str:
    """SHA-256 (hex) of a whole file as the disk returns it, read once for it and once for the tensors in it.

    Raises VerificationError, naming the tensor, when one has other bytes than were written.
    """
    disk.forget(file, 0, 0)
    with ThreadPoolExecutor(1) as second_core:
        whole = second_core.submit(disk.hash, file, 0, nbytes)
        for record in sorted(records, key=lambda record: record.offset):
            if disk.hash(file, record.offset, record.nbytes) != record.sha256:
                path = shown(file.path)
                message = f'{path}: "{record.tensor}" reads back with other bytes than were written'
                hint = "check disk and memory; the same command writes it again"
                raise VerificationError(message, hint=hint, tensor=record.tensor, path=path)
        return whole.result()
