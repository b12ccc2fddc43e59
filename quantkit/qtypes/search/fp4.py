"""The values of four-bit floats (E2M1)."""

from __future__ import annotations

import numpy as np

# Twice the E2M1 values; ggml reads the code of minus zero as plus zero.
LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
