"""Folders as programs want them: LM Studio finds a model by the two folders above its file, PUBLISHER/MODEL/FILE."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from quantkit.errors import UsageError, require_choice
from quantkit.recipes.recipe import Recipe
from quantkit.report.next_steps import PUBLISHER, folder_name
from quantkit.source.spec import parse_hub

LAYOUTS = ("lmstudio",)


def laid_out(layout: str | None, source: str, recipes: Sequence[Recipe], out: Path) -> Path:
    """Where -o leads with this layout: OUT/PUBLISHER/NAME-GGUF, or OUT/PUBLISHER/NAME-RECIPE for a checkpoint.

    The publisher is the organization of a source from the Hub, else "local". A file name in `out` stays one. Raises
    UsageError for a layout that nobody knows and for recipes that need several folders.
    """
    if layout is None:
        return out
    require_choice("--layout", layout, LAYOUTS)
    checkpoints = [recipe for recipe in recipes if recipe.mixture is None]
    if checkpoints and len(recipes) > 1:
        what = f"--layout {layout} makes one folder, and {checkpoints[0].name} needs one of its own"
        raise UsageError(what, hint="convert to it in a run of its own", key="layout")
    publisher, name = _published(source)
    kind = checkpoints[0].title if checkpoints else "GGUF"
    within = Path(publisher, f"{name}-{kind}")
    return out.parent / within / out.name if out.suffix == ".gguf" else out / within


def _published(source: str) -> tuple[str, str]:
    """The names of a publisher and a model: of the Hub's, or of a folder's or file's own name."""
    found = None if os.path.lexists(source) else parse_hub(source)
    if found is not None:
        publisher, _, name = found.repo.partition("/")
    else:
        path = Path(os.path.abspath(source))  # noqa: PTH100  (a link has the name that it is called by)
        publisher, name = PUBLISHER, path.stem if path.suffix == ".gguf" else path.name
    return folder_name(publisher), folder_name(name.removesuffix("-GGUF"))
