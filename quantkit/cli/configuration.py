"""Defaults for options from quantkit.toml, pyproject.toml and QUANTKIT_* variables, and where each is from.

    command line  >  QUANTKIT_CONVERT_CALIB  >  QUANTKIT_CALIB  >  [convert] calib  >  calib  >  built in

They become Typer's defaults of the options (`default_map`) in one place, for all commands: no option knows of them.
What writes over files, runs code or decides who reads the output is never taken from them, nor are secrets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from quantkit.cli.redaction import printable, redact
from quantkit.errors import UsageError, did_you_mean
from quantkit.records import record

FILE, PROJECT = "quantkit.toml", "pyproject.toml"
PREFIX, OFF, NAMED = "QUANTKIT_", "QUANTKIT_NO_CONFIG", "QUANTKIT_CONFIG"
# Variables that are none; the password of a key stands in the environment alone.
NO_OPTIONS = frozenset({OFF, NAMED, "QUANTKIT_FAULT", "QUANTKIT_TRUST_TEMPLATES", "QUANTKIT_SIGN_PASSWORD"})
SWITCH = "--no-config"
CONFIGURATION = "quantkit.configuration"  # of the context of a command line
MAX_BYTES, LONGEST = 1 << 20, 200
NEVER = {
    "force": "replaces what is there", "dry_run": "decides whether anything is done", "json": "is for whoever reads",
    "run_code": "runs code", "fetch_tasks": "fetches what may hold code", "tasks_from": "names what may hold code",
    "no_config": "turns this off", "help": "is no setting", "version": "is no setting",
    "install_completion": "is no setting", "show_completion": "is no setting",
}  # fmt: skip
# Not for a file that came with somebody's repository. What a scheduler of Dask answers is unpickled by its client.
NOT_IN_FILES = {
    **dict.fromkeys(("log_file", "events", "append", "summary", "junit", "html"), "is written to wherever it says"),
    "scheduler": "can run code here", "tls_ca": "says who may run code here",
}  # fmt: skip
SECRET = re.compile(r"token|secret|passw|api_?key|credential|private_?key", re.IGNORECASE)
SOUND = frozenset({"tokens", "prompt_tokens"})  # options that only look like secrets
SEVERAL = frozenset({"texts", "paths"})  # kinds of options that can be repeated
# Texts that may name files, or something else: those that do are of the folder of the file that names them.
MAYBE_FILES = frozenset(
    {"calib", "eval_data", "data", "adapter", "base", "against", "against_quantized", "to", "prompts"}
)
YES, NO = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


@record
class Setting:
    """A default that is not built in: of one command, or of all that have the option. `origin` says where it stands."""

    command: tuple[str, ...]
    key: str
    value: Any
    origin: str

    @property
    def words(self) -> str:
        name = ".".join((*self.command, self.key))
        return f"{name} = {_words(self.value)}  ({self.origin})"


@record
class Configuration:
    """All of them, in rising precedence, and the same as Typer takes them."""

    settings: tuple[Setting, ...] = ()
    defaults: Mapping[str, Any] | None = None
    off: bool = False

    def of(self, command: tuple[str, ...], parameter: str) -> Setting | None:
        """The one that counts for an option of a command, by the name of its parameter."""
        found = [s for s in self.settings if s.command in ((), command) and s.key == parameter]
        return found[-1] if found else None


def _shown(text: Path | str) -> str:
    """For messages: short, without secrets and control characters."""
    return printable(str(text)[:LONGEST])


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- what there is to set ---------------------------------------------------------------------------------------------


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    members = getattr(command, "commands", None)
    if members is None:
        yield path, command
        return
    for name, member in members.items():
        yield from _commands(member, (*path, name))


class _Options:
    """The options of all commands, by their keys: the long name with underscores."""

    def __init__(self, root: Any) -> None:
        self.of: dict[tuple[str, ...], dict[str, Any]] = {}
        for path, command in _commands(root):
            named = ((_key(parameter), parameter) for parameter in command.params)
            self.of[path] = {key: parameter for key, parameter in named if key is not None}
        self.keys = {key for options in self.of.values() for key in options}
        self.groups = {path[:end] for path in self.of for end in range(1, len(path))}

    def split(self, name: str) -> tuple[tuple[str, ...], str]:
        """The command and the key that a variable means: convert_calib is the option calib of convert."""
        if name in self.keys:
            return (), name
        prefixes = {path: "_".join(path).replace("-", "_") + "_" for path in self.of}
        command = max((p for p, prefix in prefixes.items() if name.startswith(prefix)), key=len, default=())
        return command, name.removeprefix(prefixes[command]) if command else name

    def users(self, command: tuple[str, ...], key: str) -> list[tuple[tuple[str, ...], Any]]:
        """The commands that have an option, of one or of all, and it."""
        return [(p, o[key]) for p, o in self.of.items() if key in o and (not command or p == command)]


def _key(parameter: Any) -> str | None:
    """The key of an option; None for an argument."""
    longest = max(parameter.opts, key=len)
    return longest.removeprefix("--").replace("-", "_") if longest.startswith("--") else None


# --- from where -------------------------------------------------------------------------------------------------------


def configure(root: Callable[[], Any], arguments: tuple[str, ...] | list[str]) -> Configuration:
    """The defaults of this command line; `root` gives all commands, where there is something to be read. Raises
    UsageError, naming file and line or variable, for what is unknown, of another type, or a secret."""
    if SWITCH in arguments or os.environ.get(OFF):
        return Configuration(off=True)
    if not arguments or {"--help", "-h"} & {*arguments}:  # help helps, whatever a file says
        return Configuration()
    path = _find()
    variables = [name for name in os.environ if name.startswith(PREFIX) and name not in NO_OPTIONS]
    if path is None and not variables:
        return Configuration()
    options = _Options(root())
    settings = [*(() if path is None else _of_file(path, options)), *_of_variables(sorted(variables), options)]
    return Configuration(tuple(settings), _defaults(settings, options))


def _find() -> Path | None:
    """The file: the one that QUANTKIT_CONFIG names, else the nearest in this folder or one around it, up to the root
    of the repository or the home. Outside of both only this folder is looked at: others may write above it."""
    named = os.environ.get(NAMED)
    if named:
        if not os.path.isfile(named):  # noqa: PTH113 - Path raises for names that are too long, or not to be looked up
            raise UsageError(f"{NAMED}: {_shown(named)} is no file", hint="unset it, or name one", key=NAMED)
        return Path(named)
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # removed meanwhile
        return None
    home = os.path.expanduser("~")  # noqa: PTH111 - a user without one has none
    above = [folder, *folder.parents]
    ends = [n for n, each in enumerate(above) if os.path.exists(each / ".git") or str(each) == home]  # noqa: PTH110
    for each in above[: ends[0] + 1 if ends else 1]:
        if os.path.isfile(each / FILE):  # noqa: PTH113
            return each / FILE
        if os.path.isfile(each / PROJECT) and "quantkit" in _tool(each / PROJECT):  # noqa: PTH113
            return each / PROJECT
    return None


def _text(path: Path) -> str:
    """A file as text. Raises UsageError for one that cannot be read, or is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{_shown(path)} cannot be read: {error.strerror}", hint=f"or run with {SWITCH}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{_shown(path)} is larger than {MAX_BYTES:,} bytes", hint=f"or run with {SWITCH}")
    return data.decode("utf-8-sig", "replace")


def _parsed(path: Path) -> dict[str, Any]:
    import tomllib  # few have such a file

    try:
        return tomllib.loads(_text(path))
    except (ValueError, RecursionError) as error:  # also for numbers of thousands of digits
        what = f"{_shown(path)} is not TOML: {_shown(str(error))}"
        raise UsageError(what, path=str(path), hint=f"or run with {SWITCH}") from error


def _tool(path: Path) -> Mapping[str, Any]:
    """The tools of a pyproject.toml; none of one that is damaged, which is somebody else's affair."""
    try:
        found = _parsed(path).get("tool", {})
    except UsageError:
        return {}
    return found if isinstance(found, dict) else {}


def _of_file(path: Path, options: _Options) -> Iterator[Setting]:
    """What a file sets: for all commands first, then for single ones."""
    of_project = path.name == PROJECT
    found = _tool(path)["quantkit"] if of_project else _parsed(path)
    place = _Place(path, _text(path).splitlines(), ("tool", "quantkit") if of_project else ())
    if not isinstance(found, dict):
        raise UsageError(f"{place.at((), '')}: tool.quantkit is no table", path=str(path))
    yield from _of_table(found, (), place, options)


@record
class _Place:
    """A file, for messages: the line on which a key stands."""

    path: Path
    lines: list[str]
    prefix: tuple[str, ...]

    def at(self, command: tuple[str, ...], key: str) -> str:
        """FILE:LINE of a key, FILE where it stands in a way of its own."""
        table: tuple[str, ...] = ()
        wanted = (*self.prefix, *command)
        for number, line in enumerate(self.lines, 1):
            if header := re.fullmatch(r"\s*\[([^\[\]]+)\]\s*(#.*)?", line):
                table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
                if table == (*wanted, key):
                    return f"{_shown(self.path)}:{number}"
            elif table == wanted and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return f"{_shown(self.path)}:{number}"
        return _shown(self.path)


def _of_table(
    table: Mapping[str, Any], command: tuple[str, ...], place: _Place, options: _Options
) -> Iterator[Setting]:
    for name, value in sorted(table.items(), key=lambda item: isinstance(item[1], dict)):
        where = place.at(command, name)
        below = (*command, name)
        if isinstance(value, dict) and (below in options.of or below in options.groups):
            yield from _of_table(value, below, place, options)
            continue
        key = _known(name, command, where, options)
        if key in NOT_IN_FILES:
            what = f"{where}: {name} {NOT_IN_FILES[key]}, and is not taken from a file"
            raise UsageError(what, key=name, hint="give it on the command line, or as a variable")
        yield Setting(command, key, _checked(value, key, where, options.users(command, key), place.path.parent), where)


def _of_variables(names: list[str], options: _Options) -> Iterator[Setting]:
    """What variables set: those for all commands first."""
    found = []
    for name in names:
        rest = name.removeprefix(PREFIX).lower()
        command, key = options.split(rest)
        if not (command or rest in options.keys or SECRET.search(rest) or did_you_mean(rest, options.keys)):
            continue  # somebody else's
        key = _known(key, command, name, options)
        value = _read(os.environ[name], options.users(command, key))
        found.append(Setting(command, key, _checked(value, key, name, options.users(command, key), None), name))
    yield from sorted(found, key=lambda setting: len(setting.command))


# --- what may be set --------------------------------------------------------------------------------------------------


def _known(name: str, command: tuple[str, ...], where: str, options: _Options) -> str:
    """The key of an option. Raises UsageError for one that does not exist, may not be set, or is a secret."""
    key = name.replace("-", "_")
    if SECRET.search(key) and key not in SOUND:
        what = f"{where}: {_shown(name)} looks like a secret, which no configuration holds"
        hint = "take it out, and change it if others saw it; use HF_TOKEN, or hf auth login"
        raise UsageError(what, key=name, hint=hint)
    if key in NEVER:
        what = f"{where}: {name} {NEVER[key]}, and is not taken from a configuration"
        raise UsageError(what, key=name, hint="give it on the command line")
    known = options.of.get(command, {} if command else options.keys)
    if key not in known:
        tables = {path[len(command)] for path in options.of if path != command and path[: len(command)] == command}
        near = did_you_mean(key, {*(k for k in known if k not in NEVER), *tables})
        whose = f"{' '.join(command)} has no option" if command else "there is no option"
        raise UsageError(f"{where}: {whose} {_shown(name)}{near}", key=name, hint="see quantkit COMMAND --help")
    return key


def _read(text: str, users: list[tuple[tuple[str, ...], Any]]) -> Any:
    """The value of a variable: several are one a line."""
    kinds = {_kind(parameter) for _, parameter in users}
    if kinds == {"flag"} and text.lower() in YES | NO:
        return text.lower() in YES
    if kinds & SEVERAL:
        lines = [line for line in text.splitlines() if line]
        return lines[0] if len(lines) == 1 else lines
    for kind, make in (("whole", int), ("number", float)):
        if kinds == {kind}:
            try:
                return make(text)
            except ValueError:
                return text
    return text


def _kind(parameter: Any) -> str:
    if parameter.is_flag:
        return "flag"
    if parameter.multiple:
        return "paths" if parameter.type_descriptor.annotation == list[Path] else "texts"
    return {int: "whole", float: "number", Path: "path"}.get(parameter.type_descriptor.annotation, "text")


def _checked(value: Any, key: str, where: str, users: list[tuple[tuple[str, ...], Any]], folder: Path | None) -> Any:
    """A value as options take it, paths made those of `folder`. Raises UsageError for one of another type."""
    said = _flat(value)
    if redact(said) != said:
        what = f"{where}: the value of {key} holds a secret, which no configuration does"
        raise UsageError(what, key=key, hint="take it out, and change it if others saw it")
    for _, parameter in users:
        kind = _kind(parameter)
        wanted, good = {
            "flag": ("true or false", isinstance(value, bool)),
            "texts": ("a string or an array of strings", _texts(value)),
            "paths": ("a string or an array of strings", _texts(value)),
            "whole": ("an integer", type(value) is int),
            "number": ("a number", type(value) in (int, float)),
            "path": ("a string", isinstance(value, str)),
            "text": ("a string", isinstance(value, str)),
        }[kind]
        if not good:
            raise UsageError(f"{where}: {key} = {_shown(said)}: {wanted} is wanted", key=key)
        least = parameter.min
        if least is not None and value < least:
            raise UsageError(f"{where}: {key} = {value}: at least {least} is wanted", key=key)
    kinds = {_kind(parameter) for _, parameter in users}
    if folder is not None and kinds & {"path", "paths"}:
        value = [_beside(each, folder) for each in value] if isinstance(value, list) else _beside(value, folder)
    elif folder is not None and key in MAYBE_FILES and kinds <= {"text", "texts"}:
        value = [_placed(each, folder) for each in value] if isinstance(value, list) else _placed(value, folder)
    return value


def _flat(value: Any) -> str:
    """A value as text, a table of any depth by that word: none is one."""
    if isinstance(value, list):
        return ", ".join("a table" if isinstance(each, dict | list) else _words(each) for each in value)
    return "a table" if isinstance(value, dict) else _words(value)


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _beside(path: str, folder: Path) -> str:
    return str(folder / os.path.expanduser(path))  # noqa: PTH111 - "~" of no user is a name like others


def _placed(text: str, folder: Path) -> str:
    """What may be the path of a file, made one of `folder` if it is that."""
    there = folder / text
    return str(there) if "://" not in text and os.path.exists(there) else text  # noqa: PTH110 - any text, any length


def _defaults(settings: list[Setting], options: _Options) -> dict[str, Any]:
    """Nested as commands are, by the names of parameters. Settings come in rising precedence: the last one counts."""
    defaults: dict[str, Any] = {}
    for setting in settings:
        for path, parameter in options.users(setting.command, setting.key):
            table = defaults
            for name in path:
                table = table.setdefault(name, {})
            several = _kind(parameter) == "texts" and isinstance(setting.value, str)
            table[parameter.name] = [setting.value] if several else setting.value
    return defaults
