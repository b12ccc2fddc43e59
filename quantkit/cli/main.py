"""The command line's one entry and its one error boundary.

Commands live in one small module each and are imported when they are called by name or listed in the help; heavy
packages (numpy, numba, torch) are imported by the stages they run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import NoReturn

from quantkit import __version__
from quantkit.errors import InterruptedRunError, QuantkitError, UsageError

SCHEMA = "quantkit.error/1"


def run() -> NoReturn:
    """Console-script entry."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Expected errors become one line and a hint on stderr."""
    if list(arguments) == ["--version"]:
        sys.stdout.write(f"quantkit {__version__}\n")
        return 0
    import typer

    from quantkit.cli.app import app

    try:
        app(list(arguments), prog_name="quantkit", standalone_mode=False)
    except QuantkitError as error:
        return _report(error, arguments)
    except typer.Exit as error:
        return error.exit_code
    except typer.TyperException as error:
        return _report(UsageError(error.format_message(), hint="see quantkit --help"), arguments)
    except (KeyboardInterrupt, typer.Abort):
        return _report(InterruptedRunError("interrupted", hint="run the same command again to resume"), arguments)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away: nothing more to say to it
        return 0
    return 0


def _report(error: QuantkitError, arguments: Sequence[str]) -> int:
    from quantkit.cli.exits import exit_code
    from quantkit.cli.render import error_lines, redact

    code = exit_code(error)
    sys.stderr.write("".join(f"{line}\n" for line in error_lines(error)))
    if "--json" in arguments:
        places = {"tensor": error.tensor, "path": error.path, "key": error.key}
        body = {"code": error.code, "exit": code, "message": error.message, "hint": error.hint, **places}
        sys.stdout.write(redact(json.dumps({"schema": SCHEMA, "error": body}, ensure_ascii=False)) + "\n")
    return code
