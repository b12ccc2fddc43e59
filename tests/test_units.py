"""Sizes: one grammar for every option."""

from __future__ import annotations

import pytest

from quantkit.errors import UsageError
from quantkit.units import parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("4G", 4 * 10**9), ("4GB", 4 * 10**9), ("4gb", 4 * 10**9), ("4 GB", 4 * 10**9), ("4GiB", 4 << 30),
        ("4.5 GB", 4_500_000_000), ("0.1G", 10**8), ("500M", 5 * 10**8), ("500MiB", 500 << 20), ("1k", 1000),
        ("1KiB", 1024), ("2T", 2 * 10**12), ("12345", 12345), ("12345B", 12345), (" 3 ", 3),
        ("1.000000001G", 10**9 + 1),
    ],
)  # fmt: skip
def test_what_is_a_size(text: str, nbytes: int) -> None:
    assert parse_size(text, "--fit") == nbytes


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "G", "GB", "4GI", "4Gi B", "4E", "1e9", "4,5G", ".5G", "9" * 20, "9999999T", "4G4", "٤G",
             "nan"]
)  # fmt: skip
def test_what_is_not(text: str) -> None:
    with pytest.raises(UsageError, match="--fit") as caught:
        parse_size(text, "--fit")
    assert caught.value.hint


def test_a_number_that_wants_a_unit() -> None:
    with pytest.raises(UsageError, match='did you mean "24GB"'):
        parse_size("24", "--fit", least=10**6)
