"""Typed key-value pairs: what a container says about a model, before any container has encoded it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from quantkit.records import record

Kind = Literal["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "u64", "i64", "f64"]
Scalar = int | float | bool | str | bytes


@record
class KeyValue:
    """One metadata entry. `value` is a scalar of `kind`, or with `array` a sequence of such scalars.

    Strings may be given as bytes where the source is not valid UTF-8 (vocabulary pieces of some models).
    """

    key: str
    kind: Kind
    value: Scalar | Sequence[Scalar]
    array: bool = False

    def items(self) -> list[Scalar]:
        """The values as a list, of one element for a scalar."""
        if isinstance(self.value, str | bytes | int | float):
            return [self.value]
        return list(self.value)
