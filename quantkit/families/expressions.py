"""Arithmetic over the numbers of a checkpoint, as rows write it: "2*kd+vd", "heads*(nope+v)".

Names, whole numbers, + - * // and parentheses; nothing else, and no code.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from typing import TypeVar

Number = TypeVar("Number", int, float)
ANY = "*"  # of a row, in place of a shape: whatever the tensor has


def evaluate(text: str, number: Callable[[str], Number]) -> Number:
    """The value of an expression whose names `number` looks up. Division by zero is 0: a check of sizes refuses it."""
    return _value(parsed(text), number)


def is_name(text: str) -> bool:
    """Whether an expression is one name."""
    return isinstance(parsed(text), ast.Name)


@cache
def parsed(text: str) -> ast.expr:
    """The tree of an expression of a row. A text that is none is a fault of the row: SyntaxError."""
    return ast.parse(text, mode="eval").body


def _value(node: ast.expr, number: Callable[[str], Number]) -> Number:
    if isinstance(node, ast.Name):
        return number(node.id)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value  # type: ignore[return-value]
    assert isinstance(node, ast.BinOp), ast.dump(node)
    left, right = _value(node.left, number), _value(node.right, number)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    if isinstance(node.op, ast.Mult):
        return left * right
    assert isinstance(node.op, ast.FloorDiv), ast.dump(node)
    return left // right if right else left * 0
