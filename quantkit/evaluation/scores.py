"""What is known of every prediction, which all figures are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantkit.records import record

F64 = NDArray[np.float64]


@record
class WeightError:
    """A weight beside the reference's: how it is stored, the squared distance relative to its own length, how many of
    its rows are not the reference's, and what is wrong with it, "" for nothing."""

    tensor: str
    type: str
    relative: float
    rows_off: int
    wrong: str


@record
class Scores:
    """What is known of every prediction that counts, in the corpus's order, float64 or bool (t,).

    `kl` is the divergence of the other from the reference in nats; `reference` and `other` are the natural
    log-probabilities of the right token, `confidence` the reference's largest probability; `agree` says whether both
    put the same token first, `right` whether the reference's first is the right one and `other_right` the other's.
    `tops` are the tokens that the reference and the other put first, int64 (t,) each, None where nobody kept them.
    `engine` is the name and version of the engine whose predictions these are, None for our own run, and `own` its
    divergence from that.
    `errors` are the relative errors of hidden states after each block, by its name. `weights` are all tensors that
    were read, None where they differ on purpose.
    """

    name: str
    kl: F64
    reference: F64
    other: F64
    confidence: F64
    agree: NDArray[np.bool_]
    right: NDArray[np.bool_]
    other_right: NDArray[np.bool_]
    errors: tuple[tuple[str, float], ...] = ()
    weights: tuple[WeightError, ...] | None = None
    tops: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    engine: tuple[str, str] | None = None
    own: F64 | None = None


@record
class Likelihood:
    """Of a continuation: the sum of the natural log-probabilities of its tokens, whether each of them was the first
    choice, and the mean KL divergence from the original at them (0 for the original itself)."""

    log: float
    first: bool
    kl: float
