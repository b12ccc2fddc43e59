"""Values of options that need no conversion: Typer imports pydantic to find that out.

That takes a tenth of a second at every start, for texts that stay texts and for options that nobody gave. What needs a
closer look is left to Typer, and so is every refusal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

UNSURE = object()


class AsGiven:
    """Stands for what Typer makes for a parameter to convert values with, and asks for that only where it must."""

    def __init__(self, parameter: Any) -> None:
        self._typers = parameter.get_runtime_param

    def __call__(self) -> AsGiven:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the function of the command gets it. Raises what Typer raises for one that is refused."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        found = _as_given(value, param.type_descriptor.annotation, param.type_descriptor.parameter_info)
        return self._typers().coerce(value, param=param, ctx=ctx) if found is UNSURE else found


def as_given(parameters: Sequence[Any]) -> Sequence[Any]:
    """Parameters of a command that take values as they are given. Older versions of Typer do so by themselves."""
    for parameter in parameters:
        if not isinstance(getattr(parameter, "get_runtime_param", AsGiven), (type, AsGiven)):
            parameter.get_runtime_param = AsGiven(parameter)
    return parameters


def _as_given(value: Any, kind: Any, info: Any) -> Any:
    """The value where it surely is of its kind already, a path from its text; else UNSURE."""
    if info.parser is not None:
        return UNSURE
    if type(value) is kind and (kind is str or (kind in (int, float) and _is_between(value, info.min, info.max))):
        return value
    if kind == list[str] and isinstance(value, (list, tuple)) and all(type(each) is str for each in value):
        return list(value)
    if kind is Path and isinstance(value, (str, Path)) and _is_free(info) and "\0" not in str(value):
        return Path(value) if os.access(value, os.R_OK) or not os.path.exists(value) else UNSURE  # noqa: PTH110
    return UNSURE


def _is_between(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or low <= value) and (high is None or value <= high)


def _is_free(info: Any) -> bool:
    """Whether a path may lead to anything or nothing; one to what cannot be read is refused all the same."""
    asked = info.exists, info.writable, info.resolve_path, info.allow_dash, info.path_type
    return not any(asked) and info.file_okay and info.dir_okay and info.readable
