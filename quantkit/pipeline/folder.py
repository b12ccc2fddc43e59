"""A folder of finished artifacts, by its manifests: what is in it, what belongs to nothing, what is not finished."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from quantkit.errors import InputError
from quantkit.filenames import WEIGHTS, is_job
from quantkit.records import record
from quantkit.report.manifest import Manifest, manifest_path, read_manifest
from quantkit.report.records import FileRecord
from quantkit.report.sealed import SUFFIX
from quantkit.untrusted import require_path, shown

NO_MANIFEST = "give the folder that quantkit convert wrote into"


@record(eq=False)
class Finished:
    """An artifact that is there with its manifest; `first` is its first file, `rewritten` what its manifest
    will be where a release writes it anew. Equal to itself alone."""

    first: Path
    manifest: Manifest
    rewritten: bytes | None = None

    @property
    def gguf(self) -> bool:
        return self.first.suffix == ".gguf"

    @property
    def encodes(self) -> bool:
        """Whether it is the encoder that goes with a model."""
        return self.kind == "mmproj"

    @property
    def kind(self) -> str:
        return str(self.manifest.facts["model"].get("kind", "model"))

    @property
    def adapts(self) -> bool:
        """Whether it is an adapter, which runs beside its base model alone."""
        return "adapter" in self.manifest.facts["model"]

    @cached_property
    def label(self) -> str:
        """What it is called: the name of its GGUF file without the number of its part, or that of its folder."""
        stem = re.sub(r"-\d{5}-of-\d{5}\Z", "", self.first.stem)
        return stem if self.gguf else self.first.parent.resolve().name

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """The files that hold weights."""
        return tuple(f for f in self.manifest.artifact if self.gguf or f.name.endswith(".safetensors"))

    @property
    def manifest_path(self) -> Path:
        return manifest_path(self.first)

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.manifest.artifact)

    @property
    def place(self) -> Path:
        """What verify is given: the first GGUF file, or the folder of a checkpoint."""
        return self.first if self.gguf else self.first.parent


def finished_in(folder: Path) -> tuple[Finished, ...]:
    """The artifacts in a folder whose first files are there, the smallest first and encoders last; records of
    calibration are none."""
    found = []
    for path in manifests_in(folder):
        try:
            manifest = read_manifest(path)
        except InputError:
            continue
        first = folder / manifest.artifact[0].name
        if manifest_path(first) == path and first.exists():
            found.append(Finished(first, manifest))
    return tuple(sorted(found, key=lambda one: (one.encodes, one.nbytes, one.first.name)))


def manifests_in(folder: Path) -> list[Path]:
    """Files in a folder that are called like manifests, by name."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX) and path.is_file())


def require_finished(folder: Path) -> tuple[Finished, ...]:
    """The artifacts in a folder. Raises InputError where there are none."""
    require_path(folder)
    if not folder.is_dir():
        what = f"{shown(folder)} is no folder" if folder.exists() else f"{shown(folder)} does not exist"
        raise InputError(what, path=str(folder), hint=NO_MANIFEST)
    found = finished_in(folder)
    if not found:
        what = f"{shown(folder)} holds no artifact with a manifest"
        raise InputError(what, path=str(folder), hint=NO_MANIFEST)
    return found


def jobs_in(folder: Path) -> list[str]:
    """Names of the folders in which unfinished work is kept, in a folder."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_job(entry.name) and entry.is_dir())


def unlisted(folder: Path, finished: Sequence[Finished], names: Sequence[str]) -> list[str]:
    """Of these names in a folder files of weights that no manifest lists, and that no record of calibration is of."""
    listed = {file.name for one in finished for file in one.manifest.artifact}
    recorded = {path.name.removesuffix(SUFFIX) for path in manifests_in(folder)}
    return [n for n in names if n.lower().endswith(WEIGHTS) and n not in listed and n not in recorded]
