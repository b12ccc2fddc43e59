"""Matrices for tests: a folder with small models, and TOML around them."""

from __future__ import annotations

from pathlib import Path

from commands import TINY

MODELS = ("alpha", "beta")


def folder_of_models(folder: Path, names: tuple[str, ...] = MODELS) -> Path:
    """Models below `folder`, each a folder of links to the files of a small one."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for file in TINY.resolve().iterdir():
            (folder / name / file.name).symlink_to(file)
    return folder


def written(folder: Path, text: str, models: tuple[str, ...] = MODELS) -> Path:
    """A matrix in a folder with models."""
    if not (folder / models[0]).exists():
        folder_of_models(folder, models)
    path = folder / "matrix.toml"
    path.write_text(text)
    return path
