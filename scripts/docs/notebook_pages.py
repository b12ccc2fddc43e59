"""The notebook as a page of the site: its words, its code, and below each cell what it prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from words import MADE, block

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorials" / "quantkit.ipynb"


@dataclass(frozen=True)
class Cell:
    """A cell: Markdown, or code with what it prints."""

    kind: str
    source: str
    prints: str = ""


def cells(path: Path = NOTEBOOK) -> Iterator[Cell]:
    """The cells of a notebook of format 4, in order."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        outputs = (output for output in cell.get("outputs", ()) if output["output_type"] == "stream")
        yield Cell(cell["cell_type"], "".join(cell["source"]), "".join("".join(output["text"]) for output in outputs))


def notebook_pages() -> dict[str, str]:
    """The page, which links to the notebook itself."""
    text = ""
    for number, cell in enumerate(cells()):
        if cell.kind == "markdown":
            text += f"{cell.source}\n\n"
        else:
            text += block(cell.source, "python") + (block(cell.prints, "text") if cell.prints else "")
        if number == 0:
            text += f"This page is a notebook: [{NOTEBOOK.name}]({NOTEBOOK.name}).\n\n"
    return {"tutorials/notebook.md": text + MADE}
