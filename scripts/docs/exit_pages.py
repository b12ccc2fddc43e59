"""The page of exit codes and error codes, from the tree of errors and the table that maps it to numbers."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc

from words import MADE, cell, code, table

from quantkit.cli.exits import BUG, CODES, exit_code
from quantkit.cli.main import BROKEN_PIPE
from quantkit.errors import QuantkitError

OTHERS = {
    0: "Done, or already up to date.",
    BUG: "A bug in quantkit: the only exit with a traceback.",
    BROKEN_PIPE: "Whoever read the output went away.",
}


def exit_pages() -> dict[str, str]:
    """One page: numbers for shells, codes for programs that read `--json`."""
    below = list(_below(QuantkitError))
    meanings = {
        number: " ".join(_first(cls) for cls in below if exit_code_of(cls) == number) for number in CODES.values()
    }
    meanings |= OTHERS
    numbers = [(code(number), cell(meanings[number])) for number in sorted(meanings)]
    classes = sorted(below, key=lambda cls: (exit_code_of(cls), cls.code))
    errors = [
        (code(cls.code), code(exit_code_of(cls)), f"[`{cls.__name__}`](python.md#quantkit.{cls.__name__})",
         cell(_first(cls)))
        for cls in classes
    ]  # fmt: skip
    text = (
        "# Exit codes and error codes\n\n"
        "A command ends with one of these numbers. They are never used again for something else; which of them are "
        "worth a retry is said in [the contract](../cli.md#exit-codes).\n\n"
        + table(("exit", "meaning"), numbers)
        + "## Error codes\n\n"
        "A failure prints `error[CODE]: what, where, why` on stderr, and with `--json` the object "
        "[`quantkit.error/1`](json.md#quantkiterror1) on stdout, whose `code` is one of these. From Python each is an "
        "exception, with `message` and `hint`.\n\n" + table(("code", "exit", "exception", "what happened"), errors)
    )
    return {"reference/exit-codes.md": text + MADE}


def exit_code_of(cls: type[QuantkitError]) -> int:
    """The exit code of an error of this class."""
    return exit_code(cls.__new__(cls))


def _below(cls: type[QuantkitError]) -> Iterator[type[QuantkitError]]:
    for each in cls.__subclasses__():
        yield each
        yield from _below(each)


def _first(cls: type[BaseException]) -> str:
    """The first sentence of a docstring."""
    return " ".join(cleandoc(cls.__doc__ or "").split("\n\n")[0].split()).split(". ")[0].rstrip(".") + "."
