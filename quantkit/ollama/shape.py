"""What stands between the messages of a conversation, recovered from texts whose messages are marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from quantkit.ollama.conversations import ASSISTANT, SYSTEM, USER, Message, Talk
from quantkit.records import record

START, END = "", "."
MARK = re.compile(r"Zq[sua]\d+qZ")
SYSTEM_TEXT = "\ufdd1"  # stands for all that the system says, where it is no message of its own
QUESTIONS = ("system", "last", "final", "later")
MOST_QUESTIONS = 3


class ShapeError(ValueError):
    """Why a template has no shape that Ollama's can have; `talk` is a conversation that shows it."""

    def __init__(self, why: str, talk: Talk | None = None) -> None:
        super().__init__(why)
        self.talk = talk


@record
class Where:
    """What can be asked at a gap: whether there is a system's message, whether the next message is the last of all,
    whether it is the user's last, and whether the assistant spoke before."""

    system: bool
    last: bool
    final: bool
    later: bool

    def answer(self, question: str) -> bool:
        return bool(getattr(self, question))


@record
class Choice:
    """A text that depends on the answer to a question."""

    question: str
    yes: Gap
    no: Gap


Gap = str | Choice


@record
class Shape:
    """(role before, role after) -> what stands between them; START and END are the ends of the text.

    `apart`: what the system says is no message in its place but a text within gaps (SYSTEM_TEXT).
    """

    gaps: Mapping[tuple[str, str], Gap]
    apart: bool = False

    @property
    def questions(self) -> frozenset[str]:
        return frozenset(question for gap in self.gaps.values() for question in _questions(gap))


def _questions(gap: Gap) -> frozenset[str]:
    if isinstance(gap, str):
        return frozenset()
    return frozenset({gap.question}) | _questions(gap.yes) | _questions(gap.no)


def leaves(gap: Gap) -> tuple[str, ...]:
    """All texts that a gap can be."""
    return (gap,) if isinstance(gap, str) else (*leaves(gap.yes), *leaves(gap.no))


def changed(gap: Gap, change: Callable[[str], str]) -> Gap:
    """A gap with each of its texts changed; a choice between equal texts is none."""
    if isinstance(gap, str):
        return change(gap)
    yes, no = changed(gap.yes, change), changed(gap.no, change)
    return yes if yes == no else Choice(gap.question, yes, no)


def common_start(texts: Sequence[str]) -> str:
    """What all of these texts begin with."""
    if not texts:
        return ""
    shortest = min(texts, key=len)
    different = (n for n, character in enumerate(shortest) if any(text[n] != character for text in texts))
    return shortest[: next(different, len(shortest))]


def common_end(texts: Sequence[str]) -> str:
    """What all of these texts end with."""
    return common_start([text[::-1] for text in texts])[::-1]


def recover(texts: Mapping[Talk, str], more: Mapping[Talk, str]) -> Shape:
    """The shape of conversations of marks; `more` are those in which the system speaks in the middle, which are left
    out where no shape has them too.

    Raises ShapeError with a conversation that shows why there is none.
    """
    problem: ShapeError | None = None
    for apart, used in ((False, {**texts, **more}), (False, texts), (True, texts)):
        try:
            return _recovered(used, apart)
        except ShapeError as error:
            problem = problem or error
    raise problem or ShapeError("it renders nothing")


def _recovered(texts: Mapping[Talk, str], apart: bool) -> Shape:
    seen: dict[tuple[str, str], dict[Where, tuple[str, Talk]]] = {}
    for talk, text in texts.items():
        for pair, where, between in _gaps(talk, text, apart):
            known = seen.setdefault(pair, {}).setdefault(where, (between, talk))
            if known[0] != between:
                raise ShapeError(f"what stands {_named(pair)} is not always the same", talk)
    return Shape({pair: _gap(pair, found) for pair, found in seen.items()}, apart)


def _gaps(talk: Talk, text: str, apart: bool) -> list[tuple[tuple[str, str], Where, str]]:
    stream = [m for m in talk.messages if not (apart and m.role == SYSTEM)]
    if apart:
        for message in talk.messages:
            if message.role == SYSTEM:
                text = text.replace(message.content, SYSTEM_TEXT)
    found = MARK.findall(text)
    if found != [m.content for m in stream]:
        raise ShapeError(_lost(found, stream), talk)
    between = MARK.split(text)
    roles = [START, *(m.role for m in stream), END]
    gaps = []
    for number, piece in enumerate(between):
        before, after = roles[number], roles[number + 1]
        if (before, after) == (ASSISTANT, END):
            continue  # the reply is left open
        gaps.append(((before, after), _where(talk, stream, number), piece))
    return gaps


def _lost(found: Sequence[str], stream: Sequence[Message]) -> str:
    missing = next((m.role for m in stream if m.content not in found), None)
    if missing is not None:
        return f"it leaves a message of the {missing} out, or changes it"
    return "it renders a message twice" if len(found) > len(stream) else "it changes the order of messages"


def _where(talk: Talk, stream: Sequence[Message], number: int) -> Where:
    """At the gap before message `number` of the stream; after the last one for the end."""
    following = stream[number:]
    return Where(
        system=any(m.role == SYSTEM for m in talk.messages),
        last=len(following) == 1,
        final=bool(following) and following[0].role == USER and all(m.role != USER for m in following[1:]),
        later=any(m.role == ASSISTANT for m in stream[:number]),
    )


def _named(pair: tuple[str, str]) -> str:
    before, after = pair
    if before == START:
        return f"before the first message ({after})"
    return f"after the last message ({before})" if after == END else f"between {before} and {after}"


def _gap(pair: tuple[str, str], found: Mapping[Where, tuple[str, Talk]]) -> Gap:
    """The fewest questions that tell the texts of a gap apart."""
    texts = {where: text for where, (text, _) in found.items()}
    for many in range(MOST_QUESTIONS + 1):
        for questions in combinations(QUESTIONS, many):
            by_answers: dict[tuple[bool, ...], set[str]] = {}
            for where, text in texts.items():
                by_answers.setdefault(tuple(where.answer(q) for q in questions), set()).add(text)
            if all(len(group) == 1 for group in by_answers.values()):
                return _tree(questions, {answers: group.pop() for answers, group in by_answers.items()})
    talk = next(reversed(list(found.values())))[1]
    raise ShapeError(f"what stands {_named(pair)} depends on more than Ollama's templates can ask", talk)


def _tree(questions: Sequence[str], by_answers: Mapping[tuple[bool, ...], str]) -> Gap:
    if not questions:
        return next(iter(by_answers.values()))
    sides = {
        side: {answers[1:]: text for answers, text in by_answers.items() if answers[0] is side}
        for side in (True, False)
    }
    if not all(sides.values()):
        return _tree(questions[1:], sides[bool(sides[True])])
    yes, no = (_tree(questions[1:], sides[side]) for side in (True, False))
    return yes if yes == no else Choice(questions[0], yes, no)
