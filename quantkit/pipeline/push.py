"""The push stage: artifacts that may be published, to a repository of the Hub, in one commit.

looked at     which files go, and that none is a secret, a link that leads away, or work that is not finished
judged        verified and not gated out (pipeline/publishing)
hashed        through the descriptors that are sent from, and compared with manifests and SHA256SUMS
compared      with what the repository holds: what is there already is not sent
sent          large files first, each skipped that the Hub has got from an earlier run; then one commit
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import InputError, UsageError, VerificationError
from quantkit.events import Sink, StageFinished, StageStarted, Warned, ignore
from quantkit.hub.outgoing import Gathered, gather
from quantkit.pipeline.folder import NO_MANIFEST, Finished, manifests_in, unlisted
from quantkit.pipeline.given import coerce, given_optional, given_paths, given_text, given_texts
from quantkit.pipeline.publishing import Publishable, publishable
from quantkit.pipeline.signing import SIGNATURE, signed_names
from quantkit.pipeline.verify_folder import release_check
from quantkit.records import record
from quantkit.report.release import RELEASE
from quantkit.report.text import size
from quantkit.source.meter import Meter
from quantkit.source.spec import parse_hub
from quantkit.storage import read_sums
from quantkit.units import counted
from quantkit.untrusted import listed, require_path, shown

if TYPE_CHECKING:
    from quantkit.hub.repository import Head
    from quantkit.hub.sending import Sent

OF_MODELS = (".safetensors", ".bin", ".pt", ".pth")  # what a loader of checkpoints may take for its weights
TARGET = "write hf://org/name; the branch with --revision"
NEW, OTHER, THERE = "new", "other", "there"


@record
class PushRequest:
    """What to publish where. `source` is the folder of artifacts, or the GGUF file of one.

    `revision` is a branch, which is made where it is missing; `pr` asks the owners of the repository to take the
    commit. `private` makes a new repository private. `against` is the source, to be compared with now, with `adapters`
    that were merged into it. `require_gates` refuses artifacts that no gate has judged; `records` are what eval
    printed of them.
    """

    source: Path
    to: str
    revision: str | None = None
    message: str | None = None
    private: bool = False
    pr: bool = False
    against: str | None = None
    adapters: tuple[str, ...] = ()
    require_gates: bool = False
    records: tuple[Path, ...] = ()
    offline: bool = False

    def __post_init__(self) -> None:
        coerce(self, {"to": given_text, "against": given_optional, "records": given_paths, "adapters": given_texts})
        object.__setattr__(self, "source", Path(self.source))
        if self.adapters and self.against is None:
            raise UsageError("--adapter needs --against", hint="give --against, or leave --adapter out", key="adapter")


@record
class PushedFile:
    """A file, and what of the kind the repository had: it is `new`, there are `other` bytes, or it is `there`."""

    name: str
    nbytes: int
    sha256: str
    state: str

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.nbytes, "sha256": self.sha256, "state": self.state}


@record
class Pushed:
    """What was sent, or would be. `commit` is that of the files, None where nothing was committed yet; `sent_bytes` is
    what went over the line of them."""

    repo: str
    revision: str
    address: str
    files: tuple[PushedFile, ...]
    created: bool
    commit: str | None = None
    sent_bytes: int = 0
    dry_run: bool = False
    left: tuple[str, ...] = field(default=())

    @property
    def changed(self) -> tuple[PushedFile, ...]:
        return tuple(file for file in self.files if file.state != THERE)

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.changed)

    def as_json(self) -> dict[str, Any]:
        return {
            "repo": self.repo,
            "revision": self.revision,
            "url": self.address,
            "commit": self.commit,
            "created": self.created,
            "dry_run": self.dry_run,
            "up_to_date": not self.changed,
            "bytes": self.nbytes,
            "sent_bytes": self.sent_bytes,
            "files": [file.as_json() for file in self.files],
            "left_out": list(self.left),
        }

    def lines(self) -> list[str]:
        """The same as a person reads it."""
        if not self.changed:
            return [f"{self.address}: all {counted(len(self.files), 'file')} are there already"]
        what = f"{counted(len(self.changed), 'file')}, {size(self.nbytes)}"
        there = len(self.files) - len(self.changed)
        already = f", {there} there already" if there else ""
        where = f"hf://{self.repo}@{self.revision}"
        head = f"would send {what} to {where}{already}" if self.dry_run else f"{self.address}: {what}{already}"
        if self.dry_run and self.created:
            head += "; the repository would be made"
        marks = {NEW: "new", OTHER: "replaces", THERE: "there"}
        rows = [f"  {marks[f.state]:<9} {size(f.nbytes):>9}  {f.name}" for f in self.files]
        return [head, *rows, *(f"  left out            {shown(name)}" for name in self.left)]


def push(request: PushRequest, *, dry_run: bool = False, emit: Sink = ignore) -> Pushed:
    """Publish artifacts in one commit; with `dry_run` only say what would be sent.

    Raises UsageError for a target that is none, InputError and BusyError for files that must not go, VerificationError
    and GateError for artifacts that may not be published, NetworkError when the Hub fails or says no, BusyError where
    somebody else changes the same files meanwhile. The same request goes on where another one was stopped.
    """
    repo, branch = _target(request)
    root = request.source if request.source.is_dir() else request.source.parent
    require_path(request.source)
    if request.source.is_dir():
        require_artifacts(root)
        names = None
    else:
        [one] = judged(request, request.source, emit)
        names = [*(file.name for file in one.artifact.manifest.artifact), one.artifact.manifest_path.name]
    with closing(gather(root, names)) as files:
        if files.left:
            emit(Warned("left-out", f"{counted(len(files.left), 'file')} stay behind: {listed(list(files.left), 3)}"))
        return _Push(request, repo, branch, files, root, emit).run(dry_run)


def judged(request: PushRequest, place: Path, emit: Sink) -> tuple[Publishable, ...]:
    """The artifacts of a folder, or that of a file. Raises what `Publishable.require` does for one that may not go."""
    against, adapters = request.against, request.adapters
    found = publishable(place, against=against, adapters=adapters, records=request.records, emit=emit)
    for one in found:
        one.require(gated=request.require_gates)
    return found


def require_artifacts(root: Path) -> None:
    """Raise InputError for a folder without any manifest, in it or in a folder in it."""
    if not any(manifests_in(folder) for folder in _folders(root)):
        what = f"{shown(str(root))} holds no artifact with a manifest"
        raise InputError(what, path=str(root), hint=NO_MANIFEST)


def _folders(root: Path) -> Iterator[Path]:
    """The folder and those in it, without hidden ones and links."""
    yield root
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _folders(entry)


def _target(request: PushRequest) -> tuple[str, str]:
    """Repository and branch. Raises UsageError for what names no repository to write to."""
    if request.offline:
        raise UsageError("push needs the network", key="offline", hint="leave --offline out, and unset HF_HUB_OFFLINE")
    if request.to.startswith(("hf://datasets/", "hf://spaces/")):
        raise UsageError(f"{shown(request.to)} is no model repository", key="to", hint=TARGET)
    found = parse_hub(request.to)
    if found is None or found.file is not None:
        raise UsageError(f"{shown(request.to)} names no model repository", key="to", hint=TARGET)
    if found.revision and request.revision and found.revision != request.revision:
        what = f"{shown(request.to)} names another branch than --revision {shown(request.revision)}"
        raise UsageError(what, key="revision", hint="name it once")
    if request.message is not None and not request.message.strip():
        raise UsageError("--message is empty", key="message", hint="leave it out, or say what is new")
    branch = request.revision or found.revision or "main"
    checked = parse_hub(f"hf://{found.repo}@{branch}")
    if checked is None or checked.revision != branch:
        raise UsageError(f"--revision {shown(branch)} is no name of a branch", key="revision", hint="for example v1.0")
    return found.repo, branch


class _Push:
    """One push in the making."""

    def __init__(
        self, request: PushRequest, repo: str, branch: str, gathered: Gathered, root: Path, emit: Sink
    ) -> None:
        from quantkit.hub.client import guarded
        from quantkit.hub.repository import Goal, Repository
        from quantkit.source.hub_access import Hub

        self.request, self.gathered, self.root, self.emit = request, gathered, root, emit
        hub = Hub().known()
        if hub.offline:
            raise UsageError("push needs the network", key="offline", hint="unset HF_HUB_OFFLINE")
        self.guarded = guarded(hub)
        self.goal = Goal(repo, branch, request.private, request.pr)
        self.repository = Repository(self.goal, hub, emit)

    def run(self, dry_run: bool) -> Pushed:
        with self.guarded, ExitStack() as stack:
            head = self.repository.head()
            promised = self._promised()
            for each in self.gathered.files:
                stack.enter_context(each.file.watch())
            sent = self._hashed(promised)
            self._require_true({each.name: each.sha256 for each in sent})
            lacking = head.lacks(sent)
            self._warn_of_strangers(head)
            told = self._told(head, sent, lacking)
            if dry_run or not lacking:
                return replace(told, commit=None if lacking else head.commit, dry_run=dry_run)
            created = not head.exists
            if created or head.commit is None:
                head = self.repository.create(head)
                lacking = head.lacks(sent)
            self._upload(lacking)
            message = self.request.message or self._message()
            commit, address = self.repository.commit(head, lacking, message)
            done = replace(told, commit=commit, address=address, sent_bytes=sum(each.sent_bytes for each in lacking))
            self.emit(StageFinished("push", 0.0, f"{size(done.sent_bytes)} sent, commit {commit[:12]}"))
            return done

    def _promised(self) -> dict[str, str]:
        """Hashes by name, as manifests and SHA256SUMS say them. Raises for artifacts that may not be published."""
        found: dict[str, str] = {}
        names = [each.name for each in self.gathered.files]
        whole = self.request.source.is_dir()
        for folder in _folders(self.root) if whole else [self.root]:
            below = folder.relative_to(self.root).as_posix()
            prefix = "" if below == "." else f"{below}/"
            artifacts = self._artifacts(folder) if whole and manifests_in(folder) else []
            for one in artifacts:
                found |= {f"{prefix}{file.name}": file.sha256 for file in one.manifest.artifact}
            if whole:
                here = [n.removeprefix(prefix) for n in names if n.startswith(prefix) and "/" not in n[len(prefix) :]]
                _require_listed(folder, artifacts, here)
            for name, hashes in (read_sums(folder) or {}).items():
                found.setdefault(f"{prefix}{os.fsdecode(name)}", hashes[0])
        return found

    def _artifacts(self, folder: Path) -> list[Finished]:
        return [one.artifact for one in judged(self.request, folder, self.emit)]

    def _require_true(self, hashes: dict[str, str]) -> None:
        """Raise VerificationError for a release.json or a signature that says what is no longer so."""
        for folder in _folders(self.root) if self.request.source.is_dir() else ():
            for check in release_check(folder):
                if not check.ok:
                    what = f"{shown(str(folder / RELEASE))} is no longer so: {check.detail}"
                    raise VerificationError(what, path=str(folder / RELEASE), hint=check.hint)
            below = folder.relative_to(self.root).as_posix()
            prefix = "" if below == "." else f"{below}/"
            other = [n for n, sha256 in _signed(folder).items() if hashes.get(prefix + n, sha256) != sha256]
            if other:
                what = f"{shown(str(folder / SIGNATURE))} signs another {shown(other[0])}"
                hint = "release the folder again with --sign-key, or take the signature out of it"
                raise VerificationError(what, path=str(folder / SIGNATURE), hint=hint)

    def _hashed(self, promised: dict[str, str]) -> list[Sent]:
        from quantkit.hub.sending import Sent

        files, start = self.gathered.files, time.monotonic()
        total = sum(each.nbytes for each in files)
        self.emit(StageStarted("hash", total, counted(len(files), "file")))
        meter = Meter("hash", self.emit, [each.name for each in files], total)
        sent = [Sent(each, promised.get(each.name), meter) for each in files]
        self.emit(StageFinished("hash", time.monotonic() - start, size(total)))
        return sent

    def _upload(self, lacking: Sequence[Sent]) -> None:
        start, total = time.monotonic(), sum(each.nbytes for each in lacking)
        self.emit(StageStarted("upload", total, f"{counted(len(lacking), 'file')} to hf://{self.goal.repo}"))
        meter = Meter("upload", self.emit, [each.name for each in lacking], total)
        for each in lacking:
            each.reading.meter, each.reading.moved = meter, 0
        self.repository.upload(lacking, meter.stop)
        again = Meter("upload", self.emit, [each.name for each in lacking], total)
        for each in lacking:  # small files go with the commit
            each.reading.meter = again
        moved = sum(each.sent_bytes for each in lacking)
        self.emit(StageFinished("upload", time.monotonic() - start, f"{size(moved)} of {size(total)}"))

    def _told(self, head: Head, sent: Sequence[Sent], lacking: Sequence[Sent]) -> Pushed:
        wanted = {each.name for each in lacking}

        def state(name: str) -> str:
            return THERE if name not in wanted else OTHER if name in head.files else NEW

        return Pushed(
            repo=self.goal.repo,
            revision=self.goal.branch,
            address=self.repository.address,
            files=tuple(PushedFile(each.name, each.nbytes, each.sha256, state(each.name)) for each in sent),
            created=not head.exists,
            left=self.gathered.left,
        )

    def _warn_of_strangers(self, head: Head) -> None:
        """Say which weights in the repository are not of this checkpoint: a loader may take them for its own."""
        ours = {each.name for each in self.gathered.files}
        if not any(name.endswith(".safetensors") and "/" not in name for name in ours):
            return
        others = sorted(n for n in head.files if n.endswith(OF_MODELS) and "/" not in n and n not in ours)
        if others:
            what = f"{self.goal.repo} has other weights beside these: {listed(others, 3)}"
            self.emit(Warned("strangers", f"{what}; a loader may take them for the model's"))

    def _message(self) -> str:
        return f"Add {self.root.resolve().name if self.request.source.is_dir() else self.request.source.stem}"


def _signed(folder: Path) -> dict[str, str]:
    """What the signature of a folder is over, by name; nothing without one, or one of another kind."""
    try:
        return signed_names(folder / SIGNATURE) if (folder / SIGNATURE).is_file() else {}
    except InputError:
        return {}


def _require_listed(folder: Path, artifacts: Sequence[Finished], names: Sequence[str]) -> None:
    strange = unlisted(folder, artifacts, names)
    if strange:
        what = f"{shown(str(folder))} holds weights that no manifest is of: {listed(strange, 3)}"
        hint = "take them out of the folder, or convert them again: nobody can say what they are"
        raise VerificationError(what, path=str(folder / strange[0]), hint=hint)
