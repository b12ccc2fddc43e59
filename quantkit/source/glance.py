"""A glance at a repository of the Hub: configuration and tokenizer are fetched, of its weights only the headers."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from quantkit.events import Sink, StageFinished, StageStarted
from quantkit.records import record
from quantkit.report.text import size
from quantkit.source.folder import locate
from quantkit.source.hub import Snapshot, fetch_weights, is_gguf, require_cached, snapshot_of
from quantkit.source.hub_access import Hub
from quantkit.source.ranges import Counter, Place, Ranged
from quantkit.units import counted
from quantkit.untrusted import InputFile, distant_input, open_input

STAGE = "headers"
WORKERS = 16  # small requests at a time: what they wait for is the way


@record
class Glance:
    """Where a checkpoint lies, or would lie: its snapshot folder, or a GGUF file in it. `distant` are the files that
    are not there, open, by where they would be."""

    path: Path
    distant: Mapping[Path, InputFile]


def glance(repo: str, revision: str | None, hub: Hub, emit: Sink, *, file: str | None = None) -> Glance:
    """Look at a repository as `hub.fetch` would fetch it, without its weights: what is in the cache is used, of every
    other file with weights the first bytes are requested, all at once. Offline all of it has to be in the cache.

    Raises as `hub.fetch`, and NetworkError for a server that does not send what it was asked for.
    """
    hub = hub.known()
    snapshot, wanted = snapshot_of(repo, revision, hub, emit, file)
    folder = snapshot.folder.resolve()
    path = folder / (file or wanted[0]) if is_gguf(wanted) else folder
    missing = [name for name in wanted if not (folder / name).exists()]
    for name in wanted:
        if name not in missing:
            locate(folder, name)
    if not missing:
        return Glance(path, {})
    require_cached(snapshot, missing, len(wanted), hub)
    if snapshot.sizes is None:  # nobody knows what there is: another program filled the cache
        fetch_weights(snapshot, missing, hub, emit)
        return Glance(path, {})
    return Glance(path, _distant(snapshot, missing, hub, emit))


def _distant(snapshot: Snapshot, missing: list[str], hub: Hub, emit: Sink) -> dict[Path, InputFile]:
    assert snapshot.sizes is not None
    start, counter, folder = time.monotonic(), Counter(), snapshot.folder.resolve()
    total = sum(snapshot.sizes[name] for name in missing)
    emit(StageStarted(STAGE, 0, f"{snapshot.repo} at {snapshot.commit[:12]}, {counted(len(missing), 'file')}"))
    rest = _Rest(snapshot, missing, hub, emit)

    def opened(name: str) -> tuple[Path, InputFile]:
        assert snapshot.sizes is not None
        place = Place(snapshot.repo, snapshot.commit, name, snapshot.sizes[name], hub)
        ranged = Ranged(place, partial(rest.fetched, name), counter, emit)
        return folder / name, distant_input(folder / name, place.nbytes, ranged)

    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix=STAGE)
    try:
        found = dict(pool.map(opened, missing))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    emit(StageFinished(STAGE, time.monotonic() - start, f"{size(counter.nbytes)} of {size(total)}"))
    return found


class _Rest:
    """All files of the weights, fetched once somebody wants to read more than their headers."""

    def __init__(self, snapshot: Snapshot, names: list[str], hub: Hub, emit: Sink) -> None:
        self._snapshot, self._names, self._hub, self._emit = snapshot, names, hub, emit
        self._lock = threading.Lock()

    def fetched(self, name: str) -> InputFile:
        with self._lock:
            fetch_weights(self._snapshot, self._names, self._hub, self._emit)
        return open_input(locate(self._snapshot.folder.resolve(), name), follow=False)
