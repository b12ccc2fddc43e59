"""What a compressed-tensors checkpoint says of itself: groups of layers, in the words of QuantizationConfig."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers import compressed_tensors_fp4
from quantkit.formats.containers.compressed_tensors_kv import KV_CACHE_FP8
from quantkit.formats.containers.compressed_tensors_layout import CompressedLayout
from quantkit.formats.containers.settings import choice, integer, section, truth
from quantkit.qtypes.schemes import TILE
from quantkit.qtypes.schemes.base import Activations
from quantkit.qtypes.schemes.integers import Integers
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import Float8, Strategy
from quantkit.untrusted import shown

VERSION = "0.20.0"  # of the compressed-tensors release whose layout this is


def quantization_config(
    groups: Mapping[tuple[str, ...], CompressedLayout], *, ignore: Sequence[str] = ("lm_head",), kv_cache: bool = False
) -> dict[str, Any]:
    """The `quantization_config` of config.json.

    `groups` maps targets (class names such as "Linear", or "re:..." on module paths; the first match wins) to
    layouts. `ignore` names modules that stay as they are. `kv_cache` adds FP8 scales of keys and values.
    """
    formats = {layout.format for layout in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "version": VERSION,
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": {
                "targets": list(targets),
                "weights": _weight_arguments(layout.scheme),
                "input_activations": _activation_arguments(layout),
                "output_activations": None,
                "format": layout.format,
            }
            for number, (targets, layout) in enumerate(groups.items())
        },
        "ignore": list(ignore),
        "kv_cache_scheme": dict(KV_CACHE_FP8) if kv_cache else None,
        "sparsity_config": {},
        "transform_config": {},
        "global_compression_ratio": None,
    }


def _weight_arguments(scheme: Integers | Float8 | NVFP4 | MXFP4) -> dict[str, Any]:
    if isinstance(scheme, NVFP4 | MXFP4):
        strategy = "tensor_group" if isinstance(scheme, NVFP4) else "group"
        dtype = compressed_tensors_fp4.SCALE_TYPES[type(scheme)]
        types = {"group_size": scheme.group, "scale_dtype": dtype, "zp_dtype": dtype}
        return {**_arguments("float", 4, strategy, True), **types}
    if isinstance(scheme, Integers):
        strategy = "channel" if scheme.group == -1 else "group"
        group = None if scheme.group == -1 else scheme.group
        return {**_arguments("int", scheme.bits, strategy, scheme.symmetric), "group_size": group}
    block = [TILE, TILE] if scheme.strategy == "block" else None
    return {**_arguments("float", 8, scheme.strategy, True), "block_structure": block}


def _activation_arguments(layout: CompressedLayout) -> dict[str, Any] | None:
    if layout.activations == "none":
        return None
    kind = "int" if isinstance(layout.scheme, Integers) else "float"
    if layout.activations == "static":
        return _arguments(kind, 8, "tensor", True)
    if isinstance(layout.scheme, Float8) and layout.scheme.strategy == "block":
        return {**_arguments(kind, 8, "group", True), "group_size": TILE, "dynamic": True}
    return {**_arguments(kind, 8, "token", True), "dynamic": True}


def _arguments(kind: str, bits: int, strategy: str, symmetric: bool) -> dict[str, Any]:
    """QuantizationArgs of compressed-tensors; it refuses keys that it does not know."""
    return {
        "num_bits": bits, "type": kind, "strategy": strategy, "symmetric": symmetric, "dynamic": False,
        "group_size": None, "block_structure": None, "actorder": None,
    }  # fmt: skip


def read_config(config: Mapping[str, Any]) -> dict[tuple[str, ...], CompressedLayout]:
    """Targets and layout of every group of a quantization_config, in its order.

    Raises InputError or UnsupportedError naming the key.
    """
    found: dict[tuple[str, ...], CompressedLayout] = {}
    for name, group in section(config, "config_groups").items():
        if not isinstance(group, dict) or not isinstance(group.get("targets"), list):
            what = f'config_groups.{shown(name)} is not an object with targets: presets by name ("W4A16") are not read'
            raise UnsupportedError(what, key=f"config_groups.{name}", hint="save the checkpoint with llm-compressor")
        found[tuple(map(str, group["targets"]))] = _read_group(group)
    return found


def _read_group(group: Mapping[str, Any]) -> CompressedLayout:
    weights = section(group, "weights")
    activations: Activations = "none"
    if group.get("input_activations") is not None:
        dynamic = section(group, "input_activations").get("dynamic")
        activations = "dynamic" if dynamic else "static"
    if choice(weights, "type", ("int", "float"), "int") == "float":
        if integer(weights, "num_bits", (4, 8), 8) == 4:
            sizes = {NVFP4().group: NVFP4, MXFP4().group: MXFP4}
            return CompressedLayout(sizes[integer(weights, "group_size", tuple(sizes))](), activations)
        strategy = choice(weights, "strategy", ("tensor", "channel", "block"), "tensor")
        strategies: dict[str, Strategy] = {"tensor": "tensor", "channel": "channel", "block": "block"}
        if strategy == "block" and weights.get("block_structure") != [TILE, TILE]:
            what = f"blocks of {shown(str(weights.get('block_structure')))}"
            raise UnsupportedError(what, key="block_structure", hint=f"blocks are {TILE} x {TILE}")
        return CompressedLayout(Float8(strategies[strategy]), activations)
    if weights.get("actorder") not in (None, "weight", "static"):
        what = "groups in the order of activations (actorder group), which compressed-tensors gave up"
        raise UnsupportedError(what, key="actorder", hint="start from the original checkpoint")
    strategy = choice(weights, "strategy", ("tensor", "channel", "group"), "tensor")
    size = integer(weights, "group_size", None) if strategy == "group" else -1
    if strategy == "group" and size < 1:
        raise InputError(f"group_size is {size}", key="group_size", hint="config.json is damaged")
    symmetric = truth(weights, "symmetric", True)
    bits = integer(weights, "num_bits", tuple(range(2, 9)), 8)
    return CompressedLayout(Integers(bits, size, "symmetric" if symmetric else "asymmetric"), activations)
