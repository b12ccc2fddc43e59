"""A GGUF file whose matrices have factors beside them (NAME.scale), with these worked into the weights.

Codes of NVFP4 that were carried over have such factors. What they are multiplied with is the weight of the model: so
files are seen where they are turned back into checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantkit.errors import InputError
from quantkit.families.factors import INPUT_SCALE, WEIGHT, factor_of, of_rows
from quantkit.records import record
from quantkit.source.base import Checkpoint, Over
from quantkit.tensors import F32, U8, TensorInfo, TensorRef

FACTORED = "nvfp4"  # the type whose codes have factors


@record
class FactoredTensor:
    """A weight times its factors: one number, or one for each matrix of a stack."""

    base: TensorRef
    factors: F32

    @property
    def info(self) -> TensorInfo:
        return self.base.info

    def read(self, start: int, stop: int) -> F32:
        """Rows [start, stop), float32 (stop - start, cols)."""
        return self.base.read(start, stop) * of_rows(self.factors, self.info.rows, np.arange(start, stop))

    def read_packed(self, start: int, stop: int) -> U8:
        """The same as bytes of float32."""
        return np.ascontiguousarray(self.read(start, stop)).view(np.uint8).reshape(stop - start, -1)


@record
class FactoredCheckpoint(Over):
    """The file without its factors, which are in the weights. See `quantkit.source.Checkpoint`.

    `dropped` are static scales of inputs: they are no weights, and no plain checkpoint has them.
    """

    factors: Mapping[str, F32]
    dropped: tuple[str, ...]

    def tensors(self) -> Mapping[str, TensorInfo]:
        left = {*map(factor_of, self.factors), *self.dropped}
        return {name: info for name, info in self.base.tensors().items() if name not in left}

    def ref(self, name: str) -> TensorRef:
        found = self.base.ref(name)
        factors = self.factors.get(name)
        return found if factors is None else FactoredTensor(found, factors)


def factored(source: Checkpoint) -> FactoredCheckpoint:
    """A GGUF file with the factors of its matrices in the weights. Reads these numbers.

    Raises InputError for factors that are not one positive number for each matrix.
    """
    tensors = source.tensors()
    coded = [name for name, info in tensors.items() if info.dtype == FACTORED and name.endswith(WEIGHT)]
    factors = {}
    for name in coded:
        other = factor_of(name)
        if other is None or other not in tensors:
            continue
        info = tensors[other]
        matrices = tensors[name].shape[0] if len(tensors[name].shape) > 2 else 1
        values = source.ref(other).read(0, info.rows).reshape(-1) if info.elements in {1, matrices} else None
        if values is None or not ((values > 0) & np.isfinite(values)).all():
            what = f'tensor "{other}" of shape {list(info.shape)} is not one positive number for each of {matrices}'
            raise InputError(f"{what} matrices", tensor=other, hint="the file is damaged: make it again")
        factors[name] = values
    inputs = (f"{name.removesuffix(WEIGHT)}{INPUT_SCALE}" for name in coded)
    return FactoredCheckpoint(source, factors, tuple(name for name in inputs if name in tensors))
