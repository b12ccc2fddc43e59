"""The tree of errors that quantkit raises on purpose.

Every error names what failed (tensor, path, key), what was expected and found, and a next step as `hint`.
Nothing here prints or knows an exit code: `quantkit.cli.exits` maps these classes to codes through the MRO.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_MESSAGE = 2000  # characters


class QuantkitError(Exception):
    """Base of all expected failures.

    `message` says what went wrong in one line; `hint` is the next step for the user.
    `tensor`, `path` and `key` locate the fault where they apply; they are also part of the JSON error object.
    `others` are what else is wrong and was found before anything began: all of it is said at once.
    """

    code = "error"
    others: tuple[QuantkitError, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        tensor: str | None = None,
        path: str | None = None,
        key: str | None = None,
    ) -> None:
        message = _one_line(message)
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.tensor = tensor
        self.path = path
        self.key = key


def _one_line(message: str) -> str:
    """A message fit for a terminal, whatever a file put into it: control characters escaped, and not without end."""
    text = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}... ({len(message):,} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UsageError(QuantkitError):
    """The command line asks for something that makes no sense."""

    code = "usage"


class RecipeError(UsageError):
    """A recipe is malformed, or one of its rules cannot apply to this checkpoint."""

    code = "recipe"


class InputError(QuantkitError):
    """An input file is corrupt, truncated, hostile or missing."""

    code = "input"


class NonFiniteError(InputError):
    """A weight is NaN or infinite, or becomes infinite in the requested type.

    `index` is the flat index of that weight in the array that was given, where one is known.
    """

    code = "non-finite"

    def __init__(
        self,
        message: str,
        *,
        index: int | None = None,
        hint: str | None = None,
        tensor: str | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, tensor=tensor, path=path)
        self.index = index


class NumericError(InputError):
    """Statistics that a method cannot work with: a Hessian that is zero or not positive definite."""

    code = "numeric"


class UnsupportedError(QuantkitError):
    """A model family, tokenizer, method or format that quantkit does not know."""

    code = "unsupported"


class ResourceError(QuantkitError):
    """Not enough disk, memory or time."""

    code = "resource"


class BusyError(QuantkitError):
    """The output is being written by another process."""

    code = "busy"


class ExistsError(BusyError):
    """The output exists and is not what this command would write."""

    code = "exists"


class NotWritableError(BusyError):
    """The output place refuses the file: no permission, read-only, not a folder, a name it cannot hold."""

    code = "not-writable"


class VerificationError(QuantkitError):
    """An artifact does not verify: hash, structure, tokenizer or numbers."""

    code = "verification"


class GateError(QuantkitError):
    """A quality gate failed. `judged` is what was measured, as plain data, where that is known."""

    code = "gate"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        path: str | None = None,
        key: str | None = None,
        judged: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, path=path, key=key)
        self.judged = judged


class NetworkError(QuantkitError):
    """The Hub or the network failed; trying again may help."""

    code = "network"


MOST_SAID = 5  # failures in one message: all of them stand in tables and records


class BatchError(QuantkitError):
    """Some of several artifacts could not be made; the others were.

    `failures` maps the recipe's name to what happened; `built` are the artifacts that there are. Of a batch they are
    `kind` "tasks", and `hint` says what to do about all of them.
    """

    code = "batch"

    def __init__(
        self,
        failures: Mapping[str, QuantkitError],
        built: Sequence[object],
        *,
        kind: str = "recipes",
        hint: str | None = None,
    ) -> None:
        count = len(failures) + len(built)
        what = "; ".join(f"{recipe}: {error.message}" for recipe, error in [*failures.items()][:MOST_SAID])
        what += f"; and {len(failures) - MOST_SAID} more" if len(failures) > MOST_SAID else ""
        first = next(iter(failures.values()))
        super().__init__(f"{len(failures)} of {count} {kind} failed: {what}", hint=hint or first.hint, path=first.path)
        self.failures = dict(failures)
        self.built = tuple(built)


class InterruptedRunError(QuantkitError):
    """The user stopped the run; the same command resumes it."""

    code = "interrupted"


MAX_LENGTH = 100  # of a name that is worth a suggestion: comparing takes the square of it

MAX_KNOWN = 2000


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean "q6_k"?' when one of `known` is close to `name`, else the empty string."""
    if len(name) > MAX_LENGTH:
        return ""
    from difflib import get_close_matches  # for names that nobody knows

    near = get_close_matches(name, [each for each in known if len(each) <= MAX_LENGTH][:MAX_KNOWN], 1)
    return f'; did you mean "{near[0]}"?' if near else ""


def require_choice(option: str, value: str, known: Iterable[str]) -> None:
    """Raise UsageError with the nearest of `known` for a value of an option, such as "--engine", that is none of them:
    one rule, and one exit code, for all options that choose by name."""
    names = tuple(known)
    if value not in names:
        what = f'{option} "{value[:MAX_LENGTH]}" is unknown{did_you_mean(value.lower(), names)}'
        key = option.removeprefix("--").replace("-", "_")
        raise UsageError(what, hint=f"one of {', '.join(names)}", key=key)


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` of `known` that are nearest to `name`, the nearest first, however far they are."""
    from difflib import get_close_matches

    return get_close_matches(name[:MAX_LENGTH], sorted(set(known)), count, 0.0)


# What goes wrong with one artifact of several and leaves the others alone.
OF_ONE = (BusyError, VerificationError, GateError, NumericError)
