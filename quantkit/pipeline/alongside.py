"""A conversion whose source is read once: by whoever fills the files, by the run of the original for the gates, which
goes through the layers beside, and by the check of numbers, whose rows are kept from the beginning on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from quantkit.filling.work import Beside
from quantkit.machine import core_count
from quantkit.source.once import OUTSIDE, SPARE, STEP, Once

if TYPE_CHECKING:
    from quantkit.evaluation.corpus import Corpus
    from quantkit.evaluation.remembered import Ahead
    from quantkit.evaluation.sides import Side


class Alongside(Beside):
    """The original on its way through the text while files are filled; where its run is known already, nothing.

    `looks` read what checks will compare. `passes`: the text of a calibration is run, so that layers are read
    several times: as many are kept as memory has room for.
    """

    active = True

    def __init__(self, once: Once, looks: Sequence[Callable[[], None]], passes: bool) -> None:
        self._once, self._looks, self._passes = once, looks, passes
        self._run: Callable[[], Ahead] | None = None
        self._ahead: Ahead | None = None

    def run(self, side: Side, corpus: Corpus, threads: int | None) -> None:
        """Have the original run, on this text."""

        def opened() -> Ahead:
            from quantkit.evaluation.remembered import Ahead  # torch: where a gate asks

            return Ahead(side, corpus, threads or core_count())

        self._run = opened

    def begin(self) -> None:
        with self._once.reading(STEP):
            for look in self._looks:
                look()
        if self._run is not None:
            with self._once.reading(OUTSIDE):
                self._ahead = self._run()
        if self._passes:
            self._once.expect(SPARE)

    def enter(self, layer: int | None) -> None:
        self._once.settle()
        if layer is not None and self._ahead is not None:
            while self._ahead.done <= min(layer, self._ahead.count - 1):
                with self._once.reading(self._ahead.done):
                    self._ahead.advance()

    def leave(self, layer: int | None) -> None:
        self._once.drop(OUTSIDE if layer is None else layer)

    def expect(self, layer: int | None) -> None:
        self._once.expect(OUTSIDE if layer is None else layer)

    def reading(self, layer: int | None) -> AbstractContextManager[None]:
        return self._once.reading(layer)

    def finish(self) -> None:
        """What no file has of the source's layers is run all the same."""
        self._once.expect(None)
        if self._ahead is not None:
            while self._ahead.done < self._ahead.count:
                self._ahead.advance()

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
