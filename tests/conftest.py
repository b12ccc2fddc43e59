"""What all tests share: helper modules beside this file (reference, oracles, commands, ...) are imported by name."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# Threads that wait for work must not spin: the tests run side by side, on fewer cores than they have threads, and
# half of what they took was waiting. Read when OpenMP is loaded, so before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each process that runs tests; who asks for more gets them

# New objects between two looks for cycles: at Python's own 700 these took a tenth of the tests' time.
gc.set_threshold(5_000)

# What tests write survives no power cut: no waiting for the disk, which takes more of a small conversion than the rest.
# A descriptor that is not open is still an error. tests/storage, which proves what is durable when, has the real call.
os.fsync = os.fstat

# The key that quantkit tells its own work by: tests, and the processes they start, share one of their own.
_STATE = tempfile.TemporaryDirectory(prefix="quantkit-tests-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name

# Gates append to it where it is set, as in a run of CI: what tests judge is no verdict on the project.
os.environ.pop("GITHUB_STEP_SUMMARY", None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that share a fixture of their module in one process, so that it is made once.

    Those of other parameters of the fixture may run elsewhere; a test that names its group itself stays there.
    """
    for item in items:
        shared = _shared_fixtures(item)
        if shared and item.get_closest_marker("xdist_group") is None:
            indices = item.callspec.indices if hasattr(item, "callspec") else {}
            which = "-".join(f"{name}{indices[name]}" for name in shared if name in indices)
            item.add_marker(pytest.mark.xdist_group(f"{item.location[0]}-{which}".rstrip("-")))


def _shared_fixtures(item: pytest.Item) -> list[str]:
    """Names of the fixtures behind a test that its own module makes once for several tests."""
    known = getattr(item, "_fixtureinfo", None)
    found = {name: definitions[-1] for name, definitions in known.name2fixturedefs.items()} if known else {}
    module = item.nodeid.partition("::")[0]
    return sorted(name for name, made in found.items() if made.scope != "function" and made.baseid == module)


def pytest_collection_finish() -> None:
    """Leave what is there once all tests are known, a million objects, out of the collector's rounds."""
    gc.freeze()
