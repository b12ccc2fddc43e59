"""A checkpoint made of arrays, for tests and for callers that have a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.source.base import SourceFile
from quantkit.tensors import F32, U8, TensorInfo

Array = NDArray[np.float32] | NDArray[np.float16]


@record
class MemoryTensor:
    """An array as a tensor to read. `values` are float32 or float16; BF16 is float32 whose low halves are zero."""

    info: TensorInfo
    values: Array

    def read(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32, shape (stop - start, cols), a fresh array."""
        return self.values.reshape(self.info.rows, self.info.cols)[start:stop].astype(np.float32)

    def read_packed(self, start: int, stop: int) -> U8:
        """Rows [start, stop) as a file would store them: uint8 (stop - start, row_bytes)."""
        rows = np.ascontiguousarray(self.values.reshape(self.info.rows, self.info.cols)[start:stop])
        if self.info.dtype == "BF16":
            rows = (rows.view(np.uint32) >> 16).astype(np.uint16)
        return rows.view(np.uint8).reshape(stop - start, -1)


@record
class MemoryCheckpoint:
    """A model in memory. See `quantkit.source.Checkpoint`.

    `weights` are float32 or float16 arrays. `bf16` names float32 arrays that count as stored in bfloat16; their
    values must be exact there. `sides` are the bytes of side files, by name.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Array]
    sides: Mapping[str, bytes] = field(default_factory=dict)
    bf16: frozenset[str] = frozenset()
    name: str = "memory"
    kind: str = "memory"
    repo: str | None = None
    commit: str | None = None
    metadata: tuple[KeyValue, ...] = ()

    def tensors(self) -> Mapping[str, TensorInfo]:
        return {name: self._info(name) for name in self.weights}

    def _info(self, name: str) -> TensorInfo:
        values = self.weights[name]
        if name in self.bf16:
            assert not np.any(values.view(np.uint32) & 0xFFFF), f"{name} is not exact in bfloat16"
            return TensorInfo(name, "BF16", values.shape, 2 * values.size)
        return TensorInfo(name, {"float32": "F32", "float16": "F16"}[values.dtype.name], values.shape, values.nbytes)

    def ref(self, name: str) -> MemoryTensor:
        return MemoryTensor(self._info(name), self.weights[name])

    def files(self) -> tuple[SourceFile, ...]:
        return ()

    def file_names(self) -> tuple[str, ...]:
        return tuple(self.sides)

    def read_file(self, name: str) -> bytes | None:
        return self.sides.get(name)

    def carried(self) -> tuple[str, ...]:
        return tuple(sorted(self.sides))

    def unchanged(self) -> None:
        pass

    def close(self) -> None:
        pass
