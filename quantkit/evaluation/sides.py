"""One of the models that are compared: where its decoded weights come from, and what engines do to its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from quantkit.evaluation.memory import Memory
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.base import SourceFile
from quantkit.tensors import TensorInfo, TensorRef

if TYPE_CHECKING:
    from torch import Tensor

Rounding = Callable[["Tensor"], "Tensor"]


def as_they_are(tensor: str) -> Rounding | None:
    """The inputs of every layer stay in float32."""
    return None


@record
class Side:
    """A model under a name for people. `checkpoint` gives its weights under the names of the source, decoded.

    `rounding(tensor)` is what is done to the inputs of the layer whose weight that tensor is, None for nothing;
    `inputs` says it in words. `vocabulary` is the number of tokens that it has, None for all rows of the head.
    `moved` says whether scales were moved between layers, so that weights differ on purpose; None: nobody knows.
    `memory` keeps its run as the reference for further measurements on the same text, None: it is run each time.
    """

    name: str
    checkpoint: Checkpoint
    rounding: Callable[[str], Rounding | None] = as_they_are
    inputs: str = "float32"
    vocabulary: int | None = None
    moved: bool | None = False
    memory: Memory | None = None


@record
class ChangedCheckpoint:
    """See `quantkit.source.Checkpoint`: another one, some of whose tensors are others of the same shape."""

    source: Checkpoint
    changed: Mapping[str, TensorRef]
    name: str
    kind: str = "memory"
    repo: str | None = None
    commit: str | None = None
    metadata: tuple[KeyValue, ...] = ()

    @property
    def config(self) -> Mapping[str, Any]:
        return self.source.config

    def tensors(self) -> Mapping[str, TensorInfo]:
        return {**self.source.tensors(), **{name: ref.info for name, ref in self.changed.items()}}

    def ref(self, name: str) -> TensorRef:
        return self.changed[name] if name in self.changed else self.source.ref(name)

    def files(self) -> tuple[SourceFile, ...]:
        return ()

    def file_names(self) -> tuple[str, ...]:
        return self.source.file_names()

    def read_file(self, name: str) -> bytes | None:
        return self.source.read_file(name)

    def carried(self) -> tuple[str, ...]:
        return self.source.carried()

    def unchanged(self) -> None:
        self.source.unchanged()

    def close(self) -> None:
        """The source is another's to close."""


def with_tensors(source: Checkpoint, changed: Mapping[str, TensorRef], name: str = "variant") -> ChangedCheckpoint:
    """A source some of whose tensors are read elsewhere: `changed` by the names of the source, with `info` in a float
    type and of the source's shape. Raises KeyError for a name that the source lacks."""
    for tensor, ref in changed.items():
        shape = source.tensors()[tensor].shape
        assert ref.info.shape == shape, (tensor, ref.info.shape, shape)
    return ChangedCheckpoint(source, dict(changed), name)
