"""Numbers in the header of a GGUF file, beside those that its source gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.families.model import Model
from quantkit.formats.gguf.file import read_gguf
from quantkit.untrusted import shown


def differing_numbers(path: Path, model: Model) -> str | None:
    """A key below the architecture's name whose value in the file is not the source's; None where all agree.

    A file may lack keys or have more: what they do shows in what it computes.
    """
    prefix = f"{model.gguf_architecture}."
    expected = {kv.key: kv.items() for kv in model.metadata if kv.key.startswith(prefix)}
    for kv in read_gguf(path).metadata:
        if kv.key in expected and not _equal(kv.items(), expected[kv.key]):
            return f"{kv.key} is {shown(str(kv.value), 40)}, the source says {shown(str(expected[kv.key])[:80])}"
    return None


def _equal(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether values are the same once floats are as wide as the file's."""
    if len(found) != len(expected):
        return False
    return all(
        np.float32(a) == np.float32(b) if isinstance(a, float) or isinstance(b, float) else a == b
        for a, b in zip(found, expected, strict=True)
    )
