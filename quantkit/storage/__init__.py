"""The only package that writes files: under construction beside the final name, checked, then renamed.

A final name is absent or whole: `open_job` gives files that survive a kill at any instruction and are continued by
the same command; `write_small` writes one file at once; `update_sums` keeps SHA256SUMS;
`Scratch` gives arrays on the disk that leave nothing behind.
"""

from quantkit.storage.claim import remove_job
from quantkit.storage.disk import Ops, direct
from quantkit.storage.failures import free_bytes
from quantkit.storage.files import (
    SUMS,
    exists,
    hash_file,
    open_log,
    preflight,
    probe_file,
    read_sums,
    remove_file,
    require_small,
    require_sums,
    sums_after,
    update_sums,
    write_small,
)
from quantkit.storage.job import Job, open_job
from quantkit.storage.journal import PartFile, Record
from quantkit.storage.keys import user_key
from quantkit.storage.part import PublishedFile
from quantkit.storage.scratch import Room, Scratch, scratch_file, written_by

__all__ = [
    "SUMS",
    "Job",
    "Ops",
    "PartFile",
    "PublishedFile",
    "Record",
    "Room",
    "Scratch",
    "direct",
    "exists",
    "free_bytes",
    "hash_file",
    "open_job",
    "open_log",
    "preflight",
    "probe_file",
    "read_sums",
    "remove_file",
    "remove_job",
    "require_small",
    "require_sums",
    "scratch_file",
    "sums_after",
    "update_sums",
    "user_key",
    "write_small",
    "written_by",
]
