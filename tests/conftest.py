"""Shared fixtures: the bundled model and the text it is measured on."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # tests import their helpers (reference, oracles) by name
