"""What a chat template makes of conversations, all of them asked at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date

from quantkit.calibration.text.templates import ChatTemplate, Rendered, render_each
from quantkit.ollama.conversations import SYSTEM, Message, Talk, later_systems, marked, plain, special
from quantkit.records import record

DAYS = (date(2025, 1, 1), date(2026, 11, 29))  # two that share neither day, month nor year
DATE = "\ufdd0"  # stands for today's date in texts: a character that Unicode keeps out of them
Ask = Callable[[ChatTemplate, Sequence[Sequence[Mapping[str, object]]], Sequence[str | None]], list[Rendered]]


@record
class Texts:
    """Conversation -> the text that is expected of it, up to where the model goes on; `refused` are those for which
    the template raises, with what it says.

    `bos` was taken off the front of the texts: the tokenizer puts it there. `merges` where the template refuses
    messages of the system, and they were put before the user's first one; `dated` where a text holds today's date,
    which stands in it as DATE; `frozen` where its clock was taken away.
    """

    found: Mapping[Talk, str]
    refused: Mapping[Talk, str]
    merges: bool = False
    dated: bool = False
    frozen: bool = False


def ask(template: ChatTemplate, bos: str, render: Ask = render_each) -> Texts:
    """Render every conversation. `bos` is what the tokenizer puts before every text, "" where it puts nothing.

    Templates that want a list of parts instead of text are given that. Raises InputError for one that is too long or
    takes too much time or memory.
    """
    clocks: tuple[str | None, ...] = tuple(day.isoformat() for day in DAYS)
    texts = _asked(template, bos, render, clocks)
    return texts if texts is not None else _asked(template, bos, render, (None,)) or Texts({}, {})


def _asked(template: ChatTemplate, bos: str, render: Ask, clocks: tuple[str | None, ...]) -> Texts | None:
    """None where texts hold a date in a form that Ollama cannot write."""
    talks = (*marked(), *later_systems(), *plain(), *special())
    asked = list(dict.fromkeys(part for talk in talks for part in (talk.opening, talk.merged().opening)))
    for parts in (False, True):
        jobs = [(messages, clock) for clock in clocks for messages in asked]
        given = [[_given(message, parts) for message in messages] for messages, _ in jobs]
        answers = render(template, given, [clock for _, clock in jobs])
        by_clock = [
            dict(zip(asked, answers[at : at + len(asked)], strict=True)) for at in range(0, len(answers), len(asked))
        ]
        if parts or _heard(by_clock[0]):
            break
    dated = len(by_clock) > 1 and by_clock[0] != by_clock[1]
    if dated:
        by_clock = [_without_date(answers, day) for answers, day in zip(by_clock, DAYS, strict=True)]
        if by_clock[0] != by_clock[1]:
            return None
    return _collected(talks, by_clock[0], bos, dated=dated, frozen=clocks == (None,))


def _given(message: Message, parts: bool) -> dict[str, object]:
    content = [{"type": "text", "text": message.content}] if parts else message.content
    return {"role": message.role, "content": content}


def _heard(answers: Mapping[tuple[Message, ...], Rendered]) -> bool:
    """Whether a text holds what the user said."""
    messages = marked()[0].opening
    return messages[0].content in (answers[messages].text or "")


def _without_date(answers: Mapping[tuple[Message, ...], Rendered], day: date) -> dict[tuple[Message, ...], Rendered]:
    return {
        messages: Rendered(answer.text and answer.text.replace(day.isoformat(), DATE), answer.error)
        for messages, answer in answers.items()
    }


def _collected(
    talks: Sequence[Talk], answers: Mapping[tuple[Message, ...], Rendered], bos: str, *, dated: bool, frozen: bool
) -> Texts:
    with_system = [talk for talk in marked() if talk.messages[0].role == SYSTEM]
    merges = all(answers[talk.opening].text is None for talk in with_system) and any(
        answers[talk.merged().opening].text is not None for talk in with_system
    )
    found, refused = {}, {}
    for talk in talks:
        answer = answers[(talk.merged() if merges else talk).opening]
        if answer.text is None:
            refused[talk] = answer.error
        else:
            text = answer.text.removeprefix(bos) if bos else answer.text
            found[talk] = text + talk.open_reply
    return Texts(found, refused, merges, dated, frozen)
