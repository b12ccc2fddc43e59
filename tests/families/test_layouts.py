"""The algebra of layouts: what each step does, that streams equal wholes, and that bad sizes are errors that say so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from described import F32, InMemory
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.errors import InputError
from quantkit.families.hparams import Hparams
from quantkit.families.layouts import (
    ROWS_TOGETHER,
    Layout,
    column,
    columns,
    every,
    flat,
    fold,
    joined,
    lead,
    line,
    regroup,
    rows,
    runs,
    split,
    squeeze,
    stack,
    turn,
)
from quantkit.families.model import Constant, Rows
from quantkit.families.parts import Every, Made, Mapped, columns_of
from quantkit.families.placements import Place, Placement
from quantkit.tensors import TensorInfo

NUMBERS = Hparams({"a": 2, "b": 3, "c": 4, "six": 6, "num_local_experts": 5})


def info(*shape: int) -> TensorInfo:
    return TensorInfo("x", "F32", shape, 4 * int(np.prod(shape)))


def numbered(*shape: int) -> F32:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@dataclass(frozen=True)
class Counted:
    """Rows of an array, and how many were asked for."""

    array: InMemory
    asked: list[tuple[int, int]]

    def read(self, start: int, stop: int) -> F32:
        self.asked.append((start, stop))
        return self.array.read(start, stop)


def taken(placement: Placement, x: F32) -> F32:
    found = [part.read(lambda name: InMemory(x), 0, part.rows) for part in placement.parts]
    return np.concatenate([values.reshape(-1) for values in found]).reshape(placement.shape)


X = numbered(6, 4)
S = numbered(2, 3, 4)
CASES: list[tuple[Place, F32, F32, bool]] = [
    (Layout(), X, X, True),
    (rows("0", "b"), X, X[:3], True),
    (rows("1", "a"), S, S[:, 1:2], True),
    (every(1, 2), X, X[1::2], True),
    (every(0, 3), S, S[:, ::3], True),
    (fold("a", "b"), X, X.reshape(2, 3, 4), True),
    (fold("a", "b") >> rows("0", "1") >> flat, X, X.reshape(2, 3, 4)[:, 0], True),
    (regroup("a", "b"), X, X.reshape(2, 3, 1, 4).swapaxes(0, 1).reshape(6, 4), True),
    (regroup("a", "1"), X, X, True),
    (regroup("b", "a"), numbered(12), numbered(12).reshape(3, 2, 2).swapaxes(0, 1).reshape(12), True),
    (rows("2", "c"), numbered(6), numbered(6)[2:4], True),
    (column, numbered(6), numbered(6).reshape(6, 1), True),
    (squeeze, numbered(6, 1, 4), X, True),
    (squeeze, numbered(1, 1, 4), numbered(4), False),
    (line, numbered(2, 3), numbered(6), False),
    (lead, numbered(6, 1, 4), numbered(1, 6, 1, 4), True),
    (squeeze >> rows("0", "b"), numbered(6, 1, 4), X[:3], True),
    (turn, X, X.T, False),
    (turn, S, S.swapaxes(1, 2), False),
    (turn >> every(1, 2), S, S.swapaxes(1, 2)[:, 1::2], False),
    (turn >> every(1, 2) >> turn, X, X[:, 1::2], False),
    (fold("a", "b") >> rows("0", "a") >> turn, X, X.reshape(2, 3, 4)[:, :2].swapaxes(1, 2), False),
    (columns("a", "2"), X, X.reshape(6, 2, 2, 1).swapaxes(1, 2).reshape(6, 4), False),
    (split("a", "b"), numbered(6), numbered(6).reshape(2, 3), False),
    (joined(rows("c", "six"), rows("0", "c") >> regroup("a", "a")), X, X[[4, 5, 0, 2, 1, 3]], True),
]


@pytest.mark.parametrize(("place", "x", "expected", "streamed"), CASES, ids=range(len(CASES)))
def test_what_each_layout_means(place: Place, x: F32, expected: F32, streamed: bool) -> None:
    placement = place(info(*x.shape), NUMBERS)
    assert placement.shape == expected.shape
    assert np.array_equal(taken(placement, x), expected)
    assert streamed is all(part.unit == 1 and not isinstance(part, Made) for part in placement.parts)


@pytest.mark.parametrize(("place", "x", "expected", "streamed"), CASES, ids=range(len(CASES)))
def test_any_rows_of_a_part_are_those_of_the_whole(place: Place, x: F32, expected: F32, streamed: bool) -> None:
    for part in place(info(*x.shape), NUMBERS).parts:
        whole = part.read(lambda name: InMemory(x), 0, part.rows)
        assert len(whole) == part.rows
        for start in range(part.rows):
            for stop in range(start + 1, part.rows + 1):
                assert np.array_equal(part.read(lambda name: InMemory(x), start, stop), whole[start:stop])


@pytest.mark.parametrize(("place", "x", "expected", "streamed"), CASES, ids=range(len(CASES)))
def test_a_part_names_the_rows_that_it_is_made_of(place: Place, x: F32, expected: F32, streamed: bool) -> None:
    identities = set()
    for part in place(info(*x.shape), NUMBERS).parts:
        asked: list[tuple[int, int]] = []
        part.read(lambda name, asked=asked: Counted(InMemory(x), asked), 0, part.rows)
        assert asked == [(source.start, source.stop) for source in part.sources]
        identities.add(part.identity)
    assert len(identities) == len(place(info(*x.shape), NUMBERS).parts)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (turn, [range(4)] * 2),
        (turn >> rows("1", "b"), [range(1, 3)] * 2),
        (turn >> every(1, 2), [range(1, 4, 2)] * 2),
        (turn >> rows("0", "b") >> every(0, 2), [range(0, 3, 2)] * 2),
        (turn >> every(1, 2) >> turn, [None] * 2),
        (rows("0", "a"), [None] * 2),
    ],
)
def test_turned_matrices_are_columns_of_source_rows(place: Place, expected: list[range | None]) -> None:
    held = InMemory(S.reshape(6, 4))
    for part, wanted in zip(place(info(2, 3, 4), NUMBERS).parts, expected, strict=True):
        found = columns_of(part)
        assert (found and found.columns) == wanted
        if found is not None:
            assert found.sources == part.sources
            given, made = (one.read(lambda name: held, 1, part.rows) for one in (found, part))
            assert np.array_equal(given, made)


def test_one_matrix_of_a_stack_is_read_at_a_time() -> None:
    for place, shape in ((turn, (5, 6, 4)), (fold("num_local_experts", "six") >> turn, (30, 4))):
        parts = place(info(*shape), NUMBERS).parts
        assert [part.sources for part in parts] == [(Rows("x", 6 * n, 6 * n + 6),) for n in range(5)]
    bands = columns("a", "2")(info(2 * ROWS_TOGETHER + 1, 4), NUMBERS).parts
    assert [part.rows for part in bands] == [ROWS_TOGETHER, ROWS_TOGETHER, 1]


def test_one_of_many_matrices() -> None:
    assert (stack() >> turn)(info(6, 4), NUMBERS).shape == (5, 4, 6)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=40))
def test_runs_are_the_rows_in_their_order(numbers: list[int]) -> None:
    found: list[int] = []
    for part in runs("x", np.array(numbers)):
        assert isinstance(part, (Rows, Every))
        found += range(part.start, part.stop, part.step if isinstance(part, Every) else 1)
        assert part.rows == len(range(part.start, part.stop, part.step if isinstance(part, Every) else 1))
    assert found == numbers


def test_a_million_rows_of_every_second_are_one_part() -> None:
    assert len(every(0, 2)(info(1 << 20, 8), NUMBERS).parts) == 1
    assert len(every(1, 2)(info(128, 1 << 13, 8), NUMBERS).parts) == 1


@pytest.mark.parametrize(
    ("place", "shape"),
    [
        (fold("a", "b"), (7, 4)), (fold("a", "b") >> turn, (7, 4)), (rows("0", "six"), (5, 4)),
        (regroup("a", "b"), (7, 4)), (columns("a", "b"), (6, 4)), (split("a", "b"), (7,)), (rows("a", "a"), (6, 4)),
        (rows("0", "missing"), (6, 4)),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(place: Place, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"cannot be taken apart|expected a positive integer"):
        place(info(*shape), NUMBERS)


def test_values_that_change() -> None:
    x = numbered(3, 2) - 2
    part = Mapped(Rows("x", 0, 3), "-exp")
    assert np.array_equal(
        part.read(lambda name: InMemory(x), 1, 3), -np.exp(x[1:].astype(np.float64)).astype(np.float32)
    )
    assert np.array_equal(Mapped(Rows("x", 0, 3), "*", 0.5).read(lambda name: InMemory(x), 0, 3), x / 2)
    unit = Mapped(Rows("x", 0, 3), "unit")
    assert np.array_equal(unit.read(lambda name: InMemory(x), 1, 3), unit.read(lambda name: InMemory(x), 0, 3)[1:])
    lengths = np.linalg.norm(unit.read(lambda name: InMemory(x), 0, 3).astype(np.float64), axis=1)
    assert np.allclose(lengths[np.abs(x).sum(axis=1) > 0], 1, atol=1e-6)
    assert np.isfinite(unit.read(lambda name: InMemory(np.zeros((3, 4), np.float32)), 0, 3)).all()
    assert part.identity != Mapped(Rows("x", 0, 3), "*", 0.5).identity
    assert Constant((1.0,)).sources == ()
