"""One run of a command: its global options, where its events go, and how its result leaves.

stdout is data (paths, tables, or one JSON object); stderr is talk.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from quantkit.cli import interpreter
from quantkit.cli.configuration import CONFIGURATION, Configuration, Setting
from quantkit.cli.failures import as_error, bug, error_body
from quantkit.cli.options import OUTPUT
from quantkit.cli.redaction import printable, redact
from quantkit.cli.render import Talk
from quantkit.cli.streams import write_result
from quantkit.errors import ResourceError, UsageError
from quantkit.events import BlockProgress, Event, RunFailed, RunFinished, RunStarted, TensorProgress
from quantkit.jsontext import dump_json
from quantkit.platforms import address_limit
from quantkit.records import record
from quantkit.report.text import size
from quantkit.version import __version__

if TYPE_CHECKING:
    from quantkit.cli.journal import EventsFile, LogFile

LEAST_ADDRESSES = 384 << 20  # bytes: plan of a small model needs 350 MB


@record
class Settings:
    """The options every command has. Annotations are what the command line shows."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)] = (
        False
    )
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.", rich_help_panel=OUTPUT)
    ] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line for every tensor.", rich_help_panel=OUTPUT)
    ] = False
    plain: Annotated[bool, typer.Option("--plain", help="No colour, no live line.", rich_help_panel=OUTPUT)] = False
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="Also write the notes to this file.", rich_help_panel=OUTPUT)
    ] = None
    events: Annotated[
        Path | None, typer.Option("--events", help="Write every event as JSON Lines.", rich_help_panel=OUTPUT)
    ] = None
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.", rich_help_panel=OUTPUT)] = False
    no_config: Annotated[
        bool,
        typer.Option("--no-config", help="Take no defaults from files and variables.", rich_help_panel=OUTPUT),
    ] = False


class Session:
    """Hands events to the terminal, the log and the events file; prints the result. A context: a run of a command."""

    def __init__(
        self,
        settings: Settings,
        command: str,
        arguments: Sequence[str] = (),
        configuration: Configuration | None = None,
    ) -> None:
        self.settings, self.configuration = settings, configuration or Configuration()
        self._command = command
        self._arguments = tuple(map(redact, arguments))
        self._start = time.monotonic()
        self._files: list[EventsFile | LogFile] = []
        self._talk = Talk(settings.quiet, settings.verbose, settings.plain)

    def __enter__(self) -> Session:
        if self.settings.quiet and self.settings.verbose:
            raise UsageError("--quiet and --verbose", hint="leave one of them out")
        require_addresses()
        let_waiting_threads_sleep()
        if self.settings.events or self.settings.log_file:
            from quantkit.cli.journal import EventsFile, LogFile
        if self.settings.events:
            self._files.append(EventsFile(self.settings.events))
        if self.settings.log_file:
            self._files.append(LogFile(self.settings.log_file))
        self.emit(RunStarted(self._command, __version__, self._arguments))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        seconds = round(time.monotonic() - self._start, 3)
        try:
            if error is None or isinstance(error, typer.Exit):
                self.emit(RunFinished(self._command, seconds))
            else:
                known = as_error(error) or bug(error)
                body = {key: value for key, value in error_body(known).items() if key != "others"}
                with suppress(ResourceError):  # of a log that cannot be written: one failure is reported
                    self.emit(RunFailed(self._command, seconds, **body))
        finally:
            self._talk.stop()
            for file in self._files:
                file.close()

    def emit(self, event: Event) -> None:
        if isinstance(event, (TensorProgress, BlockProgress)):
            interpreter.settle(time.monotonic() - self._start)
        self._talk.event(event)
        for file in self._files:
            file(event)

    def note(self, line: str) -> None:
        """Say a line on stderr, unless quiet; the log has it in any case."""
        self._talk.note(line)
        for file in self._files:
            file.note(line)

    def result(self, schema: str, data: dict[str, Any], lines: Sequence[str]) -> None:
        """Print the result: one JSON object with --json, else the lines."""
        self._talk.stop()
        if self.settings.json:
            write_result(redact(dump_json({"schema": schema, **data})) + "\n")
        else:
            write_result("".join(f"{printable(line)}\n" for line in lines))

    def document(self, data: dict[str, Any]) -> None:
        """Print a JSON document that is a result itself, for people and programs alike."""
        self._talk.stop()
        write_result(dump_json(data) + "\n")


def require_addresses() -> None:
    """Raise ResourceError where a limit on addresses (ulimit -v) is too small for NumPy, which would end the process.

    With a limit, its linear algebra gets one thread: it reserves tens of megabytes for each.
    """
    limit = address_limit()
    if limit is None:
        return
    if limit < LEAST_ADDRESSES:
        what = f"the limit on memory (ulimit -v) is {size(limit)}, quantkit needs {size(LEAST_ADDRESSES)} to start"
        raise ResourceError(what, hint="raise the limit: ulimit -v unlimited")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def let_waiting_threads_sleep() -> None:
    """Keep the threads of OpenMP (numba's and torch's) from spinning between two tasks, unless the user says otherwise.

    Spinning takes the cores from other work, and gains nothing here. Read when OpenMP is loaded, with numba or torch.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def with_session(function: Callable[..., None], called: str | None = None) -> Callable[..., None]:
    """Make a Typer command of `function(session, ...)`.

    `called` is what events call it, by default the function's. The session's own options (Settings) come last.
    A parameter annotated with a dataclass becomes the options that the dataclass's annotated fields describe, so that
    commands share them without repeating them.
    """
    hints = get_type_hints(function, include_extras=True)
    names = [name for name in inspect.signature(function).parameters if name != "session"]
    defaults = {n: p.default for n, p in inspect.signature(function).parameters.items()}
    groups = {name: hints[name] for name in names if is_dataclass(hints[name])}
    parameters = [inspect.Parameter("invocation", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for name in names:
        if name in groups:
            parameters += _options(groups[name])
        else:
            parameters.append(_option(name, defaults[name], hints[name]))
    parameters += _options(Settings)

    def run(invocation: typer.Context, **values: Any) -> None:
        configuration = invocation.meta.get(CONFIGURATION, Configuration())
        used = configured(configuration, invocation)
        given = (*(invocation.obj or ()), *(word for setting, words in used for word in words))
        with Session(_take(Settings, values), called or function.__name__, given, configuration) as session:
            for setting, _ in used:
                session.note(f" config    {setting.words}")
            function(session, **{name: _take(group, values) for name, group in groups.items()}, **values)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def configured(found: Configuration, invocation: typer.Context) -> list[tuple[Setting, tuple[str, ...]]]:
    """The defaults that count in this invocation, and what stands for them on a command line: whoever reads the record
    of a run sees all of its options."""
    path: tuple[str, ...] = ()
    context: Any = invocation
    while context.parent is not None:
        path, context = (context.info_name, *path), context.parent
    used = []
    for parameter in invocation.command.params:
        source = invocation.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "DEFAULT_MAP":
            option = max(parameter.opts, key=len)
            setting = found.of(path, option.removeprefix("--").replace("-", "_"))
            if setting is not None:
                used.append((setting, _as_words(parameter, option, setting.value)))
    return used


def _as_words(parameter: Any, option: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return (option,) if value else tuple(parameter.secondary_opts[:1])
    values = value if isinstance(value, list) else [value]
    return tuple(word for each in values for word in (option, str(each)))


def _options(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        _option(f.name, inspect.Parameter.empty if f.default is MISSING else f.default, hints[f.name])
        for f in fields(group)
    ]


def _option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _take(group: Any, values: dict[str, Any]) -> Any:
    """Build the dataclass from its fields' values, removing them from `values`."""
    return group(**{f.name: values.pop(f.name) for f in fields(group)})
