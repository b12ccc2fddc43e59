"""How far decoded weights are from the source: one figure per tensor, decoded by another project's reader."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log10

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.tensors import F32, U8


@dataclass(frozen=True)
class TensorError:
    """Error of one tensor over `weights` compared weights; energies are sums of squares in float64."""

    name: str
    qtype: str
    weights: int
    signal: float
    noise: float
    largest: float

    @property
    def snr_db(self) -> float:
        """Signal to noise ratio in decibels: inf where every value is equal, 0 where zeros would be as good."""
        if self.noise == 0.0:
            return inf
        return 10 * log10(self.signal / self.noise) if self.signal else -inf

    def __add__(self, other: TensorError) -> TensorError:
        return TensorError(
            self.name,
            self.qtype,
            self.weights + other.weights,
            self.signal + other.signal,
            self.noise + other.noise,
            max(self.largest, other.largest),
        )


# The least signal to noise ratio, in dB, that a correct file of a type can show on weights of any distribution met
# so far; a permuted, shifted or mis-scaled tensor falls far below. Casts are exact to half a unit in the last place.
FLOOR_DB = {"f32": inf, "bf16": 45.0, "f16": 45.0, "q8_0": 25.0, "q6_k": 15.0}
FLOOR_DB_FIVE_BITS = 10.0
FLOOR_DB_FOUR_BITS = 6.0
FLOOR_DB_FEWER = 0.0


def floor_db(qtype: str, bits_per_weight: float) -> float:
    """The ratio below which a tensor of this type counts as damaged."""
    if qtype in FLOOR_DB:
        return FLOOR_DB[qtype]
    if bits_per_weight >= 5:
        return FLOOR_DB_FIVE_BITS
    return FLOOR_DB_FOUR_BITS if bits_per_weight >= 4 else FLOOR_DB_FEWER


def compare(name: str, qtype: str, source: F32, decoded: F32) -> TensorError:
    """Error of `decoded` against `source`, both float32 of the same shape."""
    reference = source.astype(np.float64)
    difference = reference - decoded
    return TensorError(
        name,
        qtype,
        source.size,
        float(np.vdot(reference, reference)),
        float(np.vdot(difference, difference)),
        float(np.abs(difference).max(initial=0.0)),
    )


def decode_gguf(raw: U8, gguf_type: int) -> F32:
    """Decode rows (rows, row_bytes) of a GGUF type with the gguf package, which shares no code with quantkit."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        return np.asarray(dequantize(raw, GGMLQuantizationType(gguf_type)), dtype=np.float32)
    except (NotImplementedError, ValueError) as error:
        what = f"the gguf package cannot decode type {gguf_type}: {error}"
        raise UnsupportedError(what, hint="install a newer gguf package, or convert with --no-verify") from error
