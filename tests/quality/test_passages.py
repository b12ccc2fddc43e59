"""The beginnings of passages that engines are compared on."""

from __future__ import annotations

import pytest

from quantkit.quality.passages import contexts


def encode(text: str) -> list[int]:
    return list(text.encode())


@pytest.mark.parametrize("context", [1, 2, 3, 17, 64, 128, 129])
def test_they_leave_room_in_the_context_of_the_model(context: int) -> None:
    found = contexts(encode, context)
    assert found
    assert all(0 < len(ids) <= max(context - 1, 1) for ids in found)
    assert found == [ids for ids in contexts(encode) if len(ids) < context] or context < 3
