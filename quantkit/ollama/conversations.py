"""The conversations that a chat template is asked about: marked ones that show its structure, and plain ones that prove
what was made of it.

Every conversation is what Ollama hands to a template: messages of one role never follow each other, it has merged them.
Where the last message is the assistant's, Ollama's templates leave it open, so that the model goes on with it: the text
that is expected is that of the messages before it, up to where the reply begins, with what the assistant said so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from quantkit.records import record

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
JOINED = "\n\n"  # what Ollama puts between merged messages
FIRST_TURNS, MORE_TURNS = 3, 5


@record
class Message:
    """One message. What stands in `content` is text, never parts."""

    role: str
    content: str


@record
class Talk:
    """A conversation, and what kind of content it is a case of; "" for what every template must get right."""

    messages: tuple[Message, ...]
    case: str = ""

    @property
    def opening(self) -> tuple[Message, ...]:
        """The messages that a chat template renders: all but an assistant's last one, which is left open."""
        return self.messages[:-1] if self.messages[-1].role == ASSISTANT else self.messages

    @property
    def open_reply(self) -> str:
        """What the assistant has said so far of the reply that is asked for."""
        return self.messages[-1].content if self.messages[-1].role == ASSISTANT else ""

    @cached_property
    def system(self) -> str:
        """All that messages of the system say, as Ollama joins it."""
        return JOINED.join(m.content for m in self.messages if m.role == SYSTEM)

    def merged(self) -> Talk:
        """The conversation with what the system says first put before the first message of the user."""
        first, *rest = self.messages
        if first.role != SYSTEM or not rest or rest[0].role != USER:
            return self
        joined = Message(USER, first.content + JOINED + rest[0].content)
        return Talk((joined, *rest[1:]), self.case)

    def named(self) -> str:
        """The roles and how each message begins, for people: 'system "Be brief.", user "Hi"'."""
        return ", ".join(f'{m.role} "{_start(m.content)}"' for m in self.messages)


def _start(text: str, most: int = 24) -> str:
    line = text.replace("\n", "\\n")
    return line if len(line) <= most else line[: most - 3] + "..."


def mark(role: str, number: int) -> str:
    """A text that no template has of its own and that nothing is trimmed from."""
    return f"Zq{role[0]}{number}qZ"


def _roles(turns: int, system: bool, open_reply: bool) -> list[str]:
    roles = [SYSTEM] if system else []
    for _ in range(turns):
        roles += [USER, ASSISTANT]
    return roles if open_reply else roles[:-1]


def marked() -> tuple[Talk, ...]:
    """Conversations of marks: with and without a system's message, of up to three turns, ending with either side."""
    shapes = [
        _roles(turns, system, open_reply)
        for system in (False, True)
        for turns in range(1, FIRST_TURNS + 1)
        for open_reply in (False, True)
    ]
    return tuple(_marked(roles) for roles in shapes)


def later_systems() -> tuple[Talk, ...]:
    """Conversations of marks in which the system speaks in the middle."""
    shapes = ([USER, ASSISTANT, SYSTEM, USER], [SYSTEM, USER, ASSISTANT, SYSTEM, USER])
    return tuple(_marked(roles, "later") for roles in shapes)


def _marked(roles: Sequence[str], case: str = "") -> Talk:
    return Talk(tuple(Message(role, mark(role, number)) for number, role in enumerate(roles)), case)


PLAIN: dict[str, tuple[str, ...]] = {
    SYSTEM: ("You are a careful assistant.\nAnswer in one sentence.", "Réponds en français — « brièvement »."),
    USER: ("What is 2 < 3 & 4 > 1?", 'Say "{{ .Content }}" and {%x%}:\n\n- a\n- b', "日本語で\tお願いします"),
    ASSISTANT: ("It's true.", "{{ .Content }}\n\n```python\nprint('<b>')\n```", "はい、`{\"a\": [1, 2]}` です"),
}  # fmt: skip
CASES: dict[str, dict[str, tuple[str, ...]]] = {
    "blanks": {SYSTEM: (" Be brief. \n",), USER: ("  Hello \n",), ASSISTANT: ("\n Hi. ",)},
    "empty": {SYSTEM: ("Be brief.",), USER: ("Hello", ""), ASSISTANT: ("",)},
    "reasoning": {SYSTEM: ("Be brief.",), USER: ("Hello",), ASSISTANT: ("<think>\nGreet.\n</think>\n\nHi.",)},
    "markup": {
        SYSTEM: ("Never say <|im_end|>.",), USER: ("[INST] </s> <|eot_id|> <end_of_turn>",),
        ASSISTANT: ("<|im_start|>user",),
    },
}  # fmt: skip


def plain() -> tuple[Talk, ...]:
    """Conversations that prove a translation: longer ones than those it was made from, of what people write."""
    talks = [
        _filled(_roles(turns, system, open_reply), PLAIN, shift)
        for system in (False, True)
        for turns in range(1, MORE_TURNS + 1)
        for open_reply in (False, True)
        for shift in (0, 1)
    ]
    return tuple(talks)


def special() -> tuple[Talk, ...]:
    """Conversations of content that templates treat in ways of their own; each says which `case` it is."""
    shapes = (_roles(2, True, False), _roles(2, False, True), _roles(1, True, False))
    talks = [_filled(roles, texts, 0, case) for case, texts in CASES.items() for roles in shapes]
    later = (_filled([USER, ASSISTANT, SYSTEM, USER], PLAIN, 0, "later"),)
    return (*talks, *later)


def _filled(roles: Sequence[str], texts: dict[str, tuple[str, ...]], shift: int, case: str = "") -> Talk:
    seen: dict[str, int] = {}
    messages = []
    for role in roles:
        number = seen[role] = seen.get(role, -1) + 1
        messages.append(Message(role, texts[role][(number + shift) % len(texts[role])]))
    return Talk(tuple(messages), case)
