"""A file of a data set on the Hub: its revision resolved once, its name and size known before it is fetched."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from quantkit.errors import InputError, UsageError, nearest
from quantkit.events import Sink, StageFinished, StageStarted, ignore
from quantkit.records import record
from quantkit.report.text import size
from quantkit.source.hub import COMMIT, STAGE, Bar, require_disk
from quantkit.source.hub_access import Hub, access, answers
from quantkit.source.meter import Meter
from quantkit.untrusted import listed, shown

DATASET = "dataset"


@record
class DataSet:
    """A data set at one commit. `sizes` are those of its files, by name; None offline, where nobody knows them."""

    repo: str
    commit: str
    sizes: Mapping[str, int] | None


def look_at(repo: str, revision: str | None, hub: Hub) -> DataSet:
    """Resolve a revision of a data set, and list its files. Raises UsageError for an unknown one, NetworkError when
    the Hub fails, or the cache does not know it offline."""
    hub = hub.known()
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    with access(f"datasets/{repo}", revision, hub, ignore):
        with answers():
            found = api.resolve_revision(
                repo, repo_type=DATASET, revision=revision, cache_dir=hub.cache, local_files_only=hub.offline
            )
            commit = found.resolved
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise ValueError(f'the Hub names the commit "{commit}"')
        if hub.offline:
            return DataSet(repo, commit, None)
        with answers():
            tree = list(api.list_repo_tree(repo, repo_type=DATASET, revision=commit, recursive=True))
            sizes = {file.path: file.size for file in tree if hasattr(file, "blob_id")}
        if not all(isinstance(path, str) and isinstance(size, int) and size >= 0 for path, size in sizes.items()):
            raise ValueError("its list of files is none")
    return DataSet(repo, commit, sizes)


def fetch_file(found: DataSet, name: str, limit: int, hub: Hub, emit: Sink = ignore) -> Path:
    """Fetch one file, of at most `limit` bytes, into the Hub cache, and return its path there. Raises UsageError naming
    the nearest for a name that it has not, InputError for a file that is too large, and what `look_at` raises."""
    hub, nbytes = hub.known(), 0
    if found.sizes is not None:
        if name not in found.sizes:
            near = nearest(name, found.sizes)
            hint = f"it has {listed(near, 3)}" if near else "it has no files"
            raise UsageError(f"the data set {found.repo} has no {shown(name)}", path=name, key="data", hint=hint)
        nbytes = found.sizes[name]
        if nbytes > limit:
            what = f"{shown(name)} of {found.repo} has {nbytes:,} bytes, at most {limit:,} are read"
            raise InputError(what, path=name, hint="name a smaller file: a few megabytes of text are enough")
    start = time.monotonic()
    with access(f"datasets/{found.repo}", found.commit, hub, emit):
        try:
            return _download(found, name, hub, lambda done: None, offline=True)
        except LocalEntryNotFoundError:
            if hub.offline:
                raise
        require_disk(nbytes, Path(hub.cache or "."))
        emit(StageStarted(STAGE, nbytes, f"{shown(name)} of {found.repo} at {found.commit[:12]}"))
        meter = Meter(STAGE, emit, [name], nbytes)
        path = _download(found, name, hub, partial(meter.report, name), offline=False)
    emit(StageFinished(STAGE, time.monotonic() - start, size(nbytes)))
    return path


def _download(found: DataSet, name: str, hub: Hub, report: Callable[[int], object], *, offline: bool) -> Path:
    with answers():
        path = hf_hub_download(
            found.repo,
            name,
            repo_type=DATASET,
            revision=found.commit,
            cache_dir=hub.cache,
            endpoint=hub.endpoint,
            token=hub.token,
            local_files_only=offline,
            tqdm_class=partial(Bar, report),
        )
    return Path(path)
