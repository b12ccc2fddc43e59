"""Where artifacts go and how a run behaves: the options of `quantkit convert` besides what is made from what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.pipeline.given import coerce, given_data, given_texts
from quantkit.records import record

if TYPE_CHECKING:
    from quantkit.evaluation.memory import Memory

GATES = "gates"  # the check of a manifest that says how they were judged


@record
class Output:
    """Where the artifacts go and how the run behaves.

    `paranoid`: nothing of an earlier run counts, neither finished tensors nor a finished artifact. Everything is made
    from the source again and compared with what is there. A file for which one of the `gates` does not hold, measured
    on `eval_data`, is not published; `memory` keeps the source's run for the gates of conversions to come.
    `layout`: folders below `out` as a program wants them."""

    out: Path = Path()
    force: bool = False
    threads: int | None = None
    engine: str | None = None
    verify: bool = True
    paranoid: bool = False
    gates: tuple[str, ...] = ()
    eval_data: tuple[str, ...] = ()
    memory: Memory | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        coerce(self, {"gates": given_texts, "eval_data": given_data})
