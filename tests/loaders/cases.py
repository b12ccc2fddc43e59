"""What the tests of one recipe share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loaders import Loaded
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """An artifact, its weights as quantkit decodes them, and what its loader made of it."""

    folder: Path
    decoded: dict[str, Tensor]
    loaded: Loaded
