"""The Modelfiles of a release: for every GGUF file that Ollama loads by the table of consumers, and of no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantkit.pipeline.folder import Finished
from quantkit.pipeline.gives import output_of
from quantkit.pipeline.loaded_by import loaders_of
from quantkit.pipeline.modelfile import MadeModelfile, ModelfileRequest, is_own, missing_in, write_modelfiles
from quantkit.pipeline.release_files import role_of
from quantkit.records import record
from quantkit.report.next_steps import WRITING


def modelfiles_for(finished: Sequence[Finished], *, force: bool) -> tuple[MadeModelfile, ...]:
    """The Modelfiles that belong beside artifacts; nothing is written. Raises ExistsError for one that is there and was
    written or edited by somebody, unless `force`."""
    files = tuple(one.first for one in finished if _runs_in_ollama(one))
    return write_modelfiles(ModelfileRequest(files, force=force), dry_run=True) if files else ()


@record
class Orphans:
    """Modelfiles of files that are gone: those that quantkit wrote and nobody edited, which go as well, and the others
    with the file that each names, which stay."""

    own: tuple[str, ...]
    edited: tuple[tuple[str, str], ...]


def orphans_in(folder: Path, names: Sequence[str]) -> Orphans:
    """Of the files of a folder the Modelfiles that name a file beside them that is not there."""
    modelfiles = [name for name in names if role_of(name) == "modelfile"]
    gone = [(name, missing) for name in modelfiles if (missing := missing_in(folder / name)) is not None]
    own = tuple(name for name, _ in gone if is_own(folder / name))
    return Orphans(own, tuple((name, missing) for name, missing in gone if name not in own))


def _runs_in_ollama(one: Finished) -> bool:
    """Whether it is a language model in one file, which is what a Modelfile names."""
    if not one.gguf or one.encodes or one.adapts or len(one.manifest.artifact) > 1:
        return False
    return output_of(one.manifest.facts["model"]) in WRITING and "ollama" in (loaders_of(one) or ())
