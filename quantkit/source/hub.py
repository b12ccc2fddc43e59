"""A repository of the Hugging Face Hub: its revision resolved once, and only the files that are needed fetched.

The work is huggingface_hub's: cache, locks, retries (a dropped connection goes on where it stopped, with a Range
request) and credentials. Files that arrived whole stay in the cache when a run is stopped.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from huggingface_hub import HfApi, get_cached_repo_tree, hf_hub_download, snapshot_download
from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE, is_offline_mode
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from quantkit.errors import NetworkError, QuantkitError, ResourceError, UsageError
from quantkit.events import Event, Sink, StageFinished, StageStarted, TensorProgress, Warned
from quantkit.formats.gguf.file import SHARD_NAME, shard_name
from quantkit.source.adapter import WEIGHTS as ADAPTER
from quantkit.source.adapter import holds_adapter
from quantkit.source.adapter_config import ADAPTER_CONFIG
from quantkit.source.folder import SIDE_FILES, locate
from quantkit.source.nested import PATTERNS
from quantkit.source.shards import CONSOLIDATED, MAX_SHARDS, index_of, read_index, stem_of, weight_files
from quantkit.untrusted import open_input, shown

# What a checkpoint for servers carries over besides (`FolderCheckpoint.carried`); code of the repository stays there.
CARRIED = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "params.json",
    "config_sentence_transformers.json", "sentence_bert_config.json", "tokenizer.model.v*", index_of(CONSOLIDATED),
    ADAPTER_CONFIG, "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
SIDE_PATTERNS = [*SIDE_FILES, *CARRIED, *PATTERNS]
WORKERS = 4  # files at a time; one connection rarely fills the line
TOKEN = re.compile(r"hf_(?:[a-z]+_)?[A-Za-z0-9]{8,}[\w.-]*|(?<=Bearer )\S+|(?<=://)[^/\s@]+(?=@)")
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
COMMIT = re.compile(r"[0-9a-f]{40}")
QUERY = re.compile(r"(https?://[^\s?]+)\?\S+")  # signed addresses of a content network
STAGE = "download"
NO_SIDE_FILES = "No files matched allow_patterns"  # a repository of GGUF files may have none
NO_ADDRESS: type[Exception] = import_module(HTTPError.__module__.partition(".")[0]).InvalidURL  # is no HTTPError
NO_ANSWER = "nothing that the interface of the Hub has"


@dataclass(frozen=True)
class Hub:
    """Which Hub, and how. What is None comes from the environment, as huggingface_hub documents:
    HF_ENDPOINT, HF_HUB_CACHE (or HF_HOME), HF_TOKEN (or the stored login). HF_HUB_OFFLINE counts as `offline`.
    """

    offline: bool = False
    endpoint: str | None = None
    cache: Path | None = None
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit, as far as it has been fetched to `folder`. `sizes` is None where unknown."""

    repo: str
    commit: str
    folder: Path
    sizes: Mapping[str, int] | None


def fetch(repo: str, revision: str | None, hub: Hub, emit: Sink, *, file: str | None = None) -> Path:
    """Fetch what is needed of a model repository and return the snapshot folder in the Hub cache; with `file`, the
    GGUF file of that name with all of its shards, and return its path there.

    `revision` is a branch, tag or commit, the default branch if None; it is resolved to a commit once, and every
    file is of that commit. Needed are the safetensors files that the index names, configuration, tokenizer and model
    card. Offline, or with everything cached, nothing is requested but the commit of a branch or tag.

    Raises UsageError for an unknown repository or revision, NetworkError when the Hub or the line fails or the
    cache lacks something offline, ResourceError when the disk is too small, InputError for a hostile index.
    """
    hub = Hub(hub.offline or is_offline_mode(), hub.endpoint, hub.cache or Path(HF_HUB_CACHE), hub.token)
    with _warnings_as_events(emit, hub):
        try:
            snapshot = _fetch_side_files(repo, revision, hub)
            wanted = _weights(snapshot) if file is None else _shards(snapshot, file)
            _fetch_files(snapshot, wanted, hub, emit)
        except (HTTPError, EntryNotFoundError, RevisionResolutionError, OSError, ValueError) as error:
            # Without its cause: requests carry credentials, and some tracebacks print local variables.
            raise _explain(error, repo, revision, hub) from None
    if file is None:
        return snapshot.folder
    for name in wanted:
        locate(snapshot.folder.resolve(), name)
    return snapshot.folder.resolve() / file


def fetch_config(repo: str, revision: str | None, hub: Hub, emit: Sink) -> Path:
    """Fetch everything of a model repository but weights; return the path of its config.json. Raises as `fetch`."""
    hub = Hub(hub.offline or is_offline_mode(), hub.endpoint, hub.cache or Path(HF_HUB_CACHE), hub.token)
    with _warnings_as_events(emit, hub):
        try:
            snapshot = _fetch_side_files(repo, revision, hub)
        except (HTTPError, EntryNotFoundError, RevisionResolutionError, OSError, ValueError) as error:
            raise _explain(error, repo, revision, hub) from None
    return locate(snapshot.folder.resolve(), "config.json")


def _fetch_side_files(repo: str, revision: str | None, hub: Hub) -> Snapshot:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    with _answers():
        resolved = api.resolve_revision(repo, revision=revision, cache_dir=hub.cache, local_files_only=hub.offline)
    if not isinstance(resolved.resolved, str) or not COMMIT.fullmatch(
        resolved.resolved
    ):  # it becomes the name of a folder
        raise ValueError(f'the Hub names the commit "{resolved.resolved}"')
    with _answers():
        folder = snapshot_download(
            repo,
            revision=resolved,
            allow_patterns=SIDE_PATTERNS,
            cache_dir=hub.cache,
            endpoint=hub.endpoint,
            token=hub.token,
            local_files_only=hub.offline,
            tqdm_class=partial(_Bar, lambda count: None),
        )
    commit = resolved.resolved
    try:
        with _answers():
            tree = get_cached_repo_tree(repo, revision=commit, cache_dir=hub.cache)
    except CachedRepoTreeNotFoundError:  # offline, and another program filled the cache
        return Snapshot(repo, commit, Path(folder), None)
    sizes = {file.path: file.size for file in tree}
    if not all(isinstance(path, str) and isinstance(size, int) and size >= 0 for path, size in sizes.items()):
        raise ValueError(f"its list of files is {NO_ANSWER}")
    return Snapshot(repo, commit, Path(folder), sizes)


@contextmanager
def _answers() -> Iterator[None]:
    """huggingface_hub and its client take for granted what answers look like: one of another kind becomes a ValueError.

    Numbers may be too large to count or to sleep, addresses none at all, encodings unknown.
    """
    try:
        yield
    except (TypeError, LookupError, AttributeError, AssertionError, RuntimeError, ArithmeticError, NO_ADDRESS) as error:
        raise ValueError(f"it answered {NO_ANSWER} ({type(error).__name__}): is HF_ENDPOINT right?") from None


def _weights(snapshot: Snapshot) -> list[str]:
    """The files that hold the weights of a checkpoint."""
    folder = snapshot.folder.resolve()
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    names = present if snapshot.sizes is None else set(snapshot.sizes)
    if holds_adapter(names):
        return [ADAPTER]
    stem = stem_of(names)
    index = _index(folder, index_of(stem)) if index_of(stem) in present else None
    return weight_files(Path(snapshot.repo), names, index, stem)


def _shards(snapshot: Snapshot, file: str) -> list[str]:
    """All shards of a GGUF file of the repository. Raises UsageError naming the nearest for one that is not there."""
    folder, _, name = file.rpartition("/")
    match = SHARD_NAME.fullmatch(name)
    count = min(int(match["count"]), MAX_SHARDS) if match else 1
    names = [shard_name(match["stem"], number, count) for number in range(count)] if match else [name]
    wanted = [f"{folder}/{one}" if folder else one for one in names]
    if snapshot.sizes is not None and not set(wanted) <= set(snapshot.sizes):
        found = sorted(path for path in snapshot.sizes if path.lower().endswith(".gguf"))
        near = get_close_matches(file, found, 3, 0.0)
        hint = f"it has {', '.join(shown(one) for one in near)}" if near else "it has no GGUF files"
        raise UsageError(f"{snapshot.repo} has no {shown(file)}", path=file, hint=hint)
    return wanted


def _fetch_files(snapshot: Snapshot, wanted: Sequence[str], hub: Hub, emit: Sink) -> None:
    folder = snapshot.folder.resolve()
    missing = [name for name in wanted if not (folder / name).exists()]
    if not missing:
        return
    sizes = snapshot.sizes or {}
    total = sum(sizes.get(name, 0) for name in missing)
    _require_disk(total, folder)
    start = time.monotonic()
    emit(StageStarted(STAGE, total, f"{snapshot.repo} at {snapshot.commit[:12]}, {len(missing)} files"))
    meter = _Meter(emit, missing, total)
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix=STAGE)
    try:
        for job in as_completed([pool.submit(_fetch_file, snapshot, name, hub, meter) for name in missing]):
            job.result()
    finally:
        meter.stop()  # after an error or Ctrl-C the other files end at their next chunk
        pool.shutdown(wait=True, cancel_futures=True)
    emit(StageFinished(STAGE, time.monotonic() - start, f"{total:,} bytes"))


def _index(folder: Path, name: str) -> dict[str, str]:
    file = open_input(locate(folder, name), follow=False)
    try:
        return read_index(file)
    finally:
        file.close()


def _fetch_file(snapshot: Snapshot, name: str, hub: Hub, meter: _Meter) -> None:
    with _answers():
        hf_hub_download(
            snapshot.repo,
            name,
            revision=snapshot.commit,
            cache_dir=hub.cache,
            endpoint=hub.endpoint,
            token=hub.token,
            local_files_only=hub.offline,
            tqdm_class=partial(_Bar, partial(meter.report, name)),
        )


def _require_disk(nbytes: int, folder: Path) -> None:
    free = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free
    if nbytes > free:
        what = f"the download needs {nbytes:,} bytes, {free:,} are free at {shown(folder)}"
        raise ResourceError(what, path=str(folder), hint="free some space, or set HF_HUB_CACHE to another disk")


class _StoppedError(Exception):
    """Another file failed, or the user stopped the run."""


class _Meter:
    """Adds up the bytes of all files and reports them, from whichever thread they arrive on."""

    def __init__(self, emit: Callable[[Event], None], names: Sequence[str], total: int) -> None:
        self._emit = emit
        self._done = dict.fromkeys(names, 0)
        self._total = total
        self._lock = threading.Lock()
        self._stopped = False

    def report(self, name: str, nbytes: int) -> None:
        """`nbytes` of the file are here. Raises to end the download of a file that is no longer wanted."""
        with self._lock:
            if self._stopped:
                raise _StoppedError
            if nbytes <= self._done[name]:
                return
            self._done[name] = nbytes
            index = list(self._done).index(name)
            done = sum(self._done.values())
            self._emit(TensorProgress(STAGE, name, "", index, len(self._done), done, self._total))

    def stop(self) -> None:
        with self._lock:
            self._stopped = True


class _Bar:
    """What huggingface_hub takes for a tqdm bar. It may make two for one file (bytes sent, bytes written)."""

    def __init__(
        self, report: Callable[[int], object], *_: object, total: float | None = None, initial: int = 0, **__: Any
    ) -> None:
        self._report = report
        self.total = total
        self.n = initial

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def update(self, n: float | None = 1) -> None:
        self.n += int(n or 0)
        self._report(self.n)

    @property
    def format_dict(self) -> dict[str, Any]:
        return {"rate": None}

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        pass

    def set_description(self, desc: str | None = None, refresh: bool = True) -> None:
        pass

    set_description_str = set_description

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def _warnings_as_events(emit: Sink, hub: Hub) -> Iterator[None]:
    """What huggingface_hub would print (retries, a cached revision used instead) becomes an event."""

    def collect(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING and not record.getMessage().startswith(NO_SIDE_FILES):
            emit(Warned("hub", _clean(record.getMessage(), hub)))
        return False

    handlers = logging.getLogger("huggingface_hub").handlers
    for handler in handlers:
        handler.addFilter(collect)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(collect)


def _clean(text: str, hub: Hub) -> str:
    """One printable line without tokens, passwords and signatures."""
    for secret in filter(None, (hub.token, *map(os.environ.get, TOKEN_VARIABLES))):
        text = text.replace(secret, "***")
    return shown(" ".join(QUERY.sub(r"\1?***", TOKEN.sub("***", text)).split()), 400)


def _explain(error: Exception, repo: str, revision: str | None, hub: Hub) -> QuantkitError:
    """The error of quantkit for one of huggingface_hub."""
    what = f"hf://{repo}" + (f"@{revision}" if revision else "")
    endpoint = _clean(hub.endpoint or ENDPOINT, hub)
    if isinstance(error, GatedRepoError):
        hint = f"accept its terms at {endpoint}/{repo}, then set HF_TOKEN or run: hf auth login"
        return NetworkError(f"{what} is gated: the Hub wants a login that has access", hint=hint)
    if isinstance(error, RepositoryNotFoundError):
        hint = "check the spelling; for a private repository set HF_TOKEN or run: hf auth login"
        return UsageError(f"{endpoint} has no model repository {repo}, or it is private", hint=hint)
    if isinstance(error, RevisionNotFoundError):
        return UsageError(f"{repo} has no revision {revision}", hint=f"see {endpoint}/{repo}/tree/main")
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, what, hub)
    cause = error.__cause__
    if hub.offline or isinstance(cause, OfflineModeIsEnabled):
        reason = "not in the cache" if isinstance(error, RevisionResolutionError) else "not complete in the cache"
        return NetworkError(f"{what} is {reason} at {shown(str(hub.cache))}", hint="run once without --offline")
    if isinstance(cause, Exception):
        return _explain(cause, repo, revision, hub)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
        hint = "free some space, or set HF_HUB_CACHE to a folder that can be written"
        return ResourceError(f"cannot write to the Hub cache: {error.strerror}", path=str(hub.cache), hint=hint)
    reason = _clean(str(error), hub) or type(error).__name__
    hint = "check the connection and run again: what has arrived is kept; --offline uses a cached copy"
    return NetworkError(f"cannot fetch {what} from {endpoint}: {reason}", hint=hint)


def _explain_status(error: HfHubHTTPError, what: str, hub: Hub) -> QuantkitError:
    status = error.response.status_code
    hints = {
        401: "the repository is private, or the token is not valid: set HF_TOKEN or run: hf auth login",
        403: "the token may not read this repository: check its permissions",
        429: "too many requests: wait some minutes, or log in for a higher limit",
    }
    hint = hints.get(status, "the Hub has a problem: run again later, or with --offline if it is cached")
    reason = _clean(error.server_message or error.response.reason_phrase, hub)
    return NetworkError(f"the Hub answered {status} for {what}: {reason}", hint=hint)
