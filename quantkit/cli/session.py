"""One run of a command: its global options, where its events go, and how its result leaves.

stdout is data (paths, tables, or one JSON object); stderr is talk.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import IO, Annotated, Any, get_type_hints

import typer

from quantkit.cli.render import Talk, events_file, printable
from quantkit.events import Event, Sink


@dataclass(frozen=True)
class Settings:
    """The options every command has. Annotations are what the command line shows."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A line for every tensor.")] = False
    plain: Annotated[bool, typer.Option("--plain", help="No colour, no live line.")] = False
    log_file: Annotated[Path | None, typer.Option("--log-file", help="Also write the notes to this file.")] = None
    events: Annotated[Path | None, typer.Option("--events", help="Write every event as JSON Lines.")] = None
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False


class Session:
    """Hands events to the terminal, the log and the events file; prints the result."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._talk = Talk(settings.quiet, settings.verbose, settings.plain)
        self._sinks: list[Sink] = [self._talk.event]
        self._files: list[IO[str]] = []
        if settings.events:
            self._files.append(events_file(settings.events))
            self._sinks.append(_json_lines(self._files[-1]))
        if settings.log_file:
            self._files.append(events_file(settings.log_file))
            self._sinks.append(Talk(quiet=False, verbose=True, plain=True, stream=self._files[-1]).event)

    def emit(self, event: Event) -> None:
        for sink in self._sinks:
            sink(event)

    def note(self, line: str) -> None:
        """Say a line on stderr, unless quiet."""
        self._talk.note(line)

    def result(self, schema: str, data: dict[str, Any], lines: Sequence[str]) -> None:
        """Print the result: one JSON object with --json, else the lines."""
        self._talk.stop()
        if self.settings.json:
            sys.stdout.write(json.dumps({"schema": schema, **data}, ensure_ascii=False) + "\n")
        else:
            sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
        sys.stdout.flush()

    def close(self) -> None:
        self._talk.stop()
        for file in self._files:
            file.close()


def _json_lines(file: IO[str]) -> Sink:
    def sink(event: Event) -> None:
        body = {"event": type(event).__name__, **{f.name: getattr(event, f.name) for f in fields(event)}}
        file.write(json.dumps(body) + "\n")
        file.flush()

    return sink


def with_session(function: Callable[..., None]) -> Callable[..., None]:
    """Make a Typer command of `function(session, ...)`.

    The session's own options (Settings) are added at the end. A parameter annotated with a dataclass becomes the
    options that the dataclass's annotated fields describe, so that commands share them without repeating them.
    """
    hints = get_type_hints(function, include_extras=True)
    names = [name for name in inspect.signature(function).parameters if name != "session"]
    defaults = {n: p.default for n, p in inspect.signature(function).parameters.items()}
    groups = {name: hints[name] for name in names if is_dataclass(hints[name])}
    parameters: list[inspect.Parameter] = []
    for name in names:
        if name in groups:
            parameters += _options(groups[name])
        else:
            parameters.append(_option(name, defaults[name], hints[name]))
    parameters += _options(Settings)

    def run(**values: Any) -> None:
        session = Session(_take(Settings, values))
        try:
            function(session, **{name: _take(group, values) for name, group in groups.items()}, **values)
        finally:
            session.close()

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


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
