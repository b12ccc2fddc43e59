"""A language model that transformers has only behind an encoder, given as a model by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quantkit.metadata import KeyValue
from quantkit.records import record

SECTIONS = "rope.dimension_sections"
Entries = Mapping[str, KeyValue]


def on_one_axis(entries: Entries) -> Entries:
    """The entries of a file, by their keys without the architecture, that say how text is read.

    Text has the same position on all axes but the fourth, so that a rotation by axes is a plain one.
    """
    sections = entries.get(SECTIONS)
    left = {"n_deepstack_layers", *([SECTIONS] if sections and not any(sections.items()[3:]) else [])}
    return {key: entry for key, entry in entries.items() if key not in left}


@record
class Alone:
    """The name of the family that the language model is of by itself, and what remains of the entries of a file."""

    family: str
    entries: Callable[[Entries], Entries] = on_one_axis
