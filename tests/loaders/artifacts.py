"""The artifacts under test: what the command line writes from the bundled model, one per recipe for servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from quantkit.recipes.read import load_recipe, recipe_names

DATA = Path(__file__).parent.parent / "data"
SOURCE = DATA / "docs-llama-tiny"
COMMAND = Path(sys.executable).with_name("quantkit")
# Plain checkpoints have nothing that a loader could decode in another way, and transformers does not load MLX's.
RECIPES = tuple(
    name
    for name in recipe_names()
    if (found := load_recipe(name)).mixture is None and found.container not in ("plain", "mlx")
)

# Few tokens: what is tested is the container, whatever the quality of its weights.
CALIBRATION = ("--calib", str(DATA / "calibration.jsonl"), "--samples", "8", "--seqlen", "64")

# What needs no text, for a recipe whose method does.
ROUND_TO_NEAREST = ("--method", "rtn")


def make_artifact(recipe: str, folder: Path, *options: str) -> Path:
    """Write the artifact of `recipe`, a name or a file, with the command line and these options, inside `folder`."""
    out = folder / Path(recipe).stem
    found = load_recipe(recipe)
    if found.mixture is None and found.needs_calibration and options[:1] != ROUND_TO_NEAREST[:1]:
        options += CALIBRATION
    command = [COMMAND, "convert", SOURCE, "--to", recipe, *options, "--threads", "1", "--plain", "-o", out]
    subprocess.run(command, check=True)
    return out
