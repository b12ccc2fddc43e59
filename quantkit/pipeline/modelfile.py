"""Modelfiles for Ollama beside GGUF files: for artifacts that were just made, and for any that are there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.errors import ExistsError, InputError, UnsupportedError, UsageError
from quantkit.events import Published, Sink, Warned, ignore
from quantkit.families.known import drafts
from quantkit.formats.gguf.file import SHARD_NAME, read_gguf
from quantkit.ollama import Described, Header, ModelfileError, describe, parse_modelfile, read_header, unchanged
from quantkit.ollama.modelfile import keeps_line
from quantkit.pipeline.given import coerce, given_optional, given_paths
from quantkit.pipeline.outputs import Artifact
from quantkit.plan.base import Plan
from quantkit.records import record
from quantkit.report.next_steps import NextStep, modelfile_step
from quantkit.storage import read_sums, require_small, update_sums, write_small
from quantkit.untrusted import read_bounded, require_path, shown

MODELFILE = "Modelfile"
MAX_MODELFILE = 4 << 20
CODE = "modelfile"
HINT = "move it away, or replace it with --force"


@record
class ModelfileRequest:
    """For which files: GGUF files, or folders of them. `base` is what FROM names for an adapter: a GGUF file by its
    path, or a model of Ollama."""

    paths: tuple[Path, ...]
    base: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        coerce(self, {"paths": given_paths, "base": given_optional})


@record
class MadeModelfile:
    """A Modelfile: where it belongs, for which file, with which encoder. `written` is False where it was there."""

    path: Path
    file: Path
    described: Described
    written: bool

    @property
    def text(self) -> str:
        return self.described.modelfile.encode().decode()

    @property
    def command(self) -> str:
        """What makes a model of it and runs that."""
        return modelfile_step(self.path, self.file.stem).command

    def lines(self) -> list[str]:
        """For people: what it says and what they should know."""
        made, found = self.described.modelfile, self.described.translation
        proved = f"proved on {found.proved} conversations" if found and found.template else "none"
        stops = ", ".join(made.stops) or "none"
        return [
            f"{self.path} for {self.file.name}" + ("" if self.written else " (as it would be written)"),
            f"  template  {proved}",
            f"  stop      {stops}",
            *(f"  note      {note}" for note in self.described.notes),
            f"  next      {self.command}",
        ]

    def as_json(self) -> dict[str, Any]:
        made, found = self.described.modelfile, self.described.translation
        return {
            "path": str(self.path),
            "file": str(self.file),
            "written": self.written,
            "template": made.template,
            "proved": found.proved if found else 0,
            "stop": list(made.stops),
            "parameters": dict(made.parameters or {}),
            "system": made.system,
            "notes": list(self.described.notes),
            "text": self.text,
            "command": self.command,
        }


def write_modelfiles(
    request: ModelfileRequest, *, dry_run: bool = False, emit: Sink = ignore
) -> tuple[MadeModelfile, ...]:
    """Write the Modelfile of every GGUF file that is named, or lies in a folder that is; with `dry_run` write nothing.

    The chat template in the file is put in Ollama's terms and proved by rendering both on conversations; one for which
    that fails leaves TEMPLATE out, and a note says why. A Modelfile that quantkit wrote and nobody edited is replaced,
    any other file in its place only with `force`: ExistsError. Raises InputError for files that are none,
    UnsupportedError for one in parts, UsageError for an adapter without a base and for a draft, NotWritableError,
    ResourceError.
    """
    files = list(dict.fromkeys(file for path in request.paths for file in _files(path)))
    alone = {file.parent: sum(other.parent == file.parent for other in files) == 1 for file in files}
    planned = []
    for file in files:
        described = _described(file, _encoder_beside(file), request.base)
        planned.append(MadeModelfile(_place(file, alone[file.parent], request.force), file, described, False))
    if dry_run:
        return tuple(planned)
    return tuple(_written(made, emit) for made in planned)


def require_modelfiles(plans: Sequence[Plan], groups: Sequence[Sequence[Path]], *, force: bool) -> None:
    """Raise, before any work for Ollama, what keeps Modelfiles from being written beside the GGUF models of these
    plans, whose files are `groups`."""
    pairs = zip(plans, groups, strict=True)
    files = [targets[0] for plan, targets in pairs if not (plan.is_checkpoint or plan.is_encoder)]
    for file in files:
        path = _place(file, len(files) == 1, force)
        if file.parent.is_dir():
            require_small(path)


def modelfiles_beside(built: Sequence[Artifact], *, force: bool, emit: Sink = ignore) -> tuple[Artifact, ...]:
    """The artifacts of a request for Ollama, with the Modelfiles of those that are GGUF models, which are written.
    What they cannot say is a warning."""
    files = [artifact for artifact in built if _is_model(artifact)]
    artifacts = []
    for artifact in built:
        if artifact not in files:
            artifacts.append(artifact)
            continue
        try:
            described = _described(artifact.path, artifact.encoder, None)
        except UsageError as error:  # an adapter, of whose base nobody knows the name, or a draft
            emit(Warned(CODE, f"no Modelfile for {artifact.path.name}: {error.message}; {error.hint}"))
            artifacts.append(artifact)
            continue
        planned = MadeModelfile(_place(artifact.path, len(files) == 1, force), artifact.path, described, False)
        made = _written(planned, emit)
        for note in described.notes:
            emit(Warned(CODE, note))
        artifacts.append(replace(artifact, modelfile=made.path))
    return tuple(artifacts)


def with_modelfile(first: Path, steps: Sequence[NextStep]) -> tuple[NextStep, ...]:
    """Commands for a file, that of Ollama with the Modelfile beside it, where one is for it."""
    for path in (first.with_name(MODELFILE), first.with_name(f"{first.stem}.{MODELFILE}")):
        if path.is_file() and path.stat().st_size <= MAX_MODELFILE and f"./{first.name}" in _origins(path):
            given = modelfile_step(Path(path.name), first.stem)
            return tuple(given if step.program == given.program else step for step in steps)
    return tuple(steps)


def _is_model(artifact: Artifact) -> bool:
    return artifact.path.suffix == ".gguf" and artifact.kind == "model" and len(artifact.paths) == 1


# --- which files ------------------------------------------------------------------------------------------------------


def _files(path: Path) -> Iterator[Path]:
    """The GGUF files that a path means: itself, or those in a folder that are models."""
    require_path(path)
    if not path.exists():
        raise InputError(f"{shown(path)} does not exist", path=str(path), hint="check the path")
    if not path.is_dir():
        yield path
        return
    found = [file for file in sorted(path.glob("*.gguf")) if not _is_encoder(file) and _is_run(_header(file))]
    if not found:
        hint = "give the folder that quantkit convert wrote a GGUF file into, or the file"
        raise InputError(f"{shown(path)} holds no GGUF file of a model", path=str(path), hint=hint)
    yield from found


def _is_encoder(file: Path) -> bool:
    return "mmproj" in file.name


def _encoder_beside(file: Path) -> Path | None:
    """The encoder in a file's folder, where there is exactly one."""
    found = [other for other in sorted(file.parent.glob("*.gguf")) if _is_encoder(other)]
    return found[0] if len(found) == 1 else None


def _is_run(header: Header) -> bool:
    """Whether a file is a model, or an adapter of one, that is run by itself."""
    return header.kind in ("model", "adapter") and not drafts(header.architecture)


def _header(file: Path) -> Header:
    return read_header(read_gguf(file).metadata)


def _described(file: Path, encoder: Path | None, base: str | None) -> Described:
    if SHARD_NAME.fullmatch(file.name):
        hint = "make it in one piece: the same recipe without --split-max-size"
        raise UnsupportedError(f"{shown(file)} is one part of several, a Modelfile is for one file", hint=hint)
    header = _header(file)
    if header.kind == "mmproj":
        hint = "give the language model that it goes with"
        raise InputError(f"{shown(file)} is an encoder and no model by itself", path=str(file), hint=hint)
    if drafts(header.architecture):
        hint = "give the model that it drafts for"
        raise UsageError(f"{shown(file)} is a draft and no model by itself", hint=hint)
    if header.kind not in ("model", "adapter"):
        what = f"{shown(file)} holds no model: its general.type is {shown(header.kind)}"
        raise InputError(what, path=str(file), hint="give a GGUF file of a model")
    if header.kind == "adapter":
        if base is None:
            hint = "name it with quantkit modelfile FILE --base BASE.gguf, or a model of Ollama"
            raise UsageError("an adapter needs the model that it is for", hint=hint, key="base")
        return describe(header, (_named(base),), _named(f"./{file.name}"))
    if base is not None:
        what = f"--base is for adapters, and {shown(file)} is a model"
        raise UsageError(what, hint="leave --base out", key="base")
    beside = [file] if encoder is None else [file, encoder]
    return describe(header, tuple(_named(f"./{each.name}") for each in beside))


def _named(path: str) -> str:
    """A path as a Modelfile can say it. Raises InputError for one that it cannot."""
    if not keeps_line(path) or path != path.strip() or path.startswith('"'):
        hint = "rename the file: printable characters, no blanks at the end"
        raise InputError(f"a Modelfile cannot name {shown(path)}", path=path, hint=hint)
    return path


# --- where to ---------------------------------------------------------------------------------------------------------


def _place(file: Path, alone: bool, force: bool) -> Path:
    """Modelfile beside the file; NAME.Modelfile where there are several, or Modelfile is another file's.

    Raises ExistsError for one there that somebody else wrote or edited, unless `force`.
    """
    path = file.with_name(MODELFILE)
    if not alone or (is_own(path) and f"./{file.name}" not in _origins(path)):
        path = file.with_name(f"{file.stem}.{MODELFILE}")
    require_path(path)
    if os.path.lexists(path) and not force and not is_own(path):
        what = f"{shown(path)} is there and was written or edited by somebody"
        raise ExistsError(what, path=str(path), hint=HINT)
    return path


def is_own(path: Path) -> bool:
    """Whether quantkit wrote a Modelfile, and nobody edited it."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_MODELFILE:
        return False
    return unchanged(read_bounded(path, MAX_MODELFILE))


def _origins(path: Path) -> list[str]:
    """The files that a Modelfile names."""
    try:
        found = parse_modelfile(read_bounded(path, MAX_MODELFILE).decode("utf-8", "replace"))
    except ModelfileError:
        return []
    return [value for name, value in found if name in ("from", "adapter")]


def missing_in(path: Path) -> str | None:
    """The first file beside a Modelfile that it names and that is gone; None where none is, or it names no file."""
    if path.stat().st_size > MAX_MODELFILE:
        return None
    names = [value.removeprefix("./") for value in _origins(path) if value.startswith("./")]
    return next((name for name in names if not os.path.exists(path.parent / name)), None)  # noqa: PTH110 - any text


def _written(made: MadeModelfile, emit: Sink) -> MadeModelfile:
    """Write it, and its line into SHA256SUMS where the folder has that."""
    data = made.described.modelfile.encode()
    sha256 = hashlib.sha256(data).hexdigest()
    there = made.path.is_file() and not made.path.is_symlink() and read_bounded(made.path, MAX_MODELFILE) == data
    if not there:
        write_small(made.path, data, overwrite=True)
    if read_sums(made.path.parent) is not None:
        update_sums(made.path.parent, {made.path.name: sha256})
    if not there:
        emit(Published(str(made.path), len(data), sha256))
    return replace(made, written=True)
