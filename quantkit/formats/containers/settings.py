"""Keys of a quantization_config, read as what they must be: config.json comes from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.untrusted import shown

SECTION = "quantization_config"


def integer(config: Mapping[str, Any], key: str, allowed: tuple[int, ...] | None, default: int | None = None) -> int:
    """An integer, one of `allowed` where these are given. Raises InputError, or UnsupportedError for another one."""
    value = config.get(key, default)
    if type(value) is not int:
        raise _wrong(key, value, "an integer")
    if allowed is not None and value not in allowed:
        what = f"{SECTION}.{key} is {value}"
        raise UnsupportedError(what, key=f"{SECTION}.{key}", hint=f"known are {', '.join(map(str, allowed))}")
    return value


def truth(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """True or false. Raises InputError."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def choice(config: Mapping[str, Any], key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
    """One of `allowed`. Raises InputError, or UnsupportedError for another string."""
    value = config.get(key, default)
    if not isinstance(value, str):
        raise _wrong(key, value, "a string")
    if value not in allowed:
        what = f'{SECTION}.{key} is "{shown(value)}"'
        raise UnsupportedError(what, key=f"{SECTION}.{key}", hint=f"known are {', '.join(allowed)}")
    return value


def section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object. Raises InputError."""
    value = config.get(key)
    if not isinstance(value, dict):
        raise _wrong(key, value, "an object")
    return value


def _wrong(key: str, value: object, expected: str) -> InputError:
    found = "missing" if value is None else shown(repr(value))
    what = f"{SECTION}.{key} is {found}, expected {expected}"
    return InputError(what, key=f"{SECTION}.{key}", hint="config.json is damaged or from an unknown writer")
