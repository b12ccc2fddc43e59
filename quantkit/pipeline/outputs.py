"""Outputs: how they are called, what stands at their places, what may be replaced, what is in the way.

Asked before any work, and once more before files get their names.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from quantkit.errors import ExistsError, InputError, NotWritableError, UsageError
from quantkit.families.model_card import CARD_FILE
from quantkit.filenames import file_stem, job_name, windows_refuses
from quantkit.pipeline.gives import output_of
from quantkit.pipeline.prepared import Prepared
from quantkit.plan.base import Plan
from quantkit.plan.carried import CONFIG
from quantkit.records import record
from quantkit.report.manifest import Manifest, manifest_path, read_manifest
from quantkit.report.next_steps import NextStep, adapter_steps, modelfile_step, next_steps, steps_with_encoder
from quantkit.report.records import FileRecord
from quantkit.report.sealed import SealedRecord, identity
from quantkit.report.text import size
from quantkit.storage import SUMS, Job, PartFile, hash_file, open_job, require_sums
from quantkit.units import counted
from quantkit.untrusted import listed, require_path, shown

R = TypeVar("R", bound=SealedRecord)

# What may lie in a checkpoint's folder besides it: nothing that a loader reads because of its name.
HARMLESS = (
    rf"(?is)\..*|{SUMS}|(.*\.)?Modelfile|release\.json|bom\.cdx\.json|model\.sig|.*\.manifest\.json"
    r"|.*\.(md|log|jsonl|ndjson|parquet|csv|png|jpg|svg|gguf|dat)|(LICENSE|NOTICE|COPYING)[^/]*"
)
LOADED_FOLDERS = r"(?s)additional_chat_templates|[0-9]+_.*"


@record
class Artifact:
    """A published artifact: its first file and its manifest.

    `built` is False where it was already there and is what would have been written. `loaders` are the consumers
    that load it on `tp` devices, None where nobody asked. `encoder` is the file of the encoder that goes with it,
    `modelfile` tells Ollama of it; `laid_out` where it lies as LM Studio wants it.
    """

    path: Path
    manifest: Manifest
    built: bool
    loaders: tuple[str, ...] | None = None
    tp: int = 1
    encoder: Path | None = None
    modelfile: Path | None = None
    laid_out: bool = False

    def __repr__(self) -> str:
        return f"Artifact({str(self.outputs[0])!r}, {self.nbytes:,} bytes, built={self.built})"

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.path.parent / f.name for f in self.manifest.artifact)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """What a loader is given: the GGUF files, or the folder of a checkpoint."""
        return self.paths if self.path.suffix == ".gguf" else (self.path.parent,)

    @property
    def nbytes(self) -> int:
        return sum(f.nbytes for f in self.manifest.artifact)

    @property
    def kind(self) -> str:
        """Whether it is a "model", or an "mmproj": the encoder that goes with one."""
        return str(self.manifest.facts["model"].get("kind", "model"))

    @property
    def next(self) -> tuple[NextStep, ...]:
        """Commands that give the artifact to the programs that load it."""
        given = {"lm-studio": NextStep("lm-studio", "lms ls")} if self.laid_out else {}
        if self.modelfile is not None:
            given["ollama"] = modelfile_step(self.modelfile, self.path.stem)
        return tuple(given.get(step.program, step) for step in self._steps())

    def _steps(self) -> tuple[NextStep, ...]:
        if self.kind == "mmproj":
            return ()  # goes with a language model, whose commands name it
        parts = re.sub(r"-\d{5}-of-\d{5}$", "", self.outputs[0].stem)
        name = parts if self.path.suffix == ".gguf" else self.outputs[0].absolute().name
        gives = output_of(self.manifest.facts["model"])
        if self.encoder is not None:
            return steps_with_encoder(self.outputs, name, self.encoder)
        if "adapter" in self.manifest.facts["model"]:
            return adapter_steps(self.outputs[0])
        return next_steps(self.outputs, name, self.loaders, self.tp, gives=gives)

    def summary(self) -> str:
        """What a person wants to know: how large, how dense, of what types."""
        facts = self.manifest.facts["size"]
        types = " · ".join(
            f"{t['type'].upper()} {counted(t['tensors'], 'tensor')} {size(t['bytes'])}" for t in facts["types"]
        )
        first = self.manifest.artifact[0]
        name = self.outputs[0].name
        state = "" if self.built else f" {name} already built (sha256 {first.sha256})\n"
        ratio, bits = 100 * self.nbytes / facts["source_bytes"], facts["bits_per_weight"]
        return f"{state} {size(self.nbytes)} · {ratio:.1f} % of the source · {bits:.2f} bits per weight\n {types}"

    def as_json(self) -> dict[str, Any]:
        return {
            "recipe": self.manifest.recipe["name"],
            "kind": self.kind,
            "files": [{**f.as_json(), "path": str(p)} for f, p in zip(self.manifest.artifact, self.paths, strict=True)],
            "manifest": str(manifest_path(self.path)),
            "identity": self.manifest.identity,
            "built": self.built,
            "size": self.manifest.facts["size"],
            "checks": self.manifest.facts["checks"],
            "next": [step.as_json() for step in self.next],
            **({"modelfile": str(self.modelfile)} if self.modelfile else {}),
        }


def output_paths(prepared: Prepared, out: Path) -> list[tuple[Path, ...]]:
    """Final paths of each plan's files under -o: a folder, or a file name ending in .gguf.

    A single checkpoint is written into the folder itself; of several artifacts each checkpoint gets a folder of its
    own in there.
    """
    folder = out.parent if out.suffix == ".gguf" else out
    paths = []
    for recipe, chosen in zip(prepared.recipes, prepared.plans, strict=True):
        within = folder
        if chosen.is_checkpoint:  # a checkpoint is a folder
            if out.suffix == ".gguf":
                raise UsageError(f"{recipe.name} makes a folder, not {out.name}", hint="give a folder with -o")
            if prepared.several:
                within = folder / f"{file_stem(prepared.checkpoint.name)}-{recipe.title}"
        paths.append(tuple(within / file.name for file in chosen.files))
    writes: dict[Path, str] = {}
    for recipe, targets in zip(prepared.recipes, paths, strict=True):
        if both := writes.keys() & targets:
            what = f"recipes {shown(writes[min(both)])} and {shown(recipe.name)} would both write {shown(min(both))}"
            raise UsageError(what, hint="give each recipe file its own title", key="to")
        writes |= dict.fromkeys(targets, recipe.name)
    for targets in paths:
        require_place(targets, manifest_path(targets[0]))
    return paths


def output_stem(out: Path) -> str | None:
    """The file name without ".gguf" when -o names a file, else None."""
    return out.stem if out.suffix == ".gguf" else None


def job_folder(target: Path, digest: str) -> Path:
    """The hidden folder beside `target` where the work with this digest is kept until it is finished."""
    return target.parent / job_name(digest)


def open_plan_job(prepared: Prepared, plan: Plan, folder: Path, *, fresh: bool = False) -> Job:
    """Begin or continue a plan's job in `folder`; a `fresh` one begins in any case."""
    parts = [PartFile(f.name, f.nbytes) for f in plan.files]
    return open_job(folder, digest=prepared.job_digest(plan), files=parts, fresh=fresh)


def is_checkpoint(targets: Sequence[Path]) -> bool:
    """Whether files are a checkpoint, which is everything in its folder."""
    return any(target.name == CONFIG for target in targets)


def names_of(targets: Sequence[Path]) -> list[str]:
    """The names of an artifact's files relative to its folder, which is that of the first: FILE or FOLDER/FILE."""
    return [target.relative_to(targets[0].parent).as_posix() for target in targets]


def is_behind_link(path: Path, name: str) -> bool:
    """Whether the folder of a file called FOLDER/FILE is a symbolic link, which quantkit neither makes nor follows."""
    return "/" in name and path.parent.is_symlink()


def require_writable_names(paths: Sequence[Path]) -> None:
    """Raise NotWritableError for a path that the system does not even look up, such as one with too long a name."""
    for path in paths:
        why = windows_refuses(path.name) if sys.platform == "win32" else None
        if why:
            what = f"cannot write {shown(path)}: {why}"
            raise NotWritableError(what, path=str(path), hint="choose another output with -o")
        try:
            require_path(path)
        except InputError as error:
            hint = "choose another output with -o"
            raise NotWritableError(f"cannot write: {error.message}", path=error.path, hint=hint) from error


def require_place(targets: Sequence[Path], record: Path) -> None:
    """Raise NotWritableError for an output that no run could write: files, their record and checksums.

    Nothing is created.
    """
    require_writable_names([*targets, record, record.with_name(SUMS)])
    for name, path in zip(names_of(targets), targets, strict=True):
        if "/" in name:
            _require_folder(path.parent)
    for path in (*targets, record):
        _require_replaceable(path)
    require_sums(record.parent)


def _require_replaceable(path: Path) -> None:
    """Raise NotWritableError for what a file is not renamed over: a folder, a pipe, a device."""
    with suppress(OSError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
            what = f"cannot write {shown(path)}: it is {kind}"
            raise NotWritableError(what, path=str(path), hint="choose another output with -o")


def _require_folder(path: Path) -> None:
    """Raise NotWritableError for what is there and is no folder: a link to one, too, is not followed."""
    with suppress(OSError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            what = f"cannot write into {shown(path)}: it is a link, or no folder"
            raise NotWritableError(what, path=str(path), hint="move it away, or choose another output with -o")


def refuse_inputs(targets: Sequence[Path], inputs: Iterable[Path], hint: str = "choose another output with -o") -> None:
    """Raise ExistsError where an output is one of the inputs, by whatever name or link: not even --force means that."""
    found = {}
    for path in inputs:
        with suppress(OSError, ValueError):
            facts = path.stat()
            found[facts.st_dev, facts.st_ino] = path
    for target in targets:
        with suppress(OSError):
            facts = target.stat()
            source = found.get((facts.st_dev, facts.st_ino))
            if source is not None:
                what = f"{shown(target)} is an input of this command ({shown(source)}) and would be overwritten"
                raise ExistsError(what, path=str(target), hint=hint)


def refuse_existing(
    targets: Sequence[Path], force: bool, older: Manifest | None = None, why: Callable[[], str] | None = None
) -> None:
    """Raise ExistsError when a target is there and may not be replaced, or an older manifest is another artifact's.

    `why` says what differs.
    """
    for target in targets:
        if os.path.lexists(target) and not force:
            if target.is_symlink() and not target.exists():
                what = f"{shown(target)} is a symbolic link to nowhere"
            else:
                what = f"{shown(target)} exists and is not what this command would write"
                what += f": {why()}" if why is not None else ""
            hint = "choose another -o, or replace it with --force"
            raise ExistsError(what, path=str(target), hint=hint)
    if older is not None and not _replaces(targets, older):
        path = manifest_path(targets[0])
        what = f"{shown(path)} is the manifest of {shown(older.artifact[0].name)}, another artifact"
        raise ExistsError(what, path=str(path), hint="choose another output name or folder with -o")


def _replaces(targets: Sequence[Path], older: Manifest) -> bool:
    """Whether an artifact takes the place of an older one: a checkpoint of a checkpoint, files of their namesakes."""
    if is_checkpoint(targets):
        return older.artifact[0].name.endswith(".safetensors")
    return {file.name for file in older.artifact} == set(names_of(targets))


def readable(read: Callable[[Path], R], path: Path) -> R | None:
    """The record at `path`; None without one that can be read."""
    try:
        return read(path)
    except InputError:
        return None


def older_manifest(targets: Sequence[Path]) -> Manifest | None:
    """The manifest at the place of that of `targets`; None without one that can be read."""
    return readable(read_manifest, manifest_path(targets[0]))


def already_built(
    record: R | None, targets: Sequence[Path], digest: str, hash_source: Callable[[], tuple[FileRecord, ...]]
) -> R | None:
    """The record, if `targets` are by it what a plan with this digest would write from the present source, else None.

    Sizes and the plan digest are compared first; only when they agree are the source and the files hashed. Whoever can
    write the files can write such a record: see `pipeline.standing` for what is done besides.
    """
    if record is None or record.plan_digest != digest:
        return None
    own = {file.name for file in record.replaced} & {CARD_FILE}  # a release put the artifact's own there
    targets = [target for target, name in zip(targets, names_of(targets), strict=True) if name not in own]
    if not all(t.is_file() for t in targets) or any(map(is_behind_link, targets, names_of(targets))):
        return None
    sizes = [(name, t.stat().st_size) for name, t in zip(names_of(targets), targets, strict=True)]
    if [(f.name, f.nbytes) for f in record.artifact] != sizes or record.identity != identity(digest, hash_source()):
        return None
    same = (hash_file(t) == f.sha256 for t, f in zip(targets, record.artifact, strict=True))
    return record if all(same) else None


def to_retire(targets: Sequence[Path], record: Path) -> tuple[str, ...]:
    """Names of what goes before `targets` get theirs, in this order: an older record and all that it alone lists.

    Of a checkpoint config.json goes first: without it nobody loads a folder that holds files of two models.
    """
    whole = is_checkpoint(targets)
    names = [name for name in (record.name, *([CONFIG] if whole else [])) if os.path.lexists(record.with_name(name))]
    older = older_manifest(targets) if whole else None
    if older is None:
        return tuple(names)
    new = set(names_of(targets))
    return (*names, *(name for name in _listed(record.parent, older) if name not in new and name not in names))


def _listed(folder: Path, older: Manifest) -> Iterator[str]:
    """The files that a manifest lists and that are still what it says."""
    for file in older.artifact:
        path = folder / file.name
        if is_behind_link(path, file.name):
            continue
        with suppress(OSError, InputError):
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode) and facts.st_size == file.nbytes and hash_file(path) == file.sha256:
                yield file.name


def refuse_strangers(targets: Sequence[Path], known: Iterable[str] = ()) -> None:
    """Raise ExistsError, naming them, for files in a checkpoint's folder that a loader may read and nobody lists.

    `known` are names of files that will go or stay: those of an older artifact, those that a killed run has named.
    """
    if not is_checkpoint(targets):
        return
    folder = targets[0].parent
    names = {*names_of(targets), *known}
    found = [name for name in strangers(folder) if name not in names]
    if found:
        what = f"{shown(folder)} holds files that no artifact lists and a loader may read: {listed(found)}"
        raise ExistsError(what, path=str(folder / found[0]), hint="move them away, or choose another folder with -o")


def strangers(folder: Path) -> list[str]:
    """Names in a checkpoint's folder that mean something to loaders, those in folders which they look into included."""
    found: list[str] = []
    for entry in _entries(folder):
        loaded = re.fullmatch(LOADED_FOLDERS, entry.name) is not None
        if loaded and entry.is_dir(follow_symlinks=False):
            found += _below(Path(entry.path))
        elif loaded if entry.is_dir() else not re.fullmatch(HARMLESS, entry.name):
            found.append(entry.name)
    return found


def _below(folder: Path) -> list[str]:
    return [f"{folder.name}/{entry.name}" for entry in _entries(folder) if not re.fullmatch(HARMLESS, entry.name)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
