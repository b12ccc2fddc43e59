"""What all tests share: helper modules beside this file (reference, oracles, commands, ...) are imported by name."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# Threads that wait for work must not spin: the tests run side by side, on fewer cores than they have threads, and
# half of what they took was waiting. Read when OpenMP is loaded, so before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The key that quantkit tells its own work by: tests, and the processes they start, share one of their own.
_STATE = tempfile.TemporaryDirectory(prefix="quantkit-tests-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name

# Gates append to it where it is set, as in a run of CI: what tests judge is no verdict on the project.
os.environ.pop("GITHUB_STEP_SUMMARY", None)
