"""A strict reader of the part of Go's text/template that quantkit writes: what it does not know is an error.

https://pkg.go.dev/text/template: text, {{ and {{- , strings, numbers, variables, fields, if, else if, else, range with
two variables, end, and the functions eq, ne, not, len, slice and Ollama's currentDate. Values are texts, numbers, truth
values, lists and mappings of fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantkit.records import record

ACTION = re.compile(r"\{\{(?P<trim>-(?=\s))?(?P<code>(?:[^{}\"]|\"(?:[^\"\\\n]|\\.)*\")*?)\}\}", re.DOTALL)
WORD = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<number>-?\d+)|(?P<sign>:=|=|[(),])'
    r"|(?P<variable>\$\w*(?:\.\w+)*)|(?P<field>(?:\.\w+)+)|(?P<name>\w+))"
)
STRING_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))")
SHORT = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"'}
BLANKS = " \t\r\n"
Value = Any
Scope = dict[str, Value]


class TemplateError(ValueError):
    """A template that Go refuses, or that is beyond what is known here."""


@record
class Call:
    """A function or value: `name` is "string", "number", "variable" or "field" for a value."""

    name: str
    value: Value = None
    arguments: tuple[Call, ...] = ()


@record
class Print:
    """{{ VALUE }}"""

    value: Call


@record
class Assign:
    """{{ $name := VALUE }} and {{ $name = VALUE }}"""

    variable: str
    value: Call
    declares: bool


@dataclass
class Branch:
    """{{ if VALUE }} or {{ range $i, $m := VALUE }} with what stands in it and behind its else."""

    value: Call
    variables: tuple[str, ...] = ()
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)


Node = str | Print | Assign | Branch


@record
class GoTemplate:
    """A template that was read."""

    nodes: Sequence[Node]

    def render(self, values: Mapping[str, Value], functions: Mapping[str, Callable[..., Value]] | None = None) -> str:
        """The text for these values. Raises TemplateError for what Go would stop at."""
        known: dict[str, Callable[..., Value]] = {**FUNCTIONS, **(functions or {})}
        return "".join(_run(self.nodes, values, [{"$": values}], known))


def parse(text: str) -> GoTemplate:
    """Read a template. Raises TemplateError."""
    nodes: list[Node] = []
    open_branches: list[tuple[Branch, list[Node]]] = []  # with where their siblings go
    into = nodes
    for piece in _pieces(text):
        if isinstance(piece, str):
            if piece:
                into.append(piece)
            continue
        words = piece
        keyword = words[0][1] if words and words[0][0] == "name" else ""
        if keyword == "end":
            _require(len(words) == 1 and bool(open_branches), "end without if or range")
            into = _close(open_branches)
        elif keyword == "else":
            _require(bool(open_branches) and not open_branches[-1][0].variables, "else without if")
            branch, siblings = open_branches[-1]
            into = branch.otherwise
            if len(words) > 1:
                _require(words[1] == ("name", "if"), "else with something else than if")
                inner = Branch(_whole(words[2:]))
                into.append(inner)
                open_branches[-1] = (inner, siblings)
                into = inner.body
        elif keyword in ("if", "range"):
            branch = _opened(keyword, words[1:])
            into.append(branch)
            open_branches.append((branch, into))
            into = branch.body
        else:
            into.append(_statement(words))
    _require(not open_branches, "an if or range has no end")
    return GoTemplate(nodes)


def _close(open_branches: list[tuple[Branch, list[Node]]]) -> list[Node]:
    return open_branches.pop()[1]


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise TemplateError(what)


Word = tuple[str, str]


def _pieces(text: str) -> Iterator[str | list[Word]]:
    """Text and the words of actions, in turn."""
    at = 0
    while (start := text.find("{{", at)) >= 0:
        match = ACTION.match(text, start)
        if match is None:
            raise TemplateError(f"an action at {start} that is not known")
        before = text[at:start]
        yield before.rstrip(BLANKS) if match["trim"] else before
        yield list(_words(match["code"]))
        at = match.end()
    yield text[at:]


def _words(code: str) -> Iterator[Word]:
    at, code = 0, code.rstrip()
    while at < len(code):
        match = WORD.match(code, at)
        if match is None:
            raise TemplateError(f"cannot read {code[at : at + 20]!r}")
        kind = match.lastgroup or ""
        yield kind, match[kind]
        at = match.end()


def _opened(keyword: str, words: list[Word]) -> Branch:
    if keyword == "if":
        return Branch(_whole(words))
    kinds = [kind for kind, _ in words[:4]]
    _require(
        kinds == ["variable", "sign", "variable", "sign"] and words[1][1] == "," and words[3][1] == ":=",
        "range without two variables",
    )
    return Branch(_whole(words[4:]), (words[0][1], words[2][1]))


def _statement(words: list[Word]) -> Node:
    if len(words) > 2 and words[0][0] == "variable" and words[1] in (("sign", ":="), ("sign", "=")):
        return Assign(words[0][1], _whole(words[2:]), words[1][1] == ":=")
    return Print(_whole(words))


def _whole(words: list[Word]) -> Call:
    call, rest = _call(words)
    _require(not rest, "more than one value")
    return call


def _call(words: list[Word]) -> tuple[Call, list[Word]]:
    """A function with its arguments, or one value."""
    _require(bool(words), "a value is missing")
    if words[0][0] != "name":
        return _value(words)
    name, rest = words[0][1], words[1:]
    if name in ("true", "false"):
        return _value(words)
    arguments = []
    while rest and rest[0] != ("sign", ")"):
        argument, rest = _value(rest)
        arguments.append(argument)
    return Call(name, None, tuple(arguments)), rest


def _value(words: list[Word]) -> tuple[Call, list[Word]]:
    (kind, word), rest = words[0], words[1:]
    if (kind, word) == ("sign", "("):
        call, rest = _call(rest)
        _require(bool(rest) and rest[0] == ("sign", ")"), "a bracket is not closed")
        return call, rest[1:]
    if kind == "string":
        return Call("string", STRING_ESCAPE.sub(_unescaped, word[1:-1])), rest
    if kind == "number":
        return Call("number", int(word)), rest
    if word in ("true", "false"):
        return Call("number", word == "true"), rest
    if kind in ("variable", "field"):
        return Call(kind, word), rest
    return Call(word), rest  # a function without arguments


def _unescaped(match: re.Match[str]) -> str:
    number = match[1] or match[2] or match[3]
    if number:
        return chr(int(number, 16))
    _require(match[4] in SHORT, f"an escape that is not known: {match[0]}")
    return SHORT[match[4]]


# --- running ----------------------------------------------------------------------------------------------------------


def _run(
    nodes: Sequence[Node], dot: Value, scopes: list[Scope], known: Mapping[str, Callable[..., Value]]
) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, Print):
            yield _printed(_evaluate(node.value, dot, scopes, known))
        elif isinstance(node, Assign):
            value = _evaluate(node.value, dot, scopes, known)
            scope = scopes[-1] if node.declares else _holding(scopes, node.variable)
            scope[node.variable] = value
        elif not node.variables:
            chosen = node.body if _truth(_evaluate(node.value, dot, scopes, known)) else node.otherwise
            yield from _run(chosen, dot, [*scopes, {}], known)
        else:
            for number, element in enumerate(_evaluate(node.value, dot, scopes, known)):
                inner = dict(zip(node.variables, (number, element), strict=True))
                yield from _run(node.body, element, [*scopes, inner, {}], known)


def _holding(scopes: Sequence[Scope], variable: str) -> Scope:
    for scope in reversed(scopes):
        if variable in scope:
            return scope
    raise TemplateError(f"undefined variable {variable}")


def _evaluate(call: Call, dot: Value, scopes: list[Scope], known: Mapping[str, Callable[..., Value]]) -> Value:
    if call.name in ("string", "number"):
        return call.value
    if call.name == "field":
        return _field(dot, call.value.split(".")[1:])
    if call.name == "variable":
        name, *fields = call.value.split(".")
        return _field(_holding(scopes, name)[name], fields)
    _require(call.name in known, f'function "{call.name}" not defined')
    return known[call.name](*(_evaluate(argument, dot, scopes, known) for argument in call.arguments))


def _field(value: Value, names: Sequence[str]) -> Value:
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            raise TemplateError(f"no field {name}")
        value = value[name]
    return value


def _truth(value: Value) -> bool:
    return bool(value)


def _printed(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int):
        raise TemplateError("a list is printed")
    return str(value)


def _equal(first: Value, *others: Value) -> bool:
    _require(bool(others), "eq of one value")
    if any(type(first) is not type(other) for other in others):
        raise TemplateError("incompatible types for comparison")
    return any(first == other for other in others)


def _slice(value: Sequence[Value], start: int) -> Sequence[Value]:
    _require(0 <= start <= len(value), "index out of range")
    return value[start:]


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "eq": _equal,
    "ne": lambda first, second: not _equal(first, second),
    "not": lambda value: not _truth(value),
    "len": len,
    "slice": _slice,
}
