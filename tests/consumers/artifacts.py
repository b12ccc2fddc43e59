"""The artifacts under test: what the command line writes from the bundled model, one per recipe for servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from quantkit.recipe import load_recipe, recipe_names
from quantkit.servers.recipe import ServerRecipe

SOURCE = Path(__file__).parent.parent / "data" / "docs-llama-tiny"
RECIPES = tuple(name for name in recipe_names() if isinstance(load_recipe(name), ServerRecipe))
COMMAND = Path(sys.executable).with_name("quantkit")

# Enough text for every method to have something to go by: what is tested is the container, not its quality.
CALIBRATION = """\
The open() function returns a file object. Its read() method reads the whole file, readline() a single line.
A list comprehension builds a new list from the items of another one; a generator expression does so lazily.
Exceptions are raised with the raise statement and handled by an except clause that names their class.
The module provides classes for reading and writing tabular data in CSV format, one row at a time.
Decorators are functions that take a function and return another one; they are applied with the @ sign.
Dictionaries keep their keys in the order of insertion, and popitem() removes the last of them first.
"""


def make_artifact(recipe: str, folder: Path) -> Path:
    """Write the artifact of `recipe` with the command line, into a folder inside `folder`."""
    out = folder / recipe
    subprocess.run([COMMAND, "convert", SOURCE, "--to", recipe, *calibration(recipe, folder), "-o", out], check=True)
    return out


def calibration(recipe: str, folder: Path) -> list[str]:
    """The options that give a recipe its text, where it asks for one."""
    needs = load_recipe(recipe)
    if not (isinstance(needs, ServerRecipe) and needs.needs_calibration):
        return []
    text = folder / "calibration.txt"
    text.write_text(CALIBRATION * 8)
    return ["--calib", str(text), "--samples", "8", "--seqlen", "64"]
