"""How the loops of this package are compiled, and when compiled code of an earlier run may be used again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

from quantkit.qtypes.compiling import KeptCache, keep

# Functions that the compiled ones call: once per tile, or within loops over a tile.
# error_model: division by zero gives an infinity or NaN, as in C. No fastmath: it would allow fused multiply-adds.
called = njit(nogil=True, error_model="numpy")
inlined = njit(nogil=True, error_model="numpy", inline="always")


@cache
def _sources() -> str:
    """Digest of all source files of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Cache(KeptCache):
    """Compiled code on disk that is stale as soon as any file of the package changes.

    Numba looks at the file of the function alone, but most of what is compiled into ours comes from other files:
    after an edit there, code with the old numerics would run on.
    """

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(signature, codegen), _sources())


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use and keep the machine code on disk, beside the source or in the user's cache folder."""
    return keep(njit(nogil=True, error_model="numpy")(function), function, _Cache)
