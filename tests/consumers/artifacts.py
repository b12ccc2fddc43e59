"""The artifacts under test: what the command line writes from the bundled model, one per recipe for servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from quantkit.recipe import ServerRecipe, load_recipe, recipe_names

DATA = Path(__file__).parent.parent / "data"
SOURCE = DATA / "docs-llama-tiny"
COMMAND = Path(sys.executable).with_name("quantkit")
RECIPES = tuple(name for name in recipe_names() if isinstance(load_recipe(name), ServerRecipe))

# Few tokens: what is tested is the container, whatever the quality of its weights.
CALIBRATION = ("--calib", str(DATA / "calibration.jsonl"), "--samples", "8", "--seqlen", "64")


def make_artifact(recipe: str, folder: Path) -> Path:
    """Write the artifact of `recipe` with the command line, into a folder inside `folder`."""
    out = folder / recipe
    found = load_recipe(recipe)
    calibration = CALIBRATION if isinstance(found, ServerRecipe) and found.needs_calibration else ()
    command = [COMMAND, "convert", SOURCE, "--to", recipe, *calibration, "--threads", "1", "--plain", "-o", out]
    subprocess.run(command, check=True)
    return out
