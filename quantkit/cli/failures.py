"""Whatever ends a command, as one of our errors: what ran out, what went away, and the rest, which are bugs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from quantkit.cli.exits import exit_code
from quantkit.cli.redaction import printable
from quantkit.errors import InputError, InterruptedRunError, QuantkitError, ResourceError, UsageError
from quantkit.extras import extra_of, not_installed

if TYPE_CHECKING:
    import typer

# What libraries say, in errors of many kinds, when the system refuses them memory or threads.
STARVED = (
    "cannot allocate memory",
    "can't allocate memory",
    "could not allocate",
    "out of memory",
    "failed to map segment",
    "can't start new thread",
    "can't allocate lock",
    "unable to allocate",
    "std::bad_alloc",
)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
UNREADABLE = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}  # of a path; who writes says so in words of its own


def interrupted() -> InterruptedRunError:
    return InterruptedRunError("interrupted", hint="run the same command again; what it kept on the disk it resumes")


def bug(error: BaseException) -> QuantkitError:
    """What nobody expected, as an error."""
    hint = "this is a bug in quantkit: please report it with the lines above"
    known = QuantkitError(f"{type(error).__name__}: {error}", hint=hint)
    known.code = "bug"
    return known


def as_error(error: BaseException) -> QuantkitError | None:
    """The error that a user sees for what was raised; None for a bug."""
    if isinstance(error, QuantkitError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return interrupted()
    if isinstance(error, ModuleNotFoundError) and extra_of(module := (error.name or "").partition(".")[0]):
        return not_installed("this", [module])  # commands say so before they begin, and name what needs it
    if any(_starved(cause) for cause in _causes(error)):
        hint = "allow it more memory (ulimit -v, the control group), or use fewer --threads or another machine"
        return ResourceError("not enough memory", hint=hint)
    if isinstance(error, OSError) and error.errno in FULL:
        where = f" {error.filename}" if error.filename else ""
        return ResourceError(f"cannot write{where}: {error.strerror}", hint="free some space, or write elsewhere")
    if isinstance(error, OSError) and error.errno in UNREADABLE and isinstance(error.filename, str | bytes):
        path = os.fsdecode(error.filename)
        return InputError(f"cannot read {path}: {error.strerror}", path=path, hint="check its permissions")
    return None


def usage(error: typer.TyperException) -> UsageError:
    """What the parser of the command line says, and the help to read."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "quantkit"
    return UsageError(_in_our_words(error), hint=f"see {command} --help")


def _in_our_words(error: typer.TyperException) -> str:
    """A wrong option with the nearest ones first; everything else as it is."""
    option, near = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if not isinstance(option, str) or near is None:
        return error.format_message()
    context = getattr(error, "ctx", None)
    known = [name for parameter in context.command.params for name in parameter.opts] if context is not None else near
    found = get_close_matches(option, sorted({*known, *near}), 1, 0.65)
    return f"no such option: {option}" + (f"; did you mean {found[0]}?" if found else "")


def error_body(error: QuantkitError) -> dict[str, Any]:
    """An error as plain data."""
    places = {"tensor": error.tensor, "path": error.path, "key": error.key}
    body = {"code": error.code, "exit": exit_code(error), "message": error.message, "hint": error.hint, **places}
    return {**body, "others": [error_body(other) for other in error.others]} if error.others else body


def error_lines(error: QuantkitError) -> list[str]:
    """An error as a person reads it: what, where, why, and the next step; then what else is wrong."""
    if error.others:
        alone = [line for each in (error, *error.others) for line in _lines(each)]
        return [*dict.fromkeys(alone), f"{len(error.others) + 1} faults; nothing was begun"]
    return _lines(error)


def _lines(error: QuantkitError) -> list[str]:
    places = [p for p in (error.path, error.tensor, error.key) if p and p not in error.message]
    where = f" ({', '.join(places)})" if places else ""
    lines = [f"error[{error.code}]: {error.message}{where}"]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return [printable(line) for line in lines]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _starved(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError | ImportError | OSError) and any(w in str(error).lower() for w in STARVED)
