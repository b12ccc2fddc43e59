"""What families say of files that are read backwards: those that are not, and settings from numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor, inf, pi
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families.hparams import Hparams

LLAMA3_ORIGINAL, LOW, HIGH = 8192, 1.0, 4.0  # of the models that were published with it
BASE = 10000.0  # of a rotation where no key has one


def not_read(why: str) -> Callable[[Hparams], Mapping[str, Any]]:
    """What refuses the file of such a family, as its `graph`."""

    def refuse(hparams: Hparams) -> Mapping[str, Any]:
        hint = "start from the checkpoint that the file was made of"
        raise UnsupportedError(f"files of this family are not read backwards: {why}", key="architecture", hint=hint)

    return refuse


def llama3_settings(factors: Sequence[float], said: object) -> dict[str, Any]:
    """The settings of llama3 scaling with these factors, by what of the wavelengths is kept, stretched, or between.

    Between the two the original context length is known, with two or more wavelengths there what high frequencies are,
    too; where nothing lies between it is one that parts them alike.
    """
    most, base = max(factors), said if isinstance(said, float) and 0 < said < inf else BASE
    waves = [2 * pi * base ** (number / len(factors)) for number in range(len(factors))]
    between = [(wave, found) for wave, found in zip(waves, factors, strict=True) if 1 < found < most]
    found = {"rope_type": "llama3", "factor": most, "low_freq_factor": LOW}
    if between:
        shares = [(1 / wave, (1 / factor - 1 / most) / (1 - 1 / most)) for wave, factor in between]
        high = _high(shares)
        original = round((LOW + shares[0][1] * (high - LOW)) / shares[0][0])
        return {**found, "high_freq_factor": high, "original_max_position_embeddings": original}
    kept = max((wave for wave, factor in zip(waves, factors, strict=True) if factor == 1), default=0.0)
    stretched = min((wave for wave, factor in zip(waves, factors, strict=True) if factor != 1), default=inf)
    original = LLAMA3_ORIGINAL if kept < LLAMA3_ORIGINAL < stretched else floor(kept) + 1
    return {**found, "high_freq_factor": LOW, "original_max_position_embeddings": original}


def _high(shares: Sequence[tuple[float, float]]) -> float:
    """The factor of high frequencies, by what is kept of frequencies between: it rises from 0 at the low ones to 1."""
    (first, kept), (last, less) = shares[0], shares[-1]
    if first == last:
        return HIGH
    at_zero = kept - (kept - less) / (first - last) * first  # -LOW / (high - LOW)
    return float(f"{LOW - LOW / at_zero:.4g}") if at_zero < 0 else HIGH
