"""The questions that rules ask of an artifact: what is stored how, and what can be cut where."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from quantkit.consumers.subject import Module, Subject
from quantkit.families.names import EXPERTS as EXPERTS
from quantkit.families.roles import Role
from quantkit.records import record

if TYPE_CHECKING:
    from quantkit.qtypes.schemes.base import Traits

# Tensor parallelism cuts the outputs of some layers and the inputs of those that read them.
BY_OUTPUTS = frozenset({
    Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V, Role.ATTN_QKV, Role.FFN_GATE, Role.FFN_UP, Role.FFN_GATE_UP,
})  # fmt: skip
BY_INPUTS = frozenset({Role.ATTN_OUTPUT, Role.FFN_DOWN})

# What configurations call the layouts of each container, as `Traits.format` has it.
GPTQ = frozenset({"gptq", "gptq_v2"})
AWQ = frozenset({"awq"})
BITSANDBYTES = frozenset({"bitsandbytes"})
NATIVE_FP8 = frozenset({"fp8"})
PACKED = frozenset({"pack-quantized"})
INT8 = frozenset({"int-quantized"})
FLOATS = frozenset({"float-quantized", "naive-quantized"})
MLX = frozenset({"mlx"})
NVFP4 = frozenset({"nvfp4-pack-quantized"})
MXFP4 = frozenset({"mxfp4-pack-quantized"})
COMPRESSED = PACKED | INT8 | FLOATS | NVFP4 | MXFP4

WHOLE_STACKS = frozenset({"DbrxForCausalLM", "GptOssForCausalLM"})  # whose experts are never taken apart


@record
class Found:
    """What a rule objects to: a module, or the artifact as a whole."""

    module: Module | None = None


Finder = Callable[[Subject, int], Found | None]  # of a subject cut for so many devices


def whole(test: Callable[[Subject], bool]) -> Finder:
    """An objection to the artifact."""
    return lambda subject, tp: Found() if test(subject) else None


def layers(formats: frozenset[str], test: Callable[[Traits], bool] = lambda traits: True) -> Finder:
    """An objection to the first layer that is stored so."""

    def find(subject: Subject, tp: int) -> Found | None:
        if subject.formats.isdisjoint(formats):
            return None
        return next((Found(m) for m in subject.modules if m.stored_as(formats) and test(m.traits)), None)

    return find


def experts(formats: frozenset[str], test: Callable[[Traits], bool] = lambda traits: True) -> Finder:
    """An objection to the first expert that is stored so."""

    def find(subject: Subject, tp: int) -> Found | None:
        if subject.formats.isdisjoint(formats):
            return None
        found = (m for m in subject.modules if EXPERTS in m.name and m.stored_as(formats))
        return next((Found(m) for m in found if test(m.traits)), None)

    return find


def gates(formats: frozenset[str]) -> Finder:
    """An objection to the first gate of an MLP, not of an expert, that is stored so."""
    return shapes(lambda m, tp: m.stored_as(formats) and m.role is Role.FFN_GATE and EXPERTS not in m.name)


def kept_experts(subject: Subject, tp: int) -> Found | None:
    """An objection to an expert that stays a float in a checkpoint of compressed-tensors with other layers than FP8."""
    if not any(layout.traits.format in COMPRESSED - FLOATS for layout in subject.layouts):
        return None
    return _kept_expert(subject)


def _kept_expert(subject: Subject) -> Found | None:
    return next((Found(m) for m in subject.modules if EXPERTS in m.name and m.layout is None), None)


def float_experts(subject: Subject, tp: int) -> Found | None:
    """An objection to experts that stay floats where other layers are rounded by bitsandbytes."""
    if subject.formats.isdisjoint(BITSANDBYTES):
        return None
    return _kept_expert(subject) or (Found() if subject.architecture in WHOLE_STACKS else None)


def unlike_experts(subject: Subject, tp: int) -> Found | None:
    """An objection to packed experts with other settings than the first ones, wherever they are."""
    found = [m for m in subject.modules if EXPERTS in m.name and m.stored_as(COMPRESSED - FLOATS)]
    return next((Found(m) for m in found if m.layout != found[0].layout), None)


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
    return module.role in BY_OUTPUTS and module.rows % (tp * module.traits.outputs) > 0


def uncut_inputs(module: Module, tp: int) -> bool:
    """Whether a layer that is cut by inputs cannot be cut so."""
    return module.role in BY_INPUTS and module.cols % (tp * module.traits.inputs) > 0


def unfit_for_marlin(formats: frozenset[str], outputs: int, inputs: int) -> Finder:
    """An objection to a layer, or to layers that are fused, with other than multiples of `outputs` and `inputs` on a
    device: q, k and v are one matrix there, gate and up another."""

    def find(subject: Subject, tp: int) -> Found | None:
        fused_with = {module.name: group for group in siblings(subject) for module in group}
        for module in subject.modules:
            if not module.stored_as(formats) or EXPERTS in module.name:
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
