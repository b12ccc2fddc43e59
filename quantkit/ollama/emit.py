"""A shape as a template of Go's text/template, with the fields that Ollama gives templates.

Lines begin with "{{-", which takes white space before it away; what white space belongs to the text is written as a
string: {{ "\\n" }}. So are characters that a Modelfile would lose or end at, and what Go would take for code.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from quantkit.ollama.asking import DATE
from quantkit.ollama.conversations import ASSISTANT, SYSTEM, USER
from quantkit.ollama.shape import END, START, SYSTEM_TEXT, Gap, Shape, changed, common_end, common_start, leaves
from quantkit.records import record

ROLES = (SYSTEM, USER, ASSISTANT)
ASKED = {"system": "$.System", "last": "$last", "final": "eq $i $final", "later": "$later"}
FIELDS = {SYSTEM_TEXT: "{{ $.System }}", DATE: "{{ currentDate }}"}
FIELD = re.compile("|".join(map(re.escape, FIELDS)))
BLANKS = " \t\r\n"  # what "{{-" takes away


@record
class Code:
    """What stands between {{ and }}. `line`: it begins a line of its own."""

    text: str
    line: bool = False


Node = str | Code


def go_template(shape: Shape) -> str:
    """The template's text: it renders what the shape was recovered from, and whether the rest is to be proved."""
    split = _split(shape)
    nodes: list[Node] = [Code('$prev := ""', line=True)]
    if "later" in shape.questions:
        nodes.append(Code("$later := false", line=True))
    if "final" in shape.questions:
        nodes.append(Code("$final := -1", line=True))
        nodes += [Code("range $i, $_ := .Messages", line=True), Code('if eq .Role "user"'), Code("$final = $i")]
        nodes += [Code("end"), Code("end")]
    nodes += [split.head, Code("range $i, $_ := .Messages", line=True)]
    nodes.append(Code("$last := eq (len (slice $.Messages $i)) 1", line=True))
    roles = [role for role in ROLES if not (shape.apart and role == SYSTEM)]
    for number, role in enumerate(roles):
        word = "if" if number == 0 else "else if"
        nodes += [Code(f'{word} eq .Role "{role}"', line=True), *_lead(role, split), Code(".Content")]
        tail = split.tails.get(role, "")
        if tail and role == ASSISTANT:
            nodes += [Code("if not $last"), tail, Code("end")]
        else:
            nodes.append(tail)
        nodes.append(Code("$prev = .Role"))
        if role == ASSISTANT and "later" in shape.questions:
            nodes.append(Code("$later = true"))
    nodes += [Code("end", line=True), Code("end", line=True)]
    closing = split.rests.get((USER, END), "")
    if closing:
        nodes += [Code('if ne $prev "assistant"', line=True), *_gap(closing), Code("end")]
    return _written(nodes)


# --- where a gap is cut -----------------------------------------------------------------------------------------------


@record
class _Split:
    """Gaps cut into what closes a message, whatever follows, and the rest, which opens the next; `head` is the start
    of every text."""

    head: str
    tails: Mapping[str, str]
    rests: Mapping[tuple[str, str], Gap]


def _split(shape: Shape) -> _Split:
    """Any cut gives the same texts; this one is what a person would write."""
    tails = _tails(shape.gaps)
    head = _head(shape.gaps, tails)
    cut = {START: head, **tails}
    rests = {
        pair: changed(gap, lambda text, pair=pair: text[len(cut.get(pair[0], "")) :])  # type: ignore[misc]
        for pair, gap in shape.gaps.items()
    }
    return _Split(head, tails, rests)


def _tails(gaps: Mapping[tuple[str, str], Gap]) -> dict[str, str]:
    """Role -> what closes its messages."""
    after = {role: _leaves(gap for (before, _), gap in gaps.items() if before == role) for role in ROLES}
    shared = common_start([*after[USER], *after[ASSISTANT]])
    starts = _leaves(gap for (before, _), gap in gaps.items() if before == START)
    shared = shared[: len(shared) - _overlap(shared, starts)]
    if shared:
        return {role: shared for role, texts in after.items() if texts and all(t.startswith(shared) for t in texts)}
    opens_user = common_end([*_leaves([gaps.get((START, USER), "")]), *_leaves([gaps.get((ASSISTANT, USER), "")])])
    closes = common_start(after[ASSISTANT])
    return {
        USER: common_start(after[USER]),
        ASSISTANT: closes.removesuffix(opens_user) if opens_user else closes,
    }


def _leaves(gaps: Iterable[Gap]) -> list[str]:
    return [leaf for gap in gaps for leaf in leaves(gap)]


def _overlap(text: str, starts: Iterable[str]) -> int:
    """The longest end of a text with which one of `starts` begins."""
    starts = list(starts)
    return next((n for n in range(len(text), 0, -1) if any(s.startswith(text[-n:]) for s in starts)), 0)


def _head(gaps: Mapping[tuple[str, str], Gap], tails: Mapping[str, str]) -> str:
    """What every text begins with, if the rest of its first gap is what opens a message of the user anywhere."""
    first, again = gaps.get((START, USER), ""), gaps.get((ASSISTANT, USER), "")
    if not (isinstance(first, str) and isinstance(again, str)):
        return ""
    opens = again[len(tails.get(ASSISTANT, "")) :]
    head = first.removesuffix(opens) if opens else first
    starts = _leaves(gap for (before, _), gap in gaps.items() if before == START)
    fits = head + opens == first and all(text.startswith(head) for text in starts)
    return head if fits and SYSTEM_TEXT not in head and DATE not in head else ""


def _lead(role: str, split: _Split) -> list[Node]:
    """What opens a message: the same after most roles, and what differs after others by what came before."""
    rests = {before: gap for (before, after), gap in split.rests.items() if after == role}
    groups: dict[Gap, list[str]] = {}
    for before, gap in rests.items():
        groups.setdefault(gap, []).append(before)
    if not groups:
        return []
    usual = max(groups, key=lambda gap: (len(groups[gap]), START not in groups[gap]))
    others = [(gap, befores) for gap, befores in groups.items() if gap is not usual]
    if not others:
        return _gap(usual)
    shared = common_end(_leaves(groups))
    nodes: list[Node] = []
    for number, (gap, befores) in enumerate(others):
        asked = f"eq $prev {' '.join(f'{chr(34)}{before}{chr(34)}' for before in sorted(befores))}"
        nodes += [Code(f"{'else ' if number else ''}if {asked}"), *_gap(_cut(gap, shared))]
    written = _gap(_cut(usual, shared))
    return [*nodes, *([Code("else"), *written] if written else []), Code("end"), *_gap(shared)]


def _cut(gap: Gap, end: str) -> Gap:
    return changed(gap, lambda text: text.removesuffix(end)) if end else gap


def _gap(gap: Gap) -> list[Node]:
    if isinstance(gap, str):
        return [gap] if gap else []
    shared = common_end(leaves(gap))
    yes, no = _gap(_cut(gap.yes, shared)), _gap(_cut(gap.no, shared))
    asked = ASKED[gap.question]
    if not yes:
        yes, no, asked = no, yes, f"not {asked}" if asked.startswith("$") else asked.replace("eq", "ne", 1)
    return [Code(f"if {asked}"), *yes, *([Code("else"), *no] if no else []), Code("end"), *_gap(shared)]


# --- as text ----------------------------------------------------------------------------------------------------------


def _written(nodes: Iterable[Node]) -> str:
    """The nodes one after the other; text that stands before a line of code keeps its white space as a string."""
    pieces: list[str] = []
    for node in nodes:
        if isinstance(node, Code):
            if node.line and pieces:
                pieces.append(_guarded(pieces.pop()))
            pieces.append(
                f"\n{{{{- {node.text} }}}}" if node.line and pieces else f"{{{{{'-' * node.line} {node.text} }}}}"
            )
        elif node:
            pieces.append(_text(node))
    return _guarded("".join(pieces))


def _guarded(text: str) -> str:
    kept = text.rstrip(BLANKS)
    return kept + (_string(text[len(kept) :]) if len(kept) < len(text) else "")


def _text(text: str) -> str:
    """Text as a template has it."""
    at, pieces = 0, []
    for match in FIELD.finditer(text):
        pieces += [_plain(text[at : match.start()]), FIELDS[match[0]]]
        at = match.end()
    return "".join([*pieces, _plain(text[at:])])


def _plain(text: str) -> str:
    return re.sub(r'\{\{+|\{\Z|"{2,}|[^\x20-\x7e\n\t]+', lambda match: _kept(match[0]), text)


def _kept(text: str) -> str:
    """What a Modelfile keeps as it is, else a string: its parser drops what is not printable."""
    if '"' not in text and "{" not in text and all(unicodedata.category(c)[0] in "LMNPS" for c in text):
        return text
    return _string(text)


def _string(text: str) -> str:
    return '{{ "' + "".join(map(_escaped, text)) + '" }}'


def _escaped(character: str) -> str:
    plain = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", '"': "\\x22"}
    if character in plain:
        return plain[character]
    if " " <= character <= "~":
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
