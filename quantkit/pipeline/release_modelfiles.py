"""The Modelfiles of a release: for every GGUF file that Ollama loads by the table of consumers."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.families.known import gives_no_text
from quantkit.pipeline.folder import Finished
from quantkit.pipeline.loaded_by import loaders_of
from quantkit.pipeline.modelfile import MadeModelfile, ModelfileRequest, write_modelfiles


def modelfiles_for(finished: Sequence[Finished], *, force: bool) -> tuple[MadeModelfile, ...]:
    """The Modelfiles that belong beside artifacts; nothing is written. Raises ExistsError for one that is there and was
    written or edited by somebody, unless `force`."""
    files = tuple(one.first for one in finished if _runs_in_ollama(one))
    return write_modelfiles(ModelfileRequest(files, force=force), dry_run=True) if files else ()


def _runs_in_ollama(one: Finished) -> bool:
    """Whether it is a language model in one file, which is what a Modelfile names."""
    if not one.gguf or one.encodes or one.adapts or len(one.manifest.artifact) > 1:
        return False
    return not gives_no_text(one.manifest.facts["model"].get("family")) and "ollama" in (loaders_of(one) or ())
