"""Folders for these tests lie in memory where there is such a place: they make some 100,000 fsyncs."""

from __future__ import annotations

import os
import posix
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module", autouse=True)
def flushed() -> Iterator[None]:
    """What is flushed goes to the disk here, and in processes that these tests fork."""
    elsewhere, os.fsync = os.fsync, posix.fsync
    yield
    os.fsync = elsewhere


@pytest.fixture(scope="session")
def new_folder() -> Iterator[Callable[[], Path]]:
    """Makes folders that are removed at the end."""
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="quantkit-tests-", dir=place) as root:
        yield lambda: Path(tempfile.mkdtemp(dir=root))


@pytest.fixture
def tmp_path(new_folder: Callable[[], Path]) -> Path:
    return new_folder()


@pytest.fixture
def disk_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the disk, where pytest puts its own."""
    return tmp_path_factory.mktemp("disk")
