"""Grids of positions that are brought to another size: as torch does it, the same in slabs, and no square refused."""

from __future__ import annotations

import numpy as np
import pytest
from described import InMemory

from quantkit.errors import InputError
from quantkit.families.hparams import Hparams
from quantkit.families.model import Rows
from quantkit.families.resized import resized
from quantkit.tensors import TensorInfo

WIDTH = 32


def info(places: int, grids: int = 1) -> TensorInfo:
    return TensorInfo("t", "F32", (grids, places, WIDTH), grids * places * WIDTH * 4)


@pytest.mark.parametrize(("before", "after"), [(8, 5), (4, 7), (9, 1), (1, 3), (128, 32)])
def test_it_is_what_torch_interpolates(before: int, after: int) -> None:
    import torch

    grid = InMemory(np.random.default_rng(before).standard_normal((before**2, WIDTH)).astype(np.float32))
    found = resized("side")(info(before**2), Hparams({"side": after}))
    [part] = found.parts
    assert found.shape == (1, after * after, WIDTH) and part.rows == after * after
    image = torch.from_numpy(grid.values.reshape(1, before, before, WIDTH)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(image, size=(after, after), mode="bilinear", align_corners=True)
    whole = part.read(lambda name: grid, 0, part.rows)
    # four products are added, by torch in fused steps
    np.testing.assert_allclose(whole, expected.permute(0, 2, 3, 1).reshape(-1, WIDTH), rtol=0, atol=1e-6)
    slabs = [part.read(lambda name: grid, at, min(at + 3, part.rows)) for at in range(0, part.rows, 3)]
    assert np.array_equal(np.concatenate(slabs), whole)


def test_one_of_this_size_is_streamed_as_it_lies() -> None:
    assert resized("side")(info(16), Hparams({"side": 4})).parts == (Rows("t", 0, 16),)


def test_what_is_no_square_is_refused() -> None:
    with pytest.raises(InputError, match=r"\[1, 15, 32\] is no square of positions"):
        resized("side")(info(15), Hparams({"side": 2}))
    with pytest.raises(InputError, match=r"\[4, 4, 32\] is no square of positions"):  # 16 rows all the same
        resized("side")(info(4, grids=4), Hparams({"side": 4}))
