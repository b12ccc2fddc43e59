"""Where the tests find the llama.cpp sources: converter, vocabularies and snapshots (`make reference` unpacks them)."""

from __future__ import annotations

from pathlib import Path

REFERENCE = Path(__file__).parent.parent / ".reference" / "llama.cpp"
