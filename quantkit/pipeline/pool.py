"""Threads that do not outlive the work they were for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def worker_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads. However the context is left, what has not begun is dropped, what has is waited for."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
