"""Factors of whole matrices in a GGUF file: codes of four-bit floats that were carried over have them in NAME.scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantkit.families.model import ModelTensor
from quantkit.tensors import F32

WEIGHT, SCALE = ".weight", ".scale"


def factor_of(name: str) -> str | None:
    """The name of a tensor's factors; None for what is no weight."""
    return name.removesuffix(WEIGHT) + SCALE if name.endswith(WEIGHT) else None


def of_rows(factors: F32, tensor: ModelTensor, rows: NDArray[np.int64]) -> F32:
    """The factor of each of these rows, (rows, 1): one for all, or one for each matrix of a stack."""
    factors = factors.reshape(-1)
    height = max(tensor.rows // factors.size, 1)
    return factors[np.minimum(rows // height, factors.size - 1)][:, None]
