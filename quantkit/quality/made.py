"""A finished artifact as checks see it: what it holds, and its weights as numbers that quantkit did not compute.

Both containers answer the same questions. GGUF files lie in `made_gguf`, checkpoints in `made_checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from quantkit.metadata import KeyValue
from quantkit.plan.reading import SLAB_WEIGHTS
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tensors import F32

Span = tuple[int, int]  # rows [first, last) of a weight


class Place(NamedTuple):
    """A tensor of the files: the name of its type there, its shape, and its bytes in file number `file`."""

    name: str
    type: str
    shape: tuple[int, ...]
    file: int
    offset: int
    nbytes: int


@record
class Held:
    """How a weight is held. `type` is that in one word ("q4_k", "int4-g128").

    Below `floor_db` it counts as damaged: infinity asks for equal numbers. `plain` is the float type to which the
    source is rounded before it is compared. `undecoded` says why nobody decodes it, and `own` that only quantkit does.
    `together` is how many weights are best decoded at once.
    """

    type: str
    shape: tuple[int, ...]
    floor_db: float
    plain: str | None = None
    undecoded: str | None = None
    own: bool = False
    together: int = SLAB_WEIGHTS


class Made(Protocol):
    """A finished artifact, published or not.

    `paths` are its files with weights. `metadata` are the entries of a GGUF file, () for checkpoints. `carries` is the
    word for what it takes over from its source beside weights: keys, or files. `served` is the artifact as a model that
    torch runs, None where that is not known.
    """

    @property
    def paths(self) -> Sequence[Path]: ...

    @property
    def metadata(self) -> tuple[KeyValue, ...]: ...

    @property
    def carries(self) -> Literal["keys", "files"]: ...

    @property
    def served(self) -> Checkpoint | None: ...

    def ends(self) -> str | None:
        """What is wrong with how its files end; None where each ends with its last tensor."""
        ...

    def places(self) -> Sequence[Place]:
        """The tensors of its files, in their order."""
        ...

    def held(self) -> Mapping[str, Held]:
        """Its weights by the names that a source has for them. Raises InputError, UnsupportedError."""
        ...

    def rows(self, name: str, start: int, stop: int) -> F32:
        """Rows [start, stop) of a weight, float32 (stop - start, cols). Raises InputError for damaged ones."""
        ...

    def picked(self, name: str, spans: Sequence[Span]) -> F32:
        """The rows of several spans of a weight, one span after the other, decoded together."""
        ...

    def carried(self) -> Mapping[str, object]:
        """What it has taken over beside weights, or claims to have, by name."""
        ...
