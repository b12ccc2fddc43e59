"""The command line's one entry and its one error boundary.

Commands live in one small module each; heavy packages (numpy, numba, torch) are imported by the stages they run. What
is imported here comes late, too: an interrupt may come at any time, and an import inside the boundary is guarded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from quantkit.cli import interpreter
from quantkit.errors import QuantkitError

SCHEMA = "quantkit.error/1"
BROKEN_PIPE, INTERRUPTED = 141, 130
COMPLETION = "_QUANTKIT_COMPLETE"  # set by the shell when it asks what could come next


def run() -> NoReturn:
    """Console-script entry. Ends the process at once: threads of an interrupted command are not waited for."""
    arguments = sys.argv[1:]
    interpreter.begin()
    try:
        from quantkit.cli.streams import occupy_standard_descriptors

        occupy_standard_descriptors()
        code = main(arguments)
    except KeyboardInterrupt:  # before there was a handler, or after the last
        code = INTERRUPTED
        sys.stderr.write("error[interrupted]: interrupted\n")
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            code = code or BROKEN_PIPE
    os._exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Expected errors become one line and a hint on stderr."""
    from quantkit.cli.interrupt import Interrupts

    def leave() -> None:
        from quantkit.cli.failures import interrupted

        _report(interrupted(), arguments)
        os._exit(INTERRUPTED)

    with Interrupts(leave) as interrupts:
        try:
            _command(list(arguments))
        except BaseException as error:  # noqa: BLE001 - every way out of a command ends here
            interrupts.settle()
            return _failed(error, interrupts.asked, arguments)
        interrupts.settle()
        if interrupts.asked:  # and something swallowed it; the result is out already
            from quantkit.cli.failures import interrupted

            return _report(interrupted(), ())
        return 0


def _command(arguments: list[str]) -> None:
    """Run a command line. Raises whatever stops it, typer.Exit for an exit code."""
    from quantkit.cli.streams import write_result

    if arguments in (["--version"], ["-V"]):
        from quantkit.version import __version__

        write_result(f"quantkit {__version__}\n")
        return
    from quantkit.cli.app import program

    if COMPLETION in os.environ:
        program()(prog_name="quantkit")
    from quantkit.cli.configuration import CONFIGURATION, configure

    found = configure(program, arguments)
    command = program(arguments[0] if arguments else None)
    # Not command(...): Typer makes an exit code of KeyboardInterrupt, and ends the process when a pipe is closed
    given = arguments or ["--help"]
    with command.make_context("quantkit", given, obj=tuple(arguments), default_map=found.defaults) as context:
        context.meta[CONFIGURATION] = found
        command.invoke(context)
    write_result("")  # help that is still in the buffer


def _failed(error: BaseException, asked: bool, arguments: Sequence[str]) -> int:
    """Report what ended a command, and return its exit code. `asked`: it was interrupted, whatever was raised then."""
    import typer

    from quantkit.cli.failures import as_error, bug, interrupted, usage
    from quantkit.errors import InterruptedRunError

    if asked and not isinstance(error, InterruptedRunError):
        return _report(interrupted(), arguments)
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.TyperException):
        return _report(usage(error), arguments)
    piped = error.__context__ if isinstance(error, SystemExit) else error
    if isinstance(piped, BrokenPipeError):
        return BROKEN_PIPE  # whoever read our output has enough of it; rich makes SystemExit of it
    if isinstance(error, typer.Abort):
        return _report(interrupted(), arguments)
    if isinstance(error, SystemExit):  # of Typer, when it has shown or installed completion
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    known = as_error(error)
    if known is None:
        _trace(error)
        known = bug(error)
    return _report(known, arguments)


def _report(error: QuantkitError, arguments: Sequence[str]) -> int:
    """Say an error on stderr, with --json also as an object on stdout; what cannot be said is not."""
    from contextlib import suppress

    from quantkit.cli.exits import exit_code
    from quantkit.cli.failures import error_body, error_lines
    from quantkit.cli.redaction import redact
    from quantkit.cli.streams import talk, write_result
    from quantkit.jsontext import dump_json

    talk().write("".join(f"{line}\n" for line in error_lines(error)))
    if "--json" in arguments:
        with suppress(OSError):
            body = {"schema": SCHEMA, "error": error_body(error)}
            write_result(redact(dump_json(body)) + "\n")
    return exit_code(error)


def _trace(error: BaseException) -> None:
    """A bug shows where it is, without what must not be shown."""
    import traceback

    from quantkit.cli.redaction import redact
    from quantkit.cli.streams import talk

    talk().write(redact("".join(traceback.format_exception(error))))
