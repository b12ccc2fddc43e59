"""Releases: from a folder of finished artifacts what deployers, the Hub and auditors read of it.

    X.Modelfile    for Ollama: see pipeline/modelfile
    README.md      for people and the Hub: the model card, see pipeline/card
    bom.cdx.json   for auditors: a bill of materials, see report/bom
    release.json   for programs that deploy: what goes first, what to roll back to, hashes, quality, gates, consumers
    SHA256SUMS     of every file in the folder
    model.sig      with a key: a signature over all of them, see pipeline/signing

All of it is made in memory from what is in the folder, the source and the records that are given, before anything is
written; the same folder gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quantkit.errors import ExistsError, InputError, UsageError
from quantkit.events import Sink, StageFinished, Warned, ignore
from quantkit.pipeline.card import CardRequest, card_of, folders_of, require_card_place
from quantkit.pipeline.folder import Finished, require_finished
from quantkit.pipeline.given import coerce, given_optional, given_paths, given_texts
from quantkit.pipeline.outputs import refuse_inputs
from quantkit.pipeline.publishing import Publishable, publishable
from quantkit.pipeline.release_body import body_of, rollout_of
from quantkit.pipeline.release_files import (
    FORCE,
    OWN,
    files_in,
    require_own_places,
    require_releasable,
    role_of,
)
from quantkit.pipeline.release_modelfiles import Orphans, modelfiles_for, orphans_in
from quantkit.pipeline.release_order import Order, names_of, order_of, require_primary, utc
from quantkit.pipeline.signing import (
    SIGNATURE,
    hint_of_key,
    hint_of_signature,
    require_key,
    sign_folder,
    signed_names,
)
from quantkit.pipeline.taken_over import with_own_card, write_over
from quantkit.quality.checks.base import VerifyOptions
from quantkit.records import record
from quantkit.report.bom import BOM, encode_bom
from quantkit.report.card import CARD
from quantkit.report.records import FileRecord
from quantkit.report.release import RELEASE, encode_release
from quantkit.report.sealed import SUFFIX
from quantkit.source import Checkpoint, open_source
from quantkit.storage import SUMS, hash_file, read_sums, remove_file, sums_after, update_sums, write_small
from quantkit.untrusted import shown

EPOCH = "SOURCE_DATE_EPOCH"


@record
class ReleaseRequest:
    """What to release, and how. `paths` are folders of artifacts; `against` is their source, with `adapters` that were
    merged into it; `records` are measurements (quantkit.eval/1, eval-history/1). `password` is that of the key."""

    paths: tuple[Path, ...]
    against: str | None = None
    adapters: tuple[str, ...] = ()
    records: tuple[Path, ...] = ()
    quantized_by: str | None = None
    base_model: str | None = None
    primary: str | None = None
    not_before: str | None = None
    include: tuple[str, ...] = ()
    require_gates: bool = False
    unfinished: bool = False
    card: bool = True
    sign_key: Path | None = None
    password: bytes | None = field(default=None, repr=False)
    force: bool = False
    offline: bool = False

    def __post_init__(self) -> None:
        lists = {"paths": given_paths, "records": given_paths, "adapters": given_texts, "include": given_texts}
        coerce(self, {**lists, "against": given_optional, "primary": given_optional})
        if self.not_before is not None:
            object.__setattr__(self, "not_before", utc(str(self.not_before)))
        if self.adapters and self.against is None:
            raise UsageError("--adapter needs --against", hint="give --against, or leave --adapter out", key="adapter")
        _ = self.for_card  # raises for what its card cannot say

    @property
    def for_card(self) -> CardRequest:
        return CardRequest(
            self.paths, self.against, self.records, self.quantized_by, self.base_model, self.force, self.offline
        )


@record
class ReleasedFile:
    """A file of a release: "new", "replaced" or "same" as what was there, or "removed"; `nbytes` is None where nobody
    knows yet, or there is none."""

    name: str
    state: str
    nbytes: int | None


@record
class Release:
    """A released folder: what release.json says, and what was written for it, or would be."""

    folder: Path
    body: Mapping[str, Any]
    files: tuple[ReleasedFile, ...]
    warnings: tuple[tuple[str, str], ...]

    @property
    def signed(self) -> bool:
        return any(file.name == SIGNATURE for file in self.files)

    def as_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            **{key: self.body[key] for key in ("primary", "order", "not_before")},
            "baseline": self.body["baseline"]["name"],
            "signed": self.signed,
            "files": [{"name": f.name, "state": f.state, "bytes": f.nbytes} for f in self.files],
            "warnings": [{"code": code, "message": message} for code, message in self.warnings],
        }


def release(request: ReleaseRequest, *, dry_run: bool = False, emit: Sink = ignore) -> tuple[Release, ...]:
    """Release every folder of artifacts that is named, or lies in a folder that is.

    All artifacts are verified first, with `against` compared with their source as well. Raises VerificationError for
    one whose bytes are not what its manifest says, or for a primary that nobody verified, GateError for one that did
    not pass its gates, BusyError for unfinished work, ExistsError for a file that somebody else wrote, InputError for
    what cannot be released: see `require_releasable`. With `dry_run` nothing is written.
    """
    _timestamp()
    if request.sign_key is not None:
        require_key(request.sign_key, request.password)
    folders = list(dict.fromkeys(folder for path in request.paths for folder in folders_of(path)))
    source = _opened(request, emit)
    try:
        if source is not None:
            inputs = [Path(file.path) for file in source.files()]
            cards = [folder / CARD for folder in dict.fromkeys(path.parent for path in inputs)]
            refuse_inputs([folder / name for folder in folders for name in OWN], [*inputs, *cards], FORCE)
        prepared = [_prepare(folder, request, source, emit) for folder in folders]
    finally:
        if source is not None:
            source.close()
    return tuple(one.shown() if dry_run else one.write(emit) for one in prepared)


def _opened(request: ReleaseRequest, emit: Sink) -> Checkpoint | None:
    if request.against is None:
        return None
    return open_source(request.against, offline=request.offline, emit=emit, adapters=request.adapters)


@record
class _Prepared:
    """Everything that will be written into a folder, in the order of writing; the signature is made last. `dropped` are
    lines of SHA256SUMS that go, `removed` files."""

    folder: Path
    request: ReleaseRequest
    body: Mapping[str, Any]
    contents: Mapping[str, bytes]
    sums: Mapping[str, str]
    dropped: tuple[str, ...]
    removed: tuple[str, ...]
    left_out: tuple[str, ...]
    warnings: tuple[tuple[str, str], ...]
    keeps_signature: bool

    @property
    def rewrites(self) -> bool:
        """Whether a manifest is among the files."""
        return any(name.endswith(SUFFIX) for name in self.contents)

    def shown(self) -> Release:
        files = [ReleasedFile(name, self._state(name, data), len(data)) for name, data in self.contents.items()]
        files += [ReleasedFile(name, "removed", None) for name in self.removed]
        if self.request.sign_key is not None:
            state = "replaced" if (self.folder / SIGNATURE).exists() else "new"
            files.append(ReleasedFile(SIGNATURE, state, None))
        elif self.keeps_signature:
            files.append(ReleasedFile(SIGNATURE, "same", (self.folder / SIGNATURE).stat().st_size))
        return Release(self.folder, self.body, tuple(files), self.warnings)

    def _state(self, name: str, data: bytes) -> str:
        path = self.folder / name
        if not path.exists():
            return "new"
        same = path.stat().st_size == len(data) and hash_file(path) == hashlib.sha256(data).hexdigest()
        return "same" if same else "replaced"

    def write(self, emit: Sink) -> Release:
        done = self.shown()
        contents = {name: data for name, data in self.contents.items() if name != SUMS}
        if self.rewrites:
            write_over(self.folder, contents, self.contents[SUMS])
        else:
            for name, data in contents.items():
                write_small(self.folder / name, data, overwrite=True)
            update_sums(self.folder, self.sums, drop=self.dropped)
        for name in self.removed:
            remove_file(self.folder / name)
        if self.request.sign_key is not None:
            key, password = self.request.sign_key, self.request.password
            data = sign_folder(self.folder, key, password, self.left_out)
            write_small(self.folder / SIGNATURE, data, overwrite=True)
            files = tuple(replace(f, nbytes=len(data)) if f.name == SIGNATURE else f for f in done.files)
            done = replace(done, files=files)
        for code, message in self.warnings:
            emit(Warned(code, message))
        names = [file.name for file in done.files if file.name not in self.removed]
        emit(StageFinished("release", 0.0, f"{shown(self.folder)}: {' · '.join(names)}"))
        return done


def _prepare(folder: Path, request: ReleaseRequest, source: Checkpoint | None, emit: Sink) -> _Prepared:
    finished = require_finished(folder)
    require_own_places(folder, force=request.force)
    if request.card:
        require_card_place(folder, force=request.force)
    names, own = files_in(folder)
    require_releasable(folder, finished, names, request.include, unfinished=request.unfinished)
    _require_key_outside(folder, request)
    if request.primary is not None:
        require_primary(finished, names_of(finished), request.primary)
    options = VerifyOptions(offline=request.offline)
    found = publishable(
        folder, against=request.against, adapters=request.adapters, records=request.records, options=options, emit=emit
    )
    for one in found:
        if not one.seen.ok:
            one.require()
    if request.card:
        found = tuple(replace(one, artifact=with_own_card(one.artifact)) for one in found)
    called = names_of([one.artifact for one in found])
    order = order_of(found, called, request.primary, gated=request.require_gates)
    return _composed(folder, request, (found, order, called), source, (names, own))


Looked = tuple[Sequence[Publishable], Order, Mapping[Finished, str]]
Listing = tuple[Sequence[str], Sequence[str]]


def _composed(
    folder: Path, request: ReleaseRequest, looked: Looked, source: Checkpoint | None, listing: Listing
) -> _Prepared:
    """The bytes of all files: what is made later names what was made before."""
    found, order, called = looked
    names, own = listing
    finished = [one.artifact for one in found]
    ollama = modelfiles_for(finished, force=request.force)
    contents = {one.manifest_path.name: one.rewritten for one in finished if one.rewritten is not None}
    contents |= {made.path.name: made.described.modelfile.encode() for made in ollama}
    modelfiles = {made.file.name: made.path.name for made in ollama}
    orphans = orphans_in(folder, [name for name in names if name not in contents and name not in request.include])
    names = [name for name in names if name not in orphans.own]
    signed = request.sign_key is not None or (folder / SIGNATURE).exists()
    rollout = rollout_of(order, called, request.not_before, modelfiles, signed=signed)
    card = card_of(finished, request.for_card, source, rollout)
    if request.card:
        contents[CARD] = card.encode()
    body = body_of(found, order, called, card, request.not_before)
    contents[BOM] = encode_bom(body, _timestamp())
    known = {file.name: file for one in finished for file in one.manifest.artifact}
    others = list(_others(folder, names, known, contents))
    manifests = {one.manifest_path.name for one in finished}
    listed = [file for file in others if file.name not in manifests]
    body["files"] = [{**file.as_json(), "role": role_of(file.name)} for file in listed]
    contents[RELEASE] = encode_release(body)
    if request.card:  # behind what says the same of the source: killed in between, one of both is there to be read
        contents[CARD] = contents.pop(CARD)
    sums = {file.name: file.sha256 for file in (*known.values(), *others)}
    sums[RELEASE] = hashlib.sha256(contents[RELEASE]).hexdigest()
    dropped = tuple(name for name in _summed(folder) if name not in sums)
    contents[SUMS] = sums_after(folder, sums, drop=dropped)
    signature = {**sums, SUMS: hashlib.sha256(contents[SUMS]).hexdigest()}
    keeps = _keeps_signature(folder, request, signature)
    hidden = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    warnings = (*_warnings(found, order, called), *_of_orphans(orphans))
    left_out = (*hidden, *own)
    return _Prepared(folder, request, body, contents, sums, dropped, orphans.own, left_out, warnings, keeps)


def _others(
    folder: Path, names: Sequence[str], known: Mapping[str, FileRecord], contents: Mapping[str, bytes]
) -> Iterator[FileRecord]:
    """All files that are no artifact's, those that are about to be written as they will be."""
    for name in sorted({*names, *contents} - known.keys() - {RELEASE, SUMS, SIGNATURE}):
        data = contents.get(name)
        if data is not None:
            yield FileRecord(name, len(data), hashlib.sha256(data).hexdigest())
        else:
            yield FileRecord(name, (folder / name).stat().st_size, hash_file(folder / name))


def _summed(folder: Path) -> Iterator[str]:
    yield from (os.fsdecode(name) for name in read_sums(folder) or {})


def _keeps_signature(folder: Path, request: ReleaseRequest, signed: Mapping[str, str]) -> bool:
    """Whether a signature that is there is one over the very files that there will be. Raises ExistsError for another
    one, which would be a lie from now on, unless the folder is signed again; that of another key only with force."""
    path = folder / SIGNATURE
    if not path.exists():
        return False
    try:
        same = signed_names(path) == dict(signed)
    except InputError:
        same = False
    key = request.sign_key
    if key is None and not same:
        what = f"{shown(path)} signs other files than there will be"
        raise ExistsError(what, path=str(path), hint="sign again with --sign-key, or move the signature away")
    if key is not None and not request.force and hint_of_signature(path) != hint_of_key(key, request.password):
        raise ExistsError(f"{shown(path)} is a signature of another key", path=str(path), hint=FORCE)
    return same


def _require_key_outside(folder: Path, request: ReleaseRequest) -> None:
    key = request.sign_key
    if key is not None and key.resolve().is_relative_to(folder.resolve()):
        what = f"{shown(key)} lies in the folder that is released"
        raise InputError(what, path=str(key), hint="keep the key elsewhere, where nobody publishes it")


def _timestamp() -> str | None:
    """The time that bills of materials say, where the environment gives one: they are otherwise without."""
    said = os.environ.get(EPOCH)
    if not said:
        return None
    try:
        return datetime.fromtimestamp(int(said), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError) as error:
        what = f'{EPOCH} is "{shown(said, 40)}", expected seconds since 1970'
        raise UsageError(what, key=EPOCH, hint=f"unset {EPOCH}") from error


def _warnings(found: Sequence[Publishable], order: Order, called: Mapping[Finished, str]) -> Iterator[tuple[str, str]]:
    for one in found:
        name = shown(called[one.artifact])
        if one.unverified is not None:
            yield "not-verified", f"{name} is listed as not verified: {one.unverified}"
        elif one.gated is False:
            yield "gate-failed", f"{name} is listed with a failed gate, and in no order"
        elif one.artifact == order.primary and one.gated is None:
            yield "not-judged", f"{name} is primary, and no gate judged it: quantkit eval --gate, and --eval here"


def _of_orphans(orphans: Orphans) -> Iterator[tuple[str, str]]:
    for name, missing in orphans.edited:
        what = f"{shown(name)} names {shown(missing)}, which is not here; it was edited, and stays in the release"
        yield "modelfile", f"{what}: correct it, or move it away"
