"""Whether a template of Ollama's gives the texts of a chat template, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.ollama.asking import DATE, Texts
from quantkit.ollama.conversations import Talk
from quantkit.ollama.gotemplate import GoTemplate, TemplateError
from quantkit.records import record

SHOWN = 40


@record
class Difference:
    """A conversation of which the two templates make different texts, from where they differ."""

    talk: Talk
    expected: str
    found: str

    def words(self) -> str:
        at = _differ(self.expected, self.found)
        expected, found = (repr(text[at : at + SHOWN]) for text in (self.expected, self.found))
        return f"{self.talk.named()}: {expected} by the chat template, {found} by Ollama's, after {at:,} characters"


@record
class Proof:
    """`same` conversations gave the same text; `differ` are the others."""

    same: int
    differ: tuple[Difference, ...]


def values_of(talk: Talk) -> dict[str, Any]:
    """What Ollama hands to a template (template/template.go, Execute): all messages, and what the system says."""
    messages = [{"Role": m.role, "Content": m.content} for m in talk.messages]
    return {"System": talk.system, "Messages": messages, "Response": ""}


def prove(template: GoTemplate, texts: Texts, talks: Sequence[Talk]) -> Proof:
    """Compare the texts of these conversations; those for which the chat template raises are no case."""
    same, differ = 0, []
    for talk in talks:
        if talk not in texts.found:
            continue
        try:
            found = template.render(values_of(talk), {"currentDate": lambda: DATE})
        except TemplateError as error:
            found = f"<{error}>"
        if found == texts.found[talk]:
            same += 1
        else:
            differ.append(Difference(talk, texts.found[talk], found))
    return Proof(same, tuple(differ))


def first_of_each_case(differ: Sequence[Difference]) -> Mapping[str, Difference]:
    """Case -> the first conversation of it that differs."""
    found: dict[str, Difference] = {}
    for each in differ:
        found.setdefault(each.talk.case, each)
    return found


def _differ(one: str, other: str) -> int:
    """The position of the first difference."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
