"""H = R R^T with R upper triangular, in the form that column feedback needs: M = R scaled by its diagonal, D.

Column feedback (see qtypes/search/feedback.py) rounds column k at w[k] + sum over j < k of e[j] M[j, k]. GPTQ as
published inverts H and takes the Cholesky factor U of the inverse; U = R^-1, so that M and D are its information
without an inverse, for a third of the operations. M[j, k] = R[j, k] / R[k, k], D[k] = R[k, k]^2 = 1 / U[k, k]^2.

The factorization goes block column by block column from the last to the first. Blocks have a fixed size and a product
is never split over threads, so that the result does not depend on their number. Products and the triangular solves
are float64, storage is float32: its rounding changes H by at most 2^-23 of sqrt(H[j, j] H[k, k]), whatever the size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.errors import NonFiniteError, NumericError
from quantkit.methods.base import Columns, Damped, Factor, Indices, Prepared
from quantkit.methods.settings import Run, Settings

BLOCK = 128  # columns factored at once
CHUNK = 512  # rows of a block column computed as one task
ESCALATION = 10.0  # factor from one try to the next
MOST_DAMPING = 1.0  # of the mean diagonal: beyond, the Hessian says nothing any more


def prepare(hessian: Tensor, order: Columns, settings: Settings, run: Run, name: str) -> Prepared:
    """Order and factor a Hessian. Raises what `factor` raises."""
    found = factor(hessian, order.stored[order.visited], settings.damping, run, name)
    if not settings.passes:
        return Prepared(order, found)
    stored = _ordered(hessian, order.stored) if order.permuted else hessian
    return Prepared(order, found, Damped(stored.to("cpu", torch.float32), found.scale, found.damping))


def factor(hessian: Tensor, order: Indices, damping: float, run: Run, name: str) -> Factor:
    """Factor H (cols, cols) / its mean diagonal + damping on the diagonal, its columns in `order`; with more damping
    where that is not definite.

    Damping is multiplied by 10 until the factorization succeeds, and what was used is part of the result. It fails
    for a matrix that is not a sum of squares: rounding to nearest instead would hide that. Raises NonFiniteError for
    a Hessian with values that are not finite, NumericError for one that is zero or stays indefinite with a damping of
    the mean diagonal itself; both name the tensor `name`. H is not changed. Memory: one copy of H in float32.
    """
    diagonal = hessian.diagonal()[torch.from_numpy(order).to(hessian.device)].to(torch.float64)
    mean = float(diagonal.cpu().numpy().mean())  # numpy: torch may add in an order that depends on threads
    if not all(bool(rows.isfinite().all()) for rows in torch.split(hessian, CHUNK)):
        raise NonFiniteError(
            f"the Hessian of {name} is not finite", tensor=name, hint="activations overflow: calibrate in float32"
        )
    if mean <= 0:
        raise NumericError(
            f"the Hessian of {name} is zero: no token of the calibration data reached it",
            tensor=name,
            hint="calibrate with more text, or leave this tensor out of the method",
        )
    dead = tuple(int(k) for k in torch.nonzero(diagonal <= 0).flatten())
    tried: list[float] = []
    while not tried or tried[-1] < MOST_DAMPING:
        tried.append(min(tried[-1] * ESCALATION, MOST_DAMPING) if tried else damping)
        upper = _ordered(hessian, order).div_(mean)
        upper.diagonal().add_(tried[-1])
        roots = _factor_in_place(upper, run)
        if roots is not None:
            mixing = upper.div_(roots.to(torch.float32)).cpu()
            pivots = roots.square().to(torch.float32).cpu().numpy()
            return Factor(mixing, pivots, mean, tried[-1], tuple(tried), dead)
    steps = ", ".join(f"{value:g}" for value in tried)
    raise NumericError(
        f"the Hessian of {name} stays indefinite with a damping of {steps} of its mean diagonal",
        tensor=name,
        hint="the statistics are damaged: calibrate again",
    )


def _factor_in_place(upper: Tensor, run: Run) -> Tensor | None:
    """Replace the upper triangle of a symmetric matrix by R; its diagonal in float64, None if it is not definite."""
    n = upper.shape[0]
    roots = torch.empty(n, dtype=torch.float64, device=upper.device)
    for start in reversed(range(0, n, BLOCK)):
        stop = min(start + BLOCK, n)
        right = upper[start:stop, stop:].to(torch.float64)

        def remainder(rows: slice, start: int = start, stop: int = stop, right: Tensor = right) -> Tensor:
            """H minus what the columns to the right explain, in the block column."""
            own = upper[rows, start:stop].to(torch.float64)
            return own - upper[rows, stop:].to(torch.float64) @ right.T

        corner, info = run(lambda rows: torch.linalg.cholesky_ex(remainder(rows).flip(0, 1)), [slice(start, stop)])[0]
        if int(info) != 0 or not bool(corner.isfinite().all()):
            return None
        corner = corner.flip(0, 1)
        roots[start:stop] = corner.diagonal()

        def solve(first: int, start: int = start, stop: int = stop, corner: Tensor = corner) -> None:
            rows = slice(first, min(first + CHUNK, start))
            part = torch.linalg.solve_triangular(corner.T, remainder(rows), upper=False, left=False)
            upper[rows, start:stop] = part.to(torch.float32)

        run(solve, range(0, start, CHUNK))
        upper[start:stop, start:stop] = corner.to(torch.float32)
    return roots


def _ordered(hessian: Tensor, order: Indices) -> Tensor:
    """A float32 copy with rows and columns in `order`."""
    index = torch.from_numpy(order).to(hessian.device)
    return hessian[index[:, None], index].to(torch.float32)
