"""The legacy imatrix: bytes as llama-imatrix writes them, and what its reader makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quantkit.formats.gguf.imatrix import Entry, Imatrix, read_imatrix
from quantkit.formats.gguf.imatrix_legacy import encode_imatrix_legacy


def imatrix(**entries: tuple[list[list[float]], list[int]]) -> Imatrix:
    found = {name: Entry(np.array(s, np.float32), np.array(c)) for name, (s, c) in entries.items()}
    return Imatrix("x.dat", found, 3, 4, ("first.txt", "last.txt"), "")


def test_golden_bytes() -> None:
    """Checked once against llama-imatrix --output-format dat (llama.cpp of October 2026): equal bytes."""
    found = encode_imatrix_legacy(imatrix(b=([[6.0, 3.0]], [6]), a=([[4.0], [0.0]], [8, 0]), none=([[0.0]], [0])))
    assert found == (
        b"\2\0\0\0"
        b"\1\0\0\0a\2\0\0\0\2\0\0\0\0\0\x80?\0\0\0@"  # two calls: 4 / 8 * 2, and ones for the expert without tokens
        b"\1\0\0\0b\2\0\0\0\2\0\0\0\0\0\0@\0\0\x80?"
        b"\3\0\0\0\x08\0\0\0last.txt"
    )


def test_the_importance_survives(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    before = imatrix(
        dense=(random.random((1, 64)).tolist(), [1000]),
        experts=(random.random((3, 32)).tolist(), [5, 700, 9]),
    )
    path = tmp_path / "x.dat"
    path.write_bytes(encode_imatrix_legacy(before))
    after = read_imatrix(path)
    assert (after.chunks, after.datasets) == (3, ("last.txt",))
    for name, entry in before.entries.items():
        # multiplied and divided by the calls in float32: two roundings
        np.testing.assert_allclose(after.entries[name].importance().ravel(), entry.importance().ravel(), rtol=2e-7)
