"""Which source this is: its files by hash, and how they look now."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from commands import TINY

from quantkit.source import open_source
from quantkit.source.identity import Origin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def origin(folder: Path) -> Origin:
    checkpoint = open_source(str(folder))
    checkpoint.close()  # what it looks like is asked of its files
    return Origin(checkpoint)


def test_files_by_name_and_hash(folder: Path) -> None:
    found = origin(folder)
    assert [file.name for file in found.files] == sorted(file.name for file in found.files)
    for file in found.files:
        data = (folder / file.name).read_bytes()
        assert (file.nbytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert found.records({file.name: "0" * 64 for file in found.files})[0].sha256 == "0" * 64
    assert found.facts() == {"kind": "hf", "name": "model", "repo": None, "commit": None}


def test_a_job_is_of_one_plan_and_one_state_of_the_source(folder: Path) -> None:
    first = origin(folder).job_digest("plan")
    assert origin(folder).job_digest("plan") == first
    assert origin(folder).job_digest("plan", "x") != first
    path = folder / "model.safetensors"
    before = path.stat()
    path.write_bytes(path.read_bytes())  # the same bytes, written again
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert origin(folder).job_digest("plan") != first
