"""What requests take from programs: texts or paths, one or several, as what the fields of the request hold.

Each function is given the name of a field and the value, and raises UsageError naming both where that cannot be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantkit.calibration.text.shipped import DEFAULT
from quantkit.errors import UsageError

Coercion = Callable[[str, Any], Any]


def coerce(request: object, fields: Mapping[str, Coercion]) -> None:
    """Put into these fields of a frozen request what its caller meant by what they hold."""
    for name, convert in fields.items():
        object.__setattr__(request, name, convert(name, getattr(request, name)))


def given_text(name: str, value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    raise UsageError(f"{name} is {type(value).__name__}", hint="give a text or a path", key=name)


def given_texts(name: str, value: Any) -> tuple[str, ...]:
    given = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(given, Sequence):
        raise UsageError(f"{name} is {type(value).__name__}", hint="give a text or a list of texts", key=name)
    return tuple(given_text(name, one) for one in given)


def given_data(name: str, value: Any) -> tuple[str, ...]:
    """As `given_texts`, but a path "default" is the file of that name: the word alone means the shipped text."""
    texts = given_texts(name, value)
    given = [value] if isinstance(value, str | os.PathLike) else value
    files = [isinstance(one, os.PathLike) and text == DEFAULT for one, text in zip(given, texts, strict=True)]
    return tuple(f"./{text}" if file else text for file, text in zip(files, texts, strict=True))


def given_names(name: str, value: Any) -> tuple[str, ...]:
    words = (word.strip() for text in given_texts(name, value) for word in text.split(","))
    return tuple(word for word in words if word)


def given_path(name: str, value: Any) -> Path | None:
    return None if value is None else Path(given_text(name, value))


def given_number(name: str, value: Any) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise UsageError(f"{name} is {type(value).__name__}", hint="give a number", key=name)


def given_size(name: str, value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(int(value))


def given_paths(name: str, value: Any) -> tuple[Path, ...]:
    return tuple(Path(text) for text in given_texts(name, value))


def given_optional(name: str, value: Any) -> str | None:
    return None if value is None else given_text(name, value)
