"""Mixtures of experts as one linear per matrix.

transformers stacks the experts of a block into two parameters and multiplies them in one call, where nothing can be
seen of what a single expert gets. Here the stack becomes a list of experts, each with gate_proj (where it has a gate),
up_proj and down_proj: every matrix is a linear like any other, with inputs, statistics and weights of its own. Stacks
with biases are those of gpt-oss, whose gate and up alternate; DBRX has flat ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantkit.errors import UnsupportedError
from quantkit.families.stacked import FLAT, lies_turned


def is_stack(module: Any) -> bool:
    """Whether a module holds the stacked matrices of a block's experts."""
    if _is_flat(module):
        return True
    return any(_is_stacked(module, name) for name in ("gate_up_proj", "up_proj")) and _is_stacked(module, "down_proj")


def _is_flat(module: Any) -> bool:
    parameters = dict(module.named_parameters())
    return all(name in parameters for name in FLAT.values())


def _is_stacked(module: Any, name: str) -> bool:
    parameter = getattr(module, name, None)
    return isinstance(parameter, nn.Parameter) and parameter.ndim == 3


def separate(block: nn.Module, name: str) -> None:
    """Replace every stack of experts inside `block` (on the meta device) by a list of separate ones.

    `name` is the block's, for messages. Raises UnsupportedError for a kind of experts not known here.
    """
    for path, module in list(block.named_modules()):
        if is_stack(module):
            _check_plain(module, f"{name}.{path}")
            parent = block.get_submodule(path.rpartition(".")[0])
            setattr(parent, path.rpartition(".")[2], _separated(module))


def _separated(stack: Any) -> nn.ModuleList:
    if _is_flat(stack):
        separated = _experts(stack.num_experts, stack.hidden_size, stack.ffn_hidden_size, gated=True, biased=False)
        separated.forward = partial(
            _route, tuple(separated), partial(_gated, partial(_halves, stack.mlp.activation_fn))
        )
        return separated
    gated, biased = _is_stacked(stack, "gate_up_proj"), getattr(stack, "has_bias", False)
    turned = gated and lies_turned(stack.gate_up_proj.shape, stack.down_proj.shape)
    count, hidden, inner = stack.down_proj.mT.shape if turned else stack.down_proj.shape
    separated = _experts(count, hidden, inner, gated=gated, biased=biased)
    # not `separated` itself: a cycle would keep the block in memory after it is dropped
    if not hasattr(stack, "_apply_gate") and gated:
        separated.forward = partial(_given_all, tuple(separated), partial(_gated, partial(_halves, stack.act_fn)))
        return separated
    widen = partial(_alternated if biased else _gated, stack._apply_gate) if gated else partial(_ungated, stack.act_fn)
    separated.forward = partial(_route, tuple(separated), widen)
    return separated


def _halves(activation: Callable[[Tensor], Tensor], gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return up * activation(gate)


def _experts(count: int, hidden: int, inner: int, *, gated: bool, biased: bool) -> nn.ModuleList:
    with torch.device("meta"):
        return nn.ModuleList(_expert(hidden, inner, gated=gated, biased=biased) for _ in range(count))


def _expert(hidden: int, inner: int, *, gated: bool, biased: bool) -> nn.Module:
    expert = nn.Module()
    if gated:
        expert.gate_proj = nn.Linear(hidden, inner, bias=biased)
    expert.up_proj = nn.Linear(hidden, inner, bias=biased)
    expert.down_proj = nn.Linear(inner, hidden, bias=biased)
    return expert


def _gated(apply_gate: Callable[[Tensor], Tensor], expert: Any, given: Tensor) -> Tensor:
    return apply_gate(torch.cat([expert.gate_proj(given), expert.up_proj(given)], dim=-1))


def _alternated(apply_gate: Callable[[Tensor], Tensor], expert: Any, given: Tensor) -> Tensor:
    return apply_gate(torch.stack([expert.gate_proj(given), expert.up_proj(given)], dim=-1).flatten(-2))


def _ungated(activation: Callable[[Tensor], Tensor], expert: Any, given: Tensor) -> Tensor:
    return activation(expert.up_proj(given))


def _route(
    experts: Iterable[Any],
    widen: Callable[[Any, Tensor], Tensor],
    hidden: Tensor,
    chosen: Tensor,
    shares: Tensor,
) -> Tensor:
    """hidden (.., d), tokens in all, through the experts of `chosen` (tokens, k), weighted by `shares` (tokens, k).

    Experts in order, as the reference does without fused kernels (MixtralExperts.forward). One that no token chose
    runs on no tokens, so that it is seen.
    """
    tokens = hidden.reshape(-1, hidden.shape[-1])
    total = torch.zeros_like(tokens)
    for number, expert in enumerate(experts):
        token, place = torch.where(chosen == number)
        given = tokens[token]
        out = expert.down_proj(widen(expert, given)) * shares[token, place, None]
        total.index_add_(0, token, out.to(total.dtype))
    return total.reshape(hidden.shape)


def _given_all(experts: Sequence[Any], widen: Callable[[Any, Tensor], Tensor], hidden: Tensor) -> Tensor:
    """hidden (experts * tokens, d): all tokens for each expert, zeros where it was not chosen (Llama4TextExperts)."""
    found = []
    for expert, given in zip(experts, hidden.chunk(len(experts)), strict=True):
        chosen, out = given.any(dim=-1), torch.zeros_like(given)
        out[chosen] = expert.down_proj(widen(expert, given[chosen]))
        found.append(out)
    return torch.cat(found)


def _check_plain(stack: nn.Module, name: str) -> None:
    biased = getattr(stack, "has_bias", False)
    wanted = {
        "is_transposed": biased,
        "is_concatenated": not biased,
        "has_post_expert_norm": False,
    }
    for attribute, value in wanted.items():
        if getattr(stack, attribute, value) is not value:
            raise UnsupportedError(
                f"{name}: experts of class {type(stack).__name__} ({attribute} is {not value}) are not known here",
                hint="quantize without calibration data, or ask for this architecture",
            )
