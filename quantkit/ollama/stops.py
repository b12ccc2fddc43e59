"""At which texts Ollama stops: what ends a reply, and nothing that begins a message.

Special tokens that give a conversation its structure (<|start_header_id|>, <|im_start|>, [INST]) are no stops: a model
that talks about templates would be cut off in the middle of its sentence. Where a Modelfile has no stop at all, Ollama
takes those of the template of its own that is most alike, which have such tokens in them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from quantkit.ollama.conversations import ASSISTANT, USER
from quantkit.ollama.header import Header
from quantkit.ollama.shape import END, START, Shape, leaves
from quantkit.records import record


@record
class Stops:
    """`texts` are the stops; `structural` are tokens at which generation ends by the file, and messages begin."""

    texts: tuple[str, ...]
    structural: tuple[str, ...] = ()


def stops(header: Header, shape: Shape | None) -> Stops:
    """The special token that the chat template puts behind every reply, then those at which generation ends by the file
    (eos, eot, eom); these alone where there is no shape, or a reply has several parts. What stands before messages is
    left out, unless there is nothing else than EOS. An EOS that is a word like others is no stop either: replies that
    have it would be cut, and generation ends at it anyway."""
    ends = tuple(token for token in header.ending if token in header.special or not header.special)
    if shape is None:
        return Stops(ends)
    starts = tuple(text for (before, _), gap in shape.gaps.items() if before == START for text in leaves(gap))
    opening = {token for text in starts for token in _leading(text, header.special)}
    closing = [token for token in _closing(shape, header.special, starts) if token not in opening]
    structural = opening | {token for text in _openings(shape, closing) for token in header.special if token in text}
    ending = ends if _replies_in_parts(shape, header.special) else (*closing, *ends)
    kept = tuple(token for token in dict.fromkeys(ending) if token not in structural)
    left_out = tuple(token for token in ends if token in structural)
    return Stops(kept or ends[:1], left_out if kept else left_out[1:])


def _replies_in_parts(shape: Shape, special: Collection[str]) -> bool:
    """Whether a reply is more than its text: where the template goes on with special tokens behind what the model is
    given, the model writes those itself, and what closes the text of a reply need not end it."""
    given, before = _texts(shape, (USER, END)), _texts(shape, (USER, ASSISTANT))
    more = (text[len(start) :] for text in before for start in given if text.startswith(start))
    return any(token in text for text in more for token in special)


def _leading(text: str, special: Collection[str]) -> Iterator[str]:
    """The special tokens that a text begins with, one behind the other, white space aside."""
    while token := _first(text, special):
        yield token
        text = text.lstrip()[len(token) :]


def _first(text: str, special: Collection[str]) -> str:
    """The special token that a text begins with, the longest of several; "" for none."""
    text = text.lstrip()
    return max((token for token in special if text.startswith(token)), key=len, default="")


def _closing(shape: Shape, special: Collection[str], starts: Collection[str]) -> Iterator[str]:
    """The special token that begins what stands behind a reply. One with nothing behind it that stands before a first
    message, too, closes nothing: it opens the next message."""
    for (before, _), gap in shape.gaps.items():
        for text in leaves(gap) if before == ASSISTANT else ():
            token = _first(text, special)
            opens = text.strip() == token and any(token in start for start in starts)
            if token and not opens:
                yield token


def _openings(shape: Shape, closing: Collection[str]) -> Iterator[str]:
    """What stands before messages and replies, behind what closes the message before it, of the template's own too."""
    for gap in shape.gaps.values():
        for text in leaves(gap):
            yield text[max((text.rfind(token) + len(token) for token in closing if token in text), default=0) :]


def _texts(shape: Shape, pair: tuple[str, str]) -> tuple[str, ...]:
    return leaves(shape.gaps[pair]) if pair in shape.gaps else ()
