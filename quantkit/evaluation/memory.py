"""Room for what one measurement leaves to the next on the same text; imports none of what it holds."""

from __future__ import annotations

from typing import Any

ROOM = 2 << 30  # bytes: of larger models nothing is kept, and each measurement runs them again


class Memory:
    """The walk of a reference over one text: after each block its name and the sketch of its weights (first, under no
    name, that of the embedding), the hidden states at the end, and slabs of the head's rows."""

    def __init__(self, room: int = ROOM) -> None:
        self._all = room
        self._text = ""
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.room = self._all
        self.steps: list[tuple[str, Any]] = []
        self.embedded: tuple[Any, ...] = ()
        self.slabs: dict[tuple[int, int], Any] | None = None

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

    def takes(self, nbytes: int) -> bool:
        """Whether so many bytes still have room, which they take."""
        self.room -= nbytes
        return self.room >= 0

    def add(self, name: str, sketch: Any, nbytes: int) -> None:
        """Keep the next step; once there is no room, no step any more."""
        if self.takes(nbytes):
            self.steps.append((name, sketch))
        else:
            self.steps.clear()

    def finish(self, embedded: tuple[Any, ...], nbytes: int) -> None:
        """Keep the end of the walk, if all of it had room."""
        if self.takes(nbytes):
            self.embedded = embedded
        else:
            self.clear()
