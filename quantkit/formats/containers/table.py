"""The containers that servers load, side by side: one row each.

A layout is a container's settings for a layer; `of(layout)` finds the container. All of them answer the same
questions: which tensors a linear layer becomes, what is in them, and what the checkpoint says of itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.formats.containers import awq, bitsandbytes, compressed_tensors, fp8, gptq, plain
from quantkit.formats.containers.awq import AWQLayout
from quantkit.formats.containers.bitsandbytes import BitsandbytesLayout
from quantkit.formats.containers.compressed_tensors import CompressedLayout
from quantkit.formats.containers.fp8 import FP8Layout
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.packed import Entry, PackedTensor, Tensors
from quantkit.formats.containers.plain import PlainLayout
from quantkit.qtypes.schemes.base import Quantized
from quantkit.tensors import F32

IN_BLOCK = re.compile(r"(?:^|\.)layers\.\d+\.(.*)")

Layout = GPTQLayout | AWQLayout | CompressedLayout | BitsandbytesLayout | FP8Layout | PlainLayout


@dataclass(frozen=True)
class Written:
    """What a checkpoint holds, for its configuration.

    `layouts` maps the names of rounded modules to their layouts; `plain` names the linear layers that stay as they
    are, the head among them. `block` names the rounded linears of a block, relative to it, in groups that read the
    same input, in the order of a forward pass. `beside` names parts of the model that are no part of the language
    model, such as "vision_tower". `writer` is "name:version". `damping` is what GPTQ begins with.
    """

    layouts: Mapping[str, Layout]
    plain: tuple[str, ...]
    block: tuple[tuple[str, ...], ...]
    writer: str
    kv_cache: bool = False
    beside: tuple[str, ...] = ()
    damping: float = 0.01


@dataclass(frozen=True)
class Container:
    """One container. `entries(layout, module, rows, cols)`, `pack(layout, module, quantized, input_scale)` and
    `unpack(layout, module, tensors)` are those of its module; `config(written)` is the quantization_config ({}: there
    is none), and `sides(written)` are further JSON files by name.

    `mixed` says that its layers may have several layouts.
    """

    name: str
    layout: type[Any]
    entries: Callable[[Any, str, int, int], tuple[Entry, ...]]
    pack: Callable[[Any, str, Quantized, F32 | None], tuple[PackedTensor, ...]]
    unpack: Callable[[Any, str, Tensors], Quantized]
    config: Callable[[Written], dict[str, Any]]
    sides: Callable[[Written], dict[str, dict[str, Any]]]
    mixed: bool = False


def of(layout: Layout) -> Container:
    """The container whose settings these are."""
    return next(row for row in CONTAINERS.values() if isinstance(layout, row.layout))


def _gptq_config(written: Written) -> dict[str, Any]:
    layout = _only(written)
    assert isinstance(layout, GPTQLayout)
    modules = _named_modules(written)
    return gptq.quantization_config(layout, quantizer=written.writer, modules=modules, damping=written.damping)


def _named_modules(written: Written) -> tuple[tuple[str, ...], ...] | None:
    """The rounded layers as a GPTQ checkpoint names them, None where those are all linear layers of the blocks.

    Readers replace the layers whose names end in one of these. A name inside a block stands for all blocks, so that
    where the blocks differ every layer is given in full.
    """
    plain = {found[1] for name in written.plain if (found := IN_BLOCK.search(name))}
    if not plain:
        return None
    everywhere = not plain.intersection(name for group in written.block for name in group)
    return written.block if everywhere else (tuple(written.layouts),)


def _awq_config(written: Written) -> dict[str, Any]:
    layout = _only(written)
    assert isinstance(layout, AWQLayout)
    return awq.quantization_config(layout, exclude=(*written.plain, *written.beside))


def _bitsandbytes_config(written: Written) -> dict[str, Any]:
    layout = _only(written)
    assert isinstance(layout, BitsandbytesLayout)
    return bitsandbytes.quantization_config(layout, exclude=(*written.plain, *written.beside))


def _compressed_config(written: Written) -> dict[str, Any]:
    """Most layers are one group of all linears; layers with other settings are named one by one, before it."""
    by_layout: dict[CompressedLayout, list[str]] = {}
    for name, layout in written.layouts.items():
        assert isinstance(layout, CompressedLayout)
        by_layout.setdefault(layout, []).append(name)
    rare = sorted(by_layout, key=lambda layout: len(by_layout[layout]))
    groups = {tuple(sorted(by_layout[layout])): layout for layout in rare[:-1]}
    groups[("Linear",)] = rare[-1]
    ignore = (*written.plain, *(f"re:.*{name}.*" for name in written.beside))
    return compressed_tensors.quantization_config(groups, ignore=ignore, kv_cache=written.kv_cache)


def _fp8_config(written: Written) -> dict[str, Any]:
    return fp8.quantization_config(exclude=(*written.plain, *written.beside))


def _same_config(config: Callable[[Written], dict[str, Any]]) -> Callable[[Written], dict[str, dict[str, Any]]]:
    return lambda written: {"quantize_config.json": config(written)}


def _no_sides(written: Written) -> dict[str, dict[str, Any]]:
    return {}


def _only(written: Written) -> Layout:
    """The layout of all layers. Raises UnsupportedError where there are several."""
    first, *others = dict.fromkeys(written.layouts.values())
    if others:
        name = of(first).name
        raise UnsupportedError(
            f"{name} checkpoints have the same bits and groups in every layer, this one would have {len(others) + 1}",
            hint='use container = "compressed-tensors", which has groups of layers',
            key="rule",
        )
    return first


def _without_scale(
    pack: Callable[[Any, str, Quantized], tuple[PackedTensor, ...]],
) -> Callable[[Any, str, Quantized, F32 | None], tuple[PackedTensor, ...]]:
    """For containers that have no place for scales of activations."""

    def packed(layout: Any, module: str, quantized: Quantized, input_scale: F32 | None) -> tuple[PackedTensor, ...]:
        assert input_scale is None, layout
        return pack(layout, module, quantized)

    return packed


CONTAINERS = {
    row.name: row
    for row in (
        Container(
            "gptq", GPTQLayout, gptq.entries, _without_scale(gptq.pack), gptq.unpack, _gptq_config,
            _same_config(_gptq_config),
        ),
        Container(
            "awq", AWQLayout, awq.entries, _without_scale(awq.pack), awq.unpack, _awq_config,
            _same_config(_awq_config),
        ),
        Container(
            "compressed-tensors", CompressedLayout, compressed_tensors.entries, compressed_tensors.pack,
            compressed_tensors.unpack, _compressed_config, _no_sides, mixed=True,
        ),
        Container(
            "bitsandbytes", BitsandbytesLayout, bitsandbytes.entries, _without_scale(bitsandbytes.pack),
            bitsandbytes.unpack, _bitsandbytes_config, _no_sides,
        ),
        Container(
            "fp8", FP8Layout, lambda layout, *of_module: fp8.entries(*of_module),
            _without_scale(lambda layout, module, quantized: fp8.pack(module, quantized)),
            lambda layout, *of_module: fp8.unpack(*of_module), _fp8_config, _no_sides,
        ),
        Container(
            "plain", PlainLayout, plain.entries, _without_scale(plain.pack), plain.unpack, _no_sides, _no_sides,
        ),
    )
}  # fmt: skip


def names() -> Sequence[str]:
    """Names of all containers."""
    return tuple(CONTAINERS)
