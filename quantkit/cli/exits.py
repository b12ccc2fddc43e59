"""Error types to exit codes. The numbers are a contract (docs/cli.md) and are never re-used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit import errors

CODES: dict[type[BaseException], int] = {
    errors.UsageError: 2,
    errors.InputError: 3,
    errors.UnsupportedError: 4,
    errors.ResourceError: 5,
    errors.BusyError: 6,
    errors.VerificationError: 7,
    errors.GateError: 8,
    errors.NetworkError: 9,
    errors.BatchError: 10,
    errors.InterruptedRunError: 130,
}

BUG = 1


def exit_code(error: BaseException) -> int:
    """The exit code of an error: that of the nearest listed class in its MRO, else 1 (a bug in quantkit)."""
    for cls in type(error).__mro__:
        if cls in CODES:
            return CODES[cls]
    return BUG


def error_of(exit_code: int, code: str, message: str, hint: str | None) -> errors.QuantkitError:
    """What another process ended with, as an error of ours; one that a signal ended lacked something."""
    if exit_code < 0:
        exit_code = CODES[errors.ResourceError]
    kinds = (errors.UsageError, errors.InputError, errors.UnsupportedError, errors.ResourceError, errors.BusyError,
             errors.VerificationError, errors.GateError, errors.NetworkError, errors.InterruptedRunError)  # fmt: skip
    kind = next((kind for kind in kinds if CODES[kind] == exit_code), errors.QuantkitError)
    found = kind(message, hint=hint)
    found.code = code
    return found


def failures_json(failures: Mapping[str, errors.QuantkitError]) -> list[dict[str, Any]]:
    """What became of the recipes of a batch that failed, as `--json` says it."""
    return [
        {"recipe": recipe, "code": e.code, "exit": exit_code(e), "message": e.message, "hint": e.hint}
        for recipe, e in failures.items()
    ]
