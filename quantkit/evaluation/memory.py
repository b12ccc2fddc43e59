"""Room for what one measurement leaves to the next on the same text; imports none of what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantkit.storage import Room

ROOM = 2 << 30  # bytes of memory; what is beyond lies in nameless files


class Memory:
    """The walk of a reference over one text: after each block its name and the sketch of its weights (first, under no
    name, that of the embedding), the hidden states at the end, and slabs of the head's rows by their first.

    `room` is where the bytes of all but the hidden states lie, and of the source what several read: memory for so many
    bytes, and files without a name in `folder`."""

    def __init__(self, room: int = ROOM, folder: Path | None = None) -> None:
        self.room = Room(room, folder)
        self._text = ""
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.steps: list[tuple[str, Any]] = []
        self.embedded: tuple[Any, ...] = ()
        self.slabs: dict[int, Any] = {}

    def about(self, text: str) -> Memory:
        """The memory for what `text` stands for, a model and its tokens: empty where it held another walk."""
        if text != self._text:
            self.clear()
            self._text = text
        return self

    @property
    def whole(self) -> bool:
        """Whether a walk was kept to its end."""
        return bool(self.embedded)
