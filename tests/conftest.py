"""What all tests share: helper modules beside this file (reference, oracles, commands, ...) are imported by name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
