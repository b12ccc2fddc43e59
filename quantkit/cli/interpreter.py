"""How Python runs a command: when it looks for garbage, and how soon a thread gets its turn.

Both hold for a whole process, so only the program sets them, and not the library.
"""

from __future__ import annotations

import gc
import sys

# New objects between two looks for garbage in cycles; Python's own number is 700. Imports make some 150,000 objects,
# all of which stay: to look at them takes up to a tenth of a second.
OBJECTS_AT_START, OBJECTS = 300_000, 20_000
START_SECONDS = 2  # LLVM and machine code come with the first tensors, what checks them with the last
# How long a thread that runs Python keeps others waiting; Python's own number is 5 ms. Hashing needs Python for some
# microseconds after each half of a millisecond without it: beside an import it would do a tenth of what it could.
TURN_SECONDS = 0.0001


def begin() -> None:
    """Before anything is imported."""
    gc.set_threshold(OBJECTS_AT_START)
    sys.setswitchinterval(TURN_SECONDS)


def settle(seconds: float) -> None:
    """While work is done, `seconds` after the command began: what there is when all is imported stays, garbage of work
    is looked for. A run that is over before leaves none worth a look."""
    if seconds >= START_SECONDS and gc.get_threshold()[0] == OBJECTS_AT_START:
        gc.freeze()
        gc.set_threshold(OBJECTS)
