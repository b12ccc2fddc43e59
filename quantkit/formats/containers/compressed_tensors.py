"""compressed-tensors checkpoints: what llm-compressor writes and vLLM, transformers and llama.cpp's converter read.

compressed_tensors_layout.py has their tensors, compressed_tensors_config.py what config.json says of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers.base import (
    DAMAGED,
    EXPERTS,
    Container,
    LayoutOf,
    Reading,
    SaidLayout,
    Writing,
    Written,
    experts_of,
)
from quantkit.formats.containers.base import section as as_section
from quantkit.formats.containers.compressed_tensors_config import quantization_config, read_config
from quantkit.formats.containers.compressed_tensors_layout import CompressedLayout, PresetLayout
from quantkit.formats.containers.compressed_tensors_presets import UNQUANTIZED, preset
from quantkit.formats.containers.modelopt import hf_quant_config
from quantkit.formats.containers.pattern_sets import Targets
from quantkit.formats.containers.settings import section
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.schemes.base import ScaleDtype
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import Float8
from quantkit.untrusted import shown

ALL_EXPERTS = r"re:.*\.experts\..*"


def choose(weights: Weights, dtype: ScaleDtype) -> CompressedLayout:
    """The layout of these weights; scales have the type of the model."""
    if weights.type == "int":
        return CompressedLayout(Integers(weights.bits, weights.group, weights.symmetry, dtype), weights.activations)
    if weights.type == "fp8":
        return CompressedLayout(Float8(weights.granularity, dtype), weights.activations)
    if weights.activations != "none":
        what = f"activations of {weights.type} are rounded at run time only by engines that want other scales"
        raise UnsupportedError(what, hint='use activations = "none"', key="activations")
    return CompressedLayout(NVFP4() if weights.type == "nvfp4" else MXFP4())


def _config(written: Written) -> dict[str, Any]:
    """Most layers are one group of all linears; layers with other settings are named one by one, before it.

    Where there are several groups and experts are all alike, theirs is the first and says so: transformers decodes all
    experts by one group, the first that speaks of experts.
    """
    by_layout: dict[CompressedLayout, list[str]] = {}
    for name, layout in written.layouts.items():
        assert isinstance(layout, CompressedLayout)
        by_layout.setdefault(layout, []).append(name)
    rare = sorted(by_layout, key=lambda layout: len(by_layout[layout]))
    of_experts = [layout for layout in rare if any(EXPERTS in name for name in by_layout[layout])]
    groups: dict[tuple[str, ...], CompressedLayout] = {}
    if len(rare) > 1 and len(of_experts) == 1:
        groups[(ALL_EXPERTS,)] = of_experts[0]
    for layout in rare[:-1]:
        names = [n for n in by_layout[layout] if EXPERTS not in n or not groups]
        if names:
            targets = (_wherever(place) if (place := written.place(name)) else name for name in names)
            groups[tuple(sorted(set(targets)))] = layout
    groups[("Linear",)] = rare[-1]
    stacks = (ALL_EXPERTS,) if written.keeps_experts else ()  # of which vLLM asks by the names of single experts
    beside = (f"re:.*{name.rpartition('.')[2]}.*" for name in written.beside)
    ignore = (*written.plain, *map(_wherever, written.places), *stacks, *beside)
    return quantization_config(groups, ignore=ignore, kv_cache=written.kv_cache)


def _wherever(place: str) -> str:
    """What means a layer wherever its blocks lie in memory, and all that is in the experts of a block. Parts beside the
    language model are named by `ignore`, which counts first."""
    within = r"(?:\..*)?" if experts_of(place) == place else ""
    return rf"re:(?:.*\.)?{re.escape(place)}{within}$"


def _sides(written: Written) -> dict[str, dict[str, Any]]:
    """For TensorRT-LLM what ModelOpt would say of FP8; blocks it finds in config.json."""
    first = next(iter(written.layouts.values())).traits
    if not written.tensorrt or not first.granularity or first.in_blocks:
        return {}
    version = written.writer.partition(":")[2]
    said = hf_quant_config(first.granularity, version=version, kv_cache=written.kv_cache, exclude=written.plain)
    return {"hf_quant_config.json": said}


def layouts(quantization: Mapping[str, Any]) -> LayoutOf:
    sparsity, transform = _section(quantization, "sparsity_config"), _section(quantization, "transform_config")
    for key, more in (("sparsity_config", sparsity.get("format", "dense") != "dense"),
                      ("transform_config", bool(transform.get("config_groups")))):  # fmt: skip
        if more:
            what = f"quantization_config.{key} says that weights are not only rounded"
            raise UnsupportedError(what, key=key, hint="start from the original checkpoint")
    of_target: dict[str, SaidLayout] = {}
    for name, group in section(quantization, "config_groups").items():
        for target, layout in _group(name, group):
            of_target.setdefault(target, layout)

    ignored = quantization.get("ignore") or ()
    if not isinstance(ignored, list | tuple) or not all(isinstance(target, str) for target in ignored):
        raise InputError("quantization_config.ignore is no list of names", key="ignore", hint=DAMAGED)

    rounded, plain = Targets(tuple(of_target)), Targets(ignored)

    def of_module(module: str) -> SaidLayout:
        target = rounded.target_for(module)
        if plain.means(module):
            what = f'"{shown(module)}" is stored quantized, but quantization_config.ignore names it'
            raise InputError(what, tensor=f"{module}.weight", key="ignore", hint=DAMAGED)
        if target is None:
            what = f'"{shown(module)}" is stored quantized, but no target of config_groups means it'
            raise InputError(what, tensor=f"{module}.weight", key="config_groups", hint=DAMAGED)
        return of_target[target]

    return of_module


def _group(name: str, group: object) -> Iterator[tuple[str, SaidLayout]]:
    """Targets and layout of a group: an object, or the targets of a scheme whose name the group has."""
    if isinstance(group, list):
        if name.upper() != UNQUANTIZED:
            layout = PresetLayout(preset(name))
            yield from ((str(target), layout) for target in group)
        return
    for targets, found in read_config({"config_groups": {name: group}}).items():
        yield from ((target, found) for target in targets)


def _section(quantization: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return section(quantization, key) if quantization.get(key) is not None else {}


CONTAINER = Container(
    "compressed-tensors",
    Writing(
        types=("int", "fp8", "nvfp4", "mxfp4"),
        activations=("none", "dynamic", "static"),
        choose=choose,
        config=as_section(_config),
        sides=_sides,
        mixed=True,
    ),
    Reading(
        layouts,
        components=(
            "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale", "weight_g_idx",
            "weight",
        ),
        vague=("config_groups",),
        untold=((".weight_packed", "compressed-tensors", "config.json lacks its quantization_config: fetch it again"),),
    ),
)  # fmt: skip
