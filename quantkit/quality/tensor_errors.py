"""How far decoded weights are from the source: one figure per tensor, decoded by another project's reader."""

from __future__ import annotations

from functools import cache
from math import inf, isfinite, log10, sqrt

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.extras import installed_version
from quantkit.qtypes import base
from quantkit.qtypes.base import QuantType
from quantkit.records import record
from quantkit.tensors import F32, U8

FITS = 4  # of rows and columns in turn; the factors of AWQ and SmoothQuant have settled after two


@record
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
        """Signal to noise ratio in decibels: inf where every value is equal, 0 where zeros would be as good, and -inf
        where a value is no number."""
        if self.noise == 0.0:
            return inf
        if not isfinite(self.noise):
            return -inf
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


def floor_of_bits(bits_per_weight: float) -> float:
    """The ratio below which a layer of a checkpoint counts as damaged; GGUF types say their own (`floor_db`)."""
    if bits_per_weight >= 5:
        return 10.0
    return 6.0 if bits_per_weight >= 4 else 0.0


def compare(name: str, qtype: str, source: F32, decoded: F32) -> TensorError:
    """Error of `decoded` against `source`, both float32 of the same shape."""
    reference = source.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = reference - decoded
    # No products of BLAS, whose threads spin for longer than these sums take.
    signal = float(np.square(reference, out=reference).sum())
    if signal == inf and (same := np.isinf(source) & (source == decoded)).any():  # limits that are none
        return compare(name, qtype, np.where(same, np.float32(0), source), np.where(same, np.float32(0), decoded))
    noise = np.square(difference, out=difference)
    return TensorError(name, qtype, source.size, signal, float(noise.sum()), sqrt(noise.max(initial=0.0)))


def compare_moved(name: str, qtype: str, source: F32, decoded: F32) -> TensorError:
    """Error of `decoded` against `source`, both float32 matrices, up to a factor of every row and every column.

    That is what weights have in common when scales were moved between layers. The factors are those with the least
    squares, found in turn; of weights in other places next to nothing is left by them. Where one would not be positive,
    which no transform makes, it stays as it was; and every row counts alike: rows that are gone are no rows.
    """
    expected = source.astype(np.float64)
    for _ in range(FITS):
        for axis in (0, 1):
            energy = (expected * expected).sum(axis=axis, keepdims=True)
            found = (expected * decoded).sum(axis=axis, keepdims=True)
            expected *= np.divide(found, energy, out=np.ones_like(found), where=(energy > 0) & (found > 0))
    length = np.sqrt((expected * expected).sum(axis=1, keepdims=True))
    length[length == 0] = 1
    return compare(name, qtype, (expected / length).astype(np.float32), (decoded / length).astype(np.float32))


def decode_gguf(raw: U8, gguf_type: int) -> F32:
    """Decode rows (rows, row_bytes) of a GGUF type with the gguf package, which shares no code with quantkit."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    if gguf_type == GGMLQuantizationType.I32:
        return raw.view("<i4").astype(np.float32)
    try:
        return np.asarray(dequantize(raw, GGMLQuantizationType(gguf_type)), dtype=np.float32)
    except (NotImplementedError, ValueError) as error:
        what = f"the gguf package cannot decode type {gguf_type}: {error}"
        raise UnsupportedError(what, hint="install a newer gguf package, or convert with --no-verify") from error


@cache
def undecodable(names: frozenset[str]) -> str | None:
    """What the gguf package does not know of these types, in words; None where it decodes all."""
    unknown = [name for name in sorted(names) if not _decodes(base.get(name))]
    if not unknown:
        return None
    return f"the gguf package {installed_version('gguf')} does not decode {', '.join(name.upper() for name in unknown)}"


def _decodes(qtype: QuantType) -> bool:
    if qtype.gguf is None:
        return False
    try:
        decode_gguf(np.zeros((1, qtype.nbytes), np.uint8), qtype.gguf)
    except UnsupportedError:
        return False
    return True
