"""A repository of the Hugging Face Hub: its revision resolved once, and only the files that are needed fetched.

The work is huggingface_hub's: cache, locks, retries (a dropped connection goes on where it stopped, with a Range
request) and credentials. Files that arrived whole stay in the cache when a run is stopped.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from huggingface_hub import HfApi, get_cached_repo_tree, hf_hub_download, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError

from quantkit.errors import NetworkError, ResourceError, UsageError
from quantkit.events import Sink, StageFinished, StageStarted, ignore
from quantkit.formats.gguf.file import SHARD_NAME, shard_name
from quantkit.records import record
from quantkit.source.adapter import WEIGHTS as ADAPTER
from quantkit.source.adapter import holds_adapter
from quantkit.source.adapter_config import ADAPTER_CONFIG
from quantkit.source.folder import MASK_FILE, SIDE_FILES, locate
from quantkit.source.hub_access import NO_ANSWER, access, answers
from quantkit.source.hub_access import Hub as Hub
from quantkit.source.meter import Meter
from quantkit.source.nested import PATTERNS
from quantkit.source.shards import CONSOLIDATED, MAX_SHARDS, index_of, read_index, stem_of, weight_files
from quantkit.units import counted
from quantkit.untrusted import listed, open_input, shown

# What a checkpoint for servers carries over besides (`FolderCheckpoint.carried`); code of the repository stays there.
CARRIED = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "params.json",
    "config_sentence_transformers.json", "sentence_bert_config.json", "tokenizer.model.v*", index_of(CONSOLIDATED),
    ADAPTER_CONFIG, MASK_FILE, "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
SIDE_PATTERNS = [*SIDE_FILES, *CARRIED, *PATTERNS]
WORKERS = 4  # files at a time; one connection rarely fills the line
COMMIT = re.compile(r"[0-9a-f]{40}")
STAGE = "download"
GGUF, OF_MODELS = ".gguf", (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
ENCODER = re.compile(r"(^|[/_.-])mmproj[/_.-]", re.IGNORECASE)  # goes with a model, and is none


@record
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
    hub = hub.known()
    snapshot, wanted = snapshot_of(repo, revision, hub, emit, file)
    fetch_weights(snapshot, wanted, hub, emit)
    if not is_gguf(wanted):
        return snapshot.folder
    for name in wanted:
        locate(snapshot.folder.resolve(), name)
    return snapshot.folder.resolve() / (file or wanted[0])


def is_gguf(wanted: Sequence[str]) -> bool:
    """Whether files with weights are those of one GGUF model."""
    return wanted[0].lower().endswith(GGUF)


def snapshot_of(repo: str, revision: str | None, hub: Hub, emit: Sink, file: str | None) -> tuple[Snapshot, list[str]]:
    """Fetch everything of a repository but weights; that, and the names of the files that hold them. Raises as
    `fetch`."""
    with access(repo, revision, hub, emit):
        snapshot = _fetch_side_files(repo, revision, hub)
        file = file or _only_gguf(snapshot, revision)
        return snapshot, _weights(snapshot) if file is None else _shards(snapshot, file)


def _only_gguf(snapshot: Snapshot, revision: str | None) -> str | None:
    """The GGUF file that is all the weights a repository has, of a split one the first shard; None where there are
    others, or none. Raises UsageError, naming them, for several."""
    names = sorted(snapshot.sizes or _names_in(snapshot.folder))
    if any(name.endswith(OF_MODELS) for name in names):
        return None
    ggufs = [name for name in names if name.lower().endswith(GGUF) and not ENCODER.search(name)]
    firsts = [name for name in ggufs if (match := SHARD_NAME.fullmatch(name)) is None or int(match["number"]) == 1]
    if len(firsts) < 2:
        return firsts[0] if firsts else None
    spec = f"hf://{snapshot.repo}" + (f"@{revision}" if revision else "")
    what = f"hf://{snapshot.repo} holds GGUF files of {len(firsts)} models: {listed(firsts, 12)}"
    raise UsageError(what, hint=f"name one: {spec}:{shown(firsts[0])}")


def _names_in(folder: Path) -> list[str]:
    """Names of the files in a snapshot folder, and in the folders in it."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def fetch_config(repo: str, revision: str | None, hub: Hub, emit: Sink) -> Path:
    """Fetch everything of a model repository but weights; return the path of its config.json. Raises as `fetch`."""
    hub = hub.known()
    with access(repo, revision, hub, emit):
        snapshot = _fetch_side_files(repo, revision, hub)
    return locate(snapshot.folder.resolve(), "config.json")


def commit_of(repo: str, revision: str | None, hub: Hub) -> str:
    """The commit that a revision of a model repository is now, the default branch if None. Raises as `fetch`."""
    with access(repo, revision, hub, ignore):
        return str(_resolved(repo, revision, hub).resolved)


def _resolved(repo: str, revision: str | None, hub: Hub) -> Any:
    """A revision with the commit that it is now, as huggingface_hub takes it."""
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    with answers():
        found = api.resolve_revision(repo, revision=revision, cache_dir=hub.cache, local_files_only=hub.offline)
    if not isinstance(found.resolved, str) or not COMMIT.fullmatch(found.resolved):  # it becomes the name of a folder
        raise ValueError(f'the Hub names the commit "{found.resolved}"')
    return found


def _fetch_side_files(repo: str, revision: str | None, hub: Hub) -> Snapshot:
    resolved = _resolved(repo, revision, hub)
    with answers():
        folder = snapshot_download(
            repo,
            revision=resolved,
            allow_patterns=SIDE_PATTERNS,
            cache_dir=hub.cache,
            endpoint=hub.endpoint,
            token=hub.token,
            local_files_only=hub.offline,
            tqdm_class=partial(Bar, lambda count: None),
        )
    commit = resolved.resolved
    try:
        with answers():
            tree = get_cached_repo_tree(repo, revision=commit, cache_dir=hub.cache)
    except CachedRepoTreeNotFoundError:  # offline, and another program filled the cache
        return Snapshot(repo, commit, Path(folder), None)
    sizes = {file.path: file.size for file in tree}
    if not all(isinstance(path, str) and isinstance(size, int) and size >= 0 for path, size in sizes.items()):
        raise ValueError(f"its list of files is {NO_ANSWER}")
    return Snapshot(repo, commit, Path(folder), sizes)


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


def require_cached(snapshot: Snapshot, missing: Sequence[str], count: int, hub: Hub) -> None:
    """Raise NetworkError, naming them, where files are missing and nothing may be requested."""
    if missing and hub.offline:
        what = f"hf://{snapshot.repo} is not complete in the cache at {shown(str(hub.cache))}"
        which = f"{len(missing)} of {counted(count, 'file', 'is', 'are')} missing: {listed(list(missing), 3)}"
        raise NetworkError(f"{what}: {which}", hint="run once without --offline")


def fetch_weights(snapshot: Snapshot, wanted: Sequence[str], hub: Hub, emit: Sink) -> None:
    """Fetch those files of a repository that are not there yet. Raises as `fetch`."""
    with access(snapshot.repo, snapshot.commit, hub, emit):
        _fetch_files(snapshot, wanted, hub, emit)


def _fetch_files(snapshot: Snapshot, wanted: Sequence[str], hub: Hub, emit: Sink) -> None:
    folder = snapshot.folder.resolve()
    missing = [name for name in wanted if not (folder / name).exists()]
    if not missing:
        return
    require_cached(snapshot, missing, len(wanted), hub)
    sizes = snapshot.sizes or {}
    total = sum(sizes.get(name, 0) for name in missing)
    require_disk(total, folder)
    start = time.monotonic()
    emit(StageStarted(STAGE, total, f"{snapshot.repo} at {snapshot.commit[:12]}, {len(missing)} files"))
    meter = Meter(STAGE, emit, missing, total)
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


def _fetch_file(snapshot: Snapshot, name: str, hub: Hub, meter: Meter) -> None:
    with answers():
        hf_hub_download(
            snapshot.repo,
            name,
            revision=snapshot.commit,
            cache_dir=hub.cache,
            endpoint=hub.endpoint,
            token=hub.token,
            local_files_only=hub.offline,
            tqdm_class=partial(Bar, partial(meter.report, name)),
        )


def require_disk(nbytes: int, folder: Path) -> None:
    """Raise ResourceError where a folder has no room for so many bytes."""
    free = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free
    if nbytes > free:
        what = f"the download needs {nbytes:,} bytes, {free:,} are free at {shown(folder)}"
        raise ResourceError(what, path=str(folder), hint="free some space, or set HF_HUB_CACHE to another disk")


class Bar:
    """What huggingface_hub takes for a tqdm bar. It may make two for one file (bytes sent, bytes written)."""

    def __init__(
        self, report: Callable[[int], object], *_: object, total: float | None = None, initial: int = 0, **__: Any
    ) -> None:
        self._report = report
        self.total = total
        self.n = initial

    def __enter__(self) -> Bar:
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
