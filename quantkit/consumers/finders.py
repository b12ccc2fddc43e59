"""The questions that rules ask of an artifact: what is stored how, and what can be cut where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd, lcm
from typing import TypeVar

from quantkit.consumers.subject import EXPERTS as EXPERTS
from quantkit.consumers.subject import Module, Subject
from quantkit.families.roles import Role
from quantkit.formats.containers.awq import AWQLayout
from quantkit.formats.containers.compressed_tensors import CompressedLayout
from quantkit.formats.containers.fp8 import FP8Layout
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.table import Layout
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import TILE, Float8

# Tensor parallelism cuts the outputs of some layers and the inputs of those that read them.
BY_OUTPUTS = frozenset({
    Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V, Role.ATTN_QKV, Role.FFN_GATE, Role.FFN_UP, Role.FFN_GATE_UP,
})  # fmt: skip
BY_INPUTS = frozenset({Role.ATTN_OUTPUT, Role.FFN_DOWN})

AnyLayout = TypeVar("AnyLayout", bound=Layout)


@dataclass(frozen=True)
class Found:
    """What a rule objects to: a module, or the artifact as a whole."""

    module: Module | None = None


Finder = Callable[[Subject, int], Found | None]  # of a subject cut for so many devices


def whole(test: Callable[[Subject], bool]) -> Finder:
    """An objection to the artifact."""
    return lambda subject, tp: Found() if test(subject) else None


def layers(kind: type[AnyLayout], test: Callable[[AnyLayout], bool] = lambda layout: True) -> Finder:
    """An objection to the first layer with such a layout."""

    def find(subject: Subject, tp: int) -> Found | None:
        for module in subject.modules:
            if isinstance(module.layout, kind) and test(module.layout):
                return Found(module)
        return None

    return find


def experts(test: Callable[[Layout], bool]) -> Finder:
    """An objection to the first rounded expert with such a layout."""

    def find(subject: Subject, tp: int) -> Found | None:
        rounded = ((m, m.layout) for m in subject.modules if EXPERTS in m.name)
        return next((Found(m) for m, layout in rounded if layout is not None and test(layout)), None)

    return find


def kept_experts(subject: Subject, tp: int) -> Found | None:
    """An objection to an expert that stays a float in a checkpoint of compressed-tensors with other layers than FP8."""
    others = (layout for layout in subject.layouts if isinstance(layout, CompressedLayout))
    if all(isinstance(layout.scheme, Float8) for layout in others):
        return None
    return next((Found(m) for m in subject.modules if EXPERTS in m.name and m.layout is None), None)


def shapes(test: Callable[[Module, int], bool]) -> Finder:
    """An objection to the first rounded layer of such a shape."""

    def find(subject: Subject, tp: int) -> Found | None:
        return next((Found(m) for m in subject.modules if m.layout is not None and test(m, tp)), None)

    return find


def cut(test: Callable[[Module, int], bool]) -> Finder:
    """An objection to how a layer is cut for several devices. Heads of keys and values are copied, not cut, where
    there are fewer of them than devices."""

    def find(subject: Subject, tp: int) -> Found | None:
        if tp == 1:
            return None
        for module in subject.modules:
            copied = module.role in (Role.ATTN_K, Role.ATTN_V) and 0 < subject.kv_heads < tp
            if not copied and test(module, tp):
                return Found(module)
        return None

    return find


def fused(test: Callable[[tuple[Module, ...]], Module | None]) -> Finder:
    """An objection to the layers that engines run as one matrix: q, k and v; gate and up; all experts of a block."""

    def find(subject: Subject, tp: int) -> Found | None:
        for group in siblings(subject):
            module = test(group)
            if module is not None:
                return Found(module)
        return None

    return find


def uncut_heads(subject: Subject, tp: int) -> Found | None:
    """An objection to heads that devices cannot share evenly."""
    return Found() if subject.heads % tp > 0 else None


def uncut_key_heads(subject: Subject, tp: int) -> Found | None:
    """An objection to heads of keys and values that can neither be shared evenly nor be copied to as many devices."""
    few = subject.kv_heads
    return Found() if few > 0 and few % tp > 0 and tp % few > 0 else None


def uncut_outputs(module: Module, tp: int) -> bool:
    """Whether a layer that is cut by outputs cannot be cut so."""
    return module.role in BY_OUTPUTS and module.rows % (tp * outputs_per_part(module.layout)) > 0


def uncut_inputs(module: Module, tp: int) -> bool:
    """Whether a layer that is cut by inputs cannot be cut so."""
    return module.role in BY_INPUTS and module.cols % (tp * inputs_per_part(module.layout)) > 0


def unfit_for_marlin(kind: type[Layout], outputs: int, inputs: int) -> Finder:
    """An objection to a layer, or to layers that are fused, with other than multiples of `outputs` and `inputs` on a
    device: q, k and v are one matrix there, gate and up another."""

    def find(subject: Subject, tp: int) -> Found | None:
        fused_with = {module.name: group for group in siblings(subject) for module in group}
        for module in subject.modules:
            if not isinstance(module.layout, kind) or EXPERTS in module.name:
                continue
            group = fused_with.get(module.name, (module,))
            rows = sum(_rows_on_device(subject, member, tp) for member in group)
            cols = module.cols // (tp if module.role in BY_INPUTS else 1)
            if rows % outputs or cols % inputs:
                return Found(module)
        return None

    return find


def _rows_on_device(subject: Subject, module: Module, tp: int) -> int:
    """Outputs of a layer on each of `tp` devices; heads of keys and values are copied where there are too few."""
    if module.role not in BY_OUTPUTS:
        return module.rows
    few = module.role in (Role.ATTN_K, Role.ATTN_V) and 0 < subject.kv_heads < tp
    return module.rows // (subject.kv_heads if few else tp)


def siblings(subject: Subject) -> tuple[tuple[Module, ...], ...]:
    """Groups of at least two layers that engines fuse, floats included."""
    return subject.fused


def unlike(group: tuple[Module, ...]) -> Module | None:
    """The first layer of a group that is stored otherwise than the first one."""
    return next((module for module in group if module.layout != group[0].layout), None)


def in_blocks(layout: Layout | None) -> bool:
    """Whether a layer is FP8 in blocks of 128 x 128, in either container."""
    return (
        isinstance(layout, CompressedLayout | FP8Layout)
        and isinstance(layout.scheme, Float8)
        and layout.scheme.strategy == "block"
    )


def inputs_per_part(layout: Layout | None) -> int:
    """How many inputs of a layer stay together where these are cut: those under one scale, and those in one word."""
    if in_blocks(layout):
        return TILE
    if isinstance(layout, CompressedLayout) and isinstance(layout.scheme, NVFP4 | MXFP4):
        return layout.scheme.group
    if layout is None or not isinstance(layout.scheme, Integers):
        return 1
    scheme = layout.scheme
    # With groups in the order of activations, every device holds the scales of all of them.
    ordered = isinstance(layout, GPTQLayout) and layout.act_order
    group = 1 if scheme.group == -1 or ordered else scheme.group
    words = isinstance(layout, GPTQLayout) or (isinstance(layout, CompressedLayout) and layout.activations == "none")
    return lcm(group, codes_in_words(scheme.bits) if words else 1)


def outputs_per_part(layout: Layout | None) -> int:
    """How many outputs of a layer stay together where these are cut: those under one scale, and those in one word."""
    if in_blocks(layout):
        return TILE
    if layout is None or not isinstance(layout.scheme, Integers):
        return 1
    zeros = isinstance(layout, CompressedLayout) and not layout.scheme.symmetric
    return codes_in_words(layout.scheme.bits) if isinstance(layout, AWQLayout | GPTQLayout) or zeros else 1


def codes_in_words(bits: int) -> int:
    """Codes of `bits` bits that fill a whole number of 32-bit words."""
    return 32 // gcd(bits, 32)
