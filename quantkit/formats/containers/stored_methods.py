"""What a checkpoint says of its quantization: which method, and how the weight of each module is stored.

Writers say it in config.json, in a file beside it, or not at all; the names of tensors then tell who wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers import awq, bitsandbytes, compressed_tensors, fp8, gptq
from quantkit.formats.containers.compressed_presets import UNQUANTIZED, preset
from quantkit.formats.containers.fp8 import FP8Layout
from quantkit.formats.containers.pattern_sets import Targets
from quantkit.formats.containers.patterns import REGEX
from quantkit.formats.containers.read_only import (
    MLX_BITS,
    MLX_GROUPS,
    MLXLayout,
    PresetLayout,
    SaidLayout,
    ScaledFloats,
)
from quantkit.formats.containers.settings import choice, integer, section
from quantkit.formats.containers.stored_parts import DAMAGED
from quantkit.untrusted import shown

# Files beside config.json that describe a quantization, in the order in which servers look for them.
SIDE_CONFIGS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")

LayoutOf = Callable[[str], SaidLayout]  # of the module so called; raises for one that no setting is about


def declared(config: Mapping[str, Any], sides: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """What a checkpoint says of its quantization, None where it says nothing. The result has a `quant_method`.

    `config` is the parsed config.json, `sides` those of SIDE_CONFIGS that are there. Raises InputError for a section
    that is not an object, UnsupportedError for one of an unknown method.
    """
    text = config.get("text_config")
    places = [config, *([text] if isinstance(text, Mapping) else [])]
    found = [place[key] for place in places for key in CONFIG_KEYS if place.get(key) is not None]
    found += [sides[name] for name in SIDE_CONFIGS if name in sides]
    if not found:
        return None
    if not isinstance(found[0], Mapping):
        what = f"quantization_config is {shown(repr(found[0]))}, expected an object"
        raise InputError(what, key="quantization_config", path="config.json", hint="config.json is damaged")
    return {**found[0], "quant_method": _method_of(found[0])}


# Keys that tell the method where a section does not name it, the most telling first.
TELLING = {
    "quant_algo": "modelopt", "config_groups": "compressed-tensors", "w_bit": "awq", "zero_point": "awq",
    "desc_act": "gptq", "damp_percent": "gptq", "load_in_8bit": "bitsandbytes", "load_in_4bit": "bitsandbytes",
    "weight_block_size": "fp8", "activation_scheme": "fp8", "quantization": "modelopt", "group_size": "mlx",
}  # fmt: skip

# Ends of names of tensors that only one tool writes, and what it would have said of them.
UNSAID: tuple[tuple[str, dict[str, Any]], ...] = (
    (".SCB", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    (".quant_state.bitsandbytes__nf4", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    (".quant_state.bitsandbytes__fp4", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    (".weight_scale_inv", {"quant_method": "fp8"}),
    (".weight_scale_2", {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}),
)
UNTOLD = (
    (".qweight", "GPTQ or AWQ", "add the quantize_config.json of the model"),
    (".biases", "MLX", 'config.json lacks its "quantization", which says bits and group_size: fetch it again'),
    (".weight_packed", "compressed-tensors", "config.json lacks its quantization_config: fetch it again"),
)


def undeclared(names: Iterable[str]) -> Mapping[str, Any] | None:
    """What tensors of these names say of a quantization that no configuration mentions; None for plain ones.

    Raises InputError where they are quantized and it takes a configuration to read them.
    """
    seen = list(names)
    for ending, said in UNSAID:
        if any(name.endswith(ending) for name in seen):
            return said
    for ending, tool, hint in UNTOLD:
        found = next((name for name in seen if name.endswith(ending)), None)
        if found is not None:
            what = f'the weights are quantized by {tool} ("{shown(found)}"), and no file says how'
            raise InputError(what, tensor=found, key="quantization_config", hint=hint)
    return None


def _method_of(quantization: Mapping[str, Any]) -> str:
    """The method that a section names, or the one whose keys it has: old writers named none."""
    name = quantization.get("quant_method")
    if name is None:
        name = next((method for key, method in TELLING.items() if key in quantization), "(none)")
    if not isinstance(name, str) or name not in METHODS:
        what = f'the weights are quantized by an unknown method (quant_method: "{shown(str(name))}")'
        hint = f"read are {', '.join(METHODS)}; else start from the original checkpoint"
        raise UnsupportedError(what, key="quantization_config", hint=hint)
    return name


# What the configurations of each method say


@dataclass(frozen=True)
class _Method:
    """How one quant_method is read: the layout of each module, and the names below a module of what it is made of.

    Longer names come first where one ends another.
    """

    layouts: Callable[[Mapping[str, Any]], LayoutOf]
    components: tuple[str, ...]


def _gptq(quantization: Mapping[str, Any]) -> LayoutOf:
    """`dynamic` of GPTQModel: settings of modules by patterns, of which the first counts; "-:" leaves one as it was."""
    layout = gptq.read_config(quantization)
    overrides = quantization.get("dynamic") or {}
    if not isinstance(overrides, Mapping) or not all(isinstance(value, Mapping) for value in overrides.values()):
        raise InputError("quantization_config.dynamic is no object of objects", key="dynamic", hint=DAMAGED)
    changed = {pattern: value for pattern, value in overrides.items() if not pattern.startswith("-:")}
    targets = {REGEX + pattern.removeprefix("+:"): value for pattern, value in changed.items()}
    patterns = Targets(tuple(targets))
    layouts = {target: gptq.read_config({**quantization, **value}) for target, value in targets.items()}

    def of_module(module: str) -> SaidLayout:
        found = patterns.pattern_for(module)
        return layout if found is None else layouts[found]

    return of_module


def _awq(quantization: Mapping[str, Any]) -> LayoutOf:
    layout = awq.read_config(quantization)
    return lambda module: layout


def _bitsandbytes(quantization: Mapping[str, Any]) -> LayoutOf:
    layout = bitsandbytes.read_config(quantization)
    return lambda module: layout


def _fp8(quantization: Mapping[str, Any]) -> LayoutOf:
    """In blocks as DeepSeek published it, or with scales of other shapes (AutoFP8, Mistral), which the tensors show."""
    if quantization.get("weight_block_size") is None:
        choice(quantization, "fmt", ("e4m3",), "e4m3")
        return lambda module: ScaledFloats()
    layout = FP8Layout(fp8.read_config(quantization))
    return lambda module: layout


def _mlx(quantization: Mapping[str, Any]) -> LayoutOf:
    """Settings of all modules, and those of some by name; false leaves one as it was."""
    layout = _mlx_layout(quantization)
    own = {name: _mlx_layout({**quantization, **said}) for name, said in quantization.items() if isinstance(said, dict)}
    return lambda module: own.get(module, layout)


def _mlx_layout(quantization: Mapping[str, Any]) -> MLXLayout:
    choice(quantization, "mode", ("affine",), "affine")
    return MLXLayout(integer(quantization, "bits", MLX_BITS), integer(quantization, "group_size", MLX_GROUPS))


def _compressed(quantization: Mapping[str, Any]) -> LayoutOf:
    sparsity, transform = _section(quantization, "sparsity_config"), _section(quantization, "transform_config")
    for key, more in (("sparsity_config", sparsity.get("format", "dense") != "dense"),
                      ("transform_config", bool(transform.get("config_groups")))):  # fmt: skip
        if more:
            what = f"quantization_config.{key} says that weights are not only rounded"
            raise UnsupportedError(what, key=key, hint="start from the original checkpoint")
    layouts: dict[str, SaidLayout] = {}
    for name, group in section(quantization, "config_groups").items():
        for target, layout in _group(name, group):
            layouts.setdefault(target, layout)

    ignored = quantization.get("ignore") or ()
    if not isinstance(ignored, list | tuple) or not all(isinstance(target, str) for target in ignored):
        raise InputError("quantization_config.ignore is no list of names", key="ignore", hint=DAMAGED)

    rounded, plain = Targets(tuple(layouts)), Targets(ignored)

    def of_module(module: str) -> SaidLayout:
        target = rounded.target_for(module)
        if plain.means(module):
            what = f'"{shown(module)}" is stored quantized, but quantization_config.ignore names it'
            raise InputError(what, tensor=f"{module}.weight", key="ignore", hint=DAMAGED)
        if target is None:
            what = f'"{shown(module)}" is stored quantized, but no target of config_groups means it'
            raise InputError(what, tensor=f"{module}.weight", key="config_groups", hint=DAMAGED)
        return layouts[target]

    return of_module


def _group(name: str, group: object) -> Iterator[tuple[str, SaidLayout]]:
    """Targets and layout of a group: an object, or the targets of a scheme whose name the group has."""
    if isinstance(group, list):
        if name.upper() != UNQUANTIZED:
            layout = PresetLayout(preset(name))
            yield from ((str(target), layout) for target in group)
        return
    for targets, found in compressed_tensors.read_config({"config_groups": {name: group}}).items():
        yield from ((target, found) for target in targets)


def _section(quantization: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return section(quantization, key) if quantization.get(key) is not None else {}


MODELOPT = (
    "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "W4A16_NVFP4", "NVFP4_AWQ", "MIXED_PRECISION",
)  # fmt: skip


def _modelopt(quantization: Mapping[str, Any]) -> LayoutOf:
    """ModelOpt says the algorithm; layers of MIXED_PRECISION differ, and the tensors of each show which is its own."""
    inner = quantization.get("quantization")
    said = inner if isinstance(inner, Mapping) else quantization
    if said.get("quant_algo") is not None:  # else only the key/value cache is quantized
        choice(said, "quant_algo", MODELOPT)
    return lambda module: ScaledFloats()


METHODS = {
    "gptq": _Method(_gptq, ("qweight", "qzeros", "scales", "g_idx")),
    "awq": _Method(_awq, ("qweight", "qzeros", "scales")),
    "compressed-tensors": _Method(
        _compressed,
        ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale", "weight_g_idx",
         "weight"),
    ),
    "bitsandbytes": _Method(
        _bitsandbytes,
        ("weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
         "weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4", "SCB", "weight_format",
         "weight"),
    ),
    "fp8": _Method(_fp8, ("weight_scale_inv", "weight_scale", "weight")),
    "modelopt": _Method(_modelopt, ("weight_scale_2", "weight_scale_inv", "weight_scale", "weight")),
    "mlx": _Method(_mlx, ("scales", "biases", "weight")),
}  # fmt: skip
