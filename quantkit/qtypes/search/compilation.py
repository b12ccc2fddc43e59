"""How the loops of this package are compiled."""

from __future__ import annotations

from numba import njit

# error_model: division by zero gives an infinity or NaN, as in C. No fastmath: it would allow fused multiply-adds.
compiled = njit(nogil=True, error_model="numpy")  # what others call: see entries.py
called = compiled  # what these call, once per tile or within loops over a tile
inlined = njit(nogil=True, error_model="numpy", inline="always")
