"""At which texts Ollama stops: what ends a reply, and nothing that begins a message.

Special tokens that give a conversation its structure (<|start_header_id|>, <|im_start|>, [INST]) are no stops: a model
that talks about templates would be cut off in the middle of its sentence. Where a Modelfile has no stop at all, Ollama
takes those of the template of its own that is most alike, which have such tokens in them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from quantkit.ollama.header import Header


def stops(header: Header, after_replies: Sequence[str], before_messages: Sequence[str]) -> tuple[str, ...]:
    """The stop texts: the special token that the chat template puts behind every reply, then those at which generation
    ends by the file (eos, eot, eom).

    `after_replies` and `before_messages` are what the chat template puts there. A token that stands before messages is
    a stop only if it is EOS and there is no other.
    """
    closing = [_first_special(text, header.special) for text in after_replies]
    candidates = list(dict.fromkeys([*(token for token in closing if token), *header.ending]))
    structural = {token for text in before_messages for token in header.special if token in text}
    kept = tuple(token for token in candidates if token not in structural)
    return kept or header.ending[:1]


def structural_tokens(header: Header, before_messages: Sequence[str]) -> tuple[str, ...]:
    """The ending tokens of the file that are no stops, because messages begin with them."""
    return tuple(token for token in header.ending if any(token in text for text in before_messages))


def _first_special(text: str, special: Collection[str]) -> str:
    """The special token that a text begins with after white space, the longest of several; "" for none."""
    start = text.lstrip()
    return max((token for token in special if start.startswith(token)), key=len, default="")
