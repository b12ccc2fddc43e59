"""A value that is no number is named by its place in the source, whatever the artifact's tensor is made of."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.errors import NonFiniteError
from quantkit.families.model import Constant, ModelTensor, Rows
from quantkit.families.roles import Role
from quantkit.plan.reading import require_finite

HALVES = (Rows("a", 4, 7), Rows("b", 0, 5))


@pytest.mark.parametrize(
    ("shape", "parts", "start", "index", "place"),
    [
        ((8, 3), HALVES, 0, 0, "a[4, 0]"),
        ((8, 3), HALVES, 2, 4, "b[0, 1]"),
        ((8, 3), HALVES, 6, 5, "b[4, 2]"),
        ((2, 4, 3), HALVES, 2, 4, "b[0, 1]"),
        ((8,), HALVES, 0, 1, "a[5]"),
        ((8,), HALVES, 3, 2, "b[2]"),
        ((8,), (Constant((0.0,) * 8),), 3, 2, "t[5]"),
    ],
)
def test_places(shape: tuple[int, ...], parts: tuple[Rows, ...], start: int, index: int, place: str) -> None:
    tensor = ModelTensor("t", Role.FFN_UP, shape, parts)
    values = np.zeros((tensor.rows - start, tensor.cols), np.float32)
    require_finite(tensor, values, start)
    values.flat[index] = np.inf
    with pytest.raises(NonFiniteError) as caught:
        require_finite(tensor, values, start)
    assert caught.value.message == f"{place}: is inf in the checkpoint"
    assert (caught.value.tensor, caught.value.index) == (place.partition("[")[0], index)
    assert caught.value.hint
