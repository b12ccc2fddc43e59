"""Where the tests find real weights: the checkpoint SmolLM2-135M-Instruct (`make reference` fetches and decodes it)."""

from __future__ import annotations

from reference import REFERENCE

SMOLLM2 = REFERENCE.parent / "SmolLM2-135M-Instruct"
