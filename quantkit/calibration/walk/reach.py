"""What an error costs that other tokens read: weights of tokens for Hessians of keys, values and their like.

Attention reads the keys and values of one token at many later ones. Models put most of it on very few tokens, often
the first of a text, whose values then add the same error everywhere, while a Hessian counts them once, as any other.
Rounded by such a Hessian, the values of a real model are worse than rounded to nearest with importance weights; by
one that counts a token once for being there and once for what its errors cost, they are ten times better.

A site reaches far where an error of one of its linears at one token changes the block's output at a later one, which
gradients show. What an error costs is then measured where position stops mattering, at the next site that does not
reach far (the input of attention's output projection):

    w[t] = sum over the site's linears of |g[t]|^2,   g = J^T u,  u ~ N(0, 1)

with J the Jacobian from the linear's output at all tokens to that input. A Hessian is then X^T (1 + c w) X, c such that
both terms have the same trace, sample by sample.

The same gradients say which rows' errors add up there, and which cancel (`statistics.outputs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quantkit.calibration.statistics.sums import Site
from quantkit.calibration.walk.resident import Resident, Wanted
from quantkit.families.names import expert_of
from quantkit.records import record

SEED = 0x4EAC4
NEGLIGIBLE = 1e-6  # of the gradients at the last token: what rounding leaves where there is no way


@record
class Far:
    """A site that reaches far, and the site at whose inputs its errors are measured."""

    site: Site
    ends: Site


@record
class Reached:
    """How often each token counts in the Hessian of every far site, float32 (tokens,), at least 1; and the gradients
    at what each of their linears gives, divided by the root of their length, float32 (tokens, rows)."""

    counts: dict[str, Tensor]
    outputs: dict[str, Tensor]


def far_sites(resident: Resident, hidden: Tensor, sites: Sequence[Site]) -> tuple[Far, ...]:
    """The sites of a block that reach far, seen on samples (n, seqlen, hidden) float32; sites in the order of use.

    Experts, which see some tokens only, do not.
    """
    names = [name for site in sites for name in site.linears if expert_of(name) is None]
    if hidden.shape[1] < 2:
        return ()
    with torch.enable_grad():
        output, traced = resident.trace(hidden.detach().requires_grad_(), frozenset(names))
        assert output is not None
        known = [name for name in names if name in traced.outputs and traced.outputs[name].requires_grad]
        last = output[:, resident.last(hidden.shape[1])]
        noise = _noise(last, SEED)
        found = torch.autograd.grad((last * noise).sum(), [traced.outputs[name] for name in known], allow_unused=True)
    reaching = {name for name, one in zip(known, found, strict=True) if one is not None and _earlier(one, hidden)}
    far, ends = [], None
    for site in reversed(sites):
        if reaching & set(site.linears):
            if ends is not None:
                far.append(Far(site, ends))
        else:
            ends = site
    return tuple(reversed(far))


def reached(resident: Resident, hidden: Tensor, far: Sequence[Far], seeds: Sequence[int]) -> Reached:
    """What errors of the linears of far sites do where they end.

    `hidden` is float32 (n, seqlen, hidden), with a seed for each sample: its weights do not depend on other samples.
    """
    names = [name for one in far for name in one.site.linears]
    ends = {one.ends.name: one.ends for one in far}
    wanted = Wanted(frozenset(ends) | {one.site.name for one in far}, only=True)
    with torch.enable_grad():
        _, traced = resident.trace(hidden.detach().requires_grad_(), frozenset(names), wanted)
        gradients: dict[str, Tensor | None] = {}
        for name in sorted(ends):
            given = traced.inputs[name].reshape(len(hidden), -1)
            noise = torch.stack([_noise(one, SEED + seed) for one, seed in zip(given, seeds, strict=True)])
            known = [n for one in far if one.ends.name == name for n in one.site.linears if n in traced.outputs]
            outputs = [traced.outputs[n] for n in known]
            found = torch.autograd.grad((given * noise).sum(), outputs, allow_unused=True, retain_graph=len(ends) > 1)
            gradients |= zip(known, found, strict=True)
    rows = {name: resident.linears[name].rows for name in names}
    return Reached(
        {one.site.name: _counts(one.site, traced.inputs[one.site.name], gradients, hidden) for one in far},
        # a linear in groups of rows gives those of one group at a time
        {n: _evened(g.flatten(0, -2)) for n, g in gradients.items() if g is not None and g.shape[-1] == rows[n]},
    )


def _evened(gradients: Tensor) -> Tensor:
    """Gradients (tokens, rows) divided by the root of their length: a few tokens have most of what they all have, and
    say nothing about others. Of zeros nothing is made."""
    length = gradients.to(torch.float64).square().sum(1, keepdim=True).sqrt()
    return gradients * torch.where(length > 0, length.rsqrt(), 0).to(gradients.dtype)


def _counts(site: Site, inputs: Tensor, gradients: Mapping[str, Tensor | None], hidden: Tensor) -> Tensor:
    """1 + c w for all tokens that the site reads, (tokens,). In float64: squares of small gradients leave no room for c
    in float32."""
    n = len(hidden)
    energy = inputs.detach().reshape(n, inputs.numel() // (n * site.cols), -1).to(torch.float64).square().sum(-1)
    weights = torch.zeros_like(energy)
    for name in site.linears:
        gradient = gradients.get(name)
        if gradient is not None:
            weights += gradient.reshape(*energy.shape, -1).to(torch.float64).square().sum(-1)
    weighed = (weights * energy).sum(1, keepdim=True)
    ratio = torch.where(weighed > 0, energy.sum(1, keepdim=True) / weighed, torch.zeros_like(weighed))
    return (1 + ratio * weights).to(hidden.dtype).reshape(-1)


def _earlier(gradient: Tensor, hidden: Tensor) -> bool:
    """Whether a gradient, of the last token's output, is there at earlier tokens. The linear gives (n, tokens, rows),
    where a block has an encoder's tokens and a decoder's not as many as `hidden`."""
    tokens = gradient.shape[1] if gradient.shape[:1] == hidden.shape[:1] and gradient.ndim == 3 else hidden.shape[1]
    squares = gradient.reshape(len(hidden), tokens, -1).square().sum((0, 2))
    return bool(squares[:-1].sum() > NEGLIGIBLE * squares[-1])


def _noise(like: Tensor, seed: int) -> Tensor:
    drawn = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(like.shape, generator=drawn).to(like.device)
