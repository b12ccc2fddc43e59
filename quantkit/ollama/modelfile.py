"""Ollama's Modelfile: written so that its parser gives the same values back, and read as that parser reads it.

The grammar is that of parser/parser.go of Ollama: an instruction and its argument; an argument may be enclosed in "..."
or in three quotes, nothing in it is escaped, characters that are not printable (Go's strconv.IsPrint) but line ends,
spaces and tabs are lost. The last line is a comment with the hash of all before it: a file that nobody changed is told
from one that a person wrote or edited.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping

from quantkit.records import record
from quantkit.version import __version__

MARK = re.compile(rb"# quantkit modelfile ([0-9a-f]{64})\n\Z")
QUOTES = '"""'
COMMANDS = frozenset(
    {"from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
     "requires"}
)  # fmt: skip
KEPT_BLANKS = " \t\n"


@record
class Modelfile:
    """The instructions. `origin` are paths or a name for FROM; numbers of `parameters` are written as they are.

    `said` are comments for whoever reads the file.
    """

    origin: tuple[str, ...]
    adapter: str | None = None
    template: str | None = None
    system: str | None = None
    stops: tuple[str, ...] = ()
    parameters: Mapping[str, int | float] | None = None
    license: str | None = None
    said: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The file as UTF-8, with the hash of itself as its last line."""
        data = "\n".join([*self._lines(), ""]).encode("utf-8")
        return data + f"# quantkit modelfile {hashlib.sha256(data).hexdigest()}\n".encode()

    def _lines(self) -> Iterator[str]:
        yield f"# Written by quantkit {__version__}"
        yield from (f"# {_one_line(sentence)}" for sentence in self.said)
        yield from (f"FROM {path}" for path in self.origin)
        if self.adapter is not None:
            yield f"ADAPTER {self.adapter}"
        for name, text in (("TEMPLATE", self.template), ("SYSTEM", self.system)):
            if text:
                yield f"{name} {QUOTES}{text}{QUOTES}"
        yield from (f"PARAMETER stop {_quoted(stop)}" for stop in self.stops)
        yield from (f"PARAMETER {name} {value:.6g}" for name, value in (self.parameters or {}).items())
        if self.license:
            yield f"LICENSE {QUOTES}{self.license}{QUOTES}"


def keeps(text: str) -> bool:
    """Whether Ollama's parser gives a text back as it is between three quotes."""
    return QUOTES not in text and all(
        character in KEPT_BLANKS or " " <= character <= "~" or unicodedata.category(character)[0] in "LMNPS"
        for character in text
    )


def keeps_line(text: str) -> bool:
    """The same of a text in one line."""
    return keeps(text) and "\n" not in text


def unchanged(data: bytes) -> bool:
    """Whether a file is a Modelfile that quantkit wrote and nobody edited."""
    found = MARK.search(data)
    return found is not None and hashlib.sha256(data[: found.start()]).hexdigest().encode() == found[1]


def _one_line(text: str) -> str:
    return "".join(c if c == " " or unicodedata.category(c)[0] in "LMNPS" else " " for c in text)


def _quoted(text: str) -> str:
    return f"{QUOTES}{text}{QUOTES}" if '"' in text else f'"{text}"'


# --- reading ----------------------------------------------------------------------------------------------------------


class ModelfileError(ValueError):
    """What Ollama's parser refuses."""


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """(instruction, argument) in their order: "from", "template", "stop" and other names of parameters.

    Raises ModelfileError as Ollama would stop.
    """
    found: list[tuple[str, str]] = []
    lines = iter(re.split(r"(?<=[\n\r])", text))
    for line in lines:
        bare = line.strip(" \t\r\n")
        if not bare or bare.startswith("#"):
            continue
        command, _, argument = line.lstrip(" \t").partition(" ")
        command = command.lower()
        if command not in COMMANDS:
            raise ModelfileError(f"no instruction: {bare[:20]!r}")
        if command == "parameter":
            command, _, argument = argument.lstrip(" \t").partition(" ")
        while (value := _unquoted(argument.strip())) is None:
            more = next(lines, "")
            if not more:
                raise ModelfileError("unexpected end of file")
            argument += more
        found.append((command, value))
    if all(name != "from" for name, _ in found):
        raise ModelfileError("no FROM line")
    return found


def _unquoted(text: str) -> str | None:
    """The argument without its quotes; None where they are not closed yet."""
    for quotes in (QUOTES, '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text
