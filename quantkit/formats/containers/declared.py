"""Whether a checkpoint says that its weights are quantized, and how: what a plain one is asked, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.untrusted import shown

# Files beside config.json that describe a quantization, in the order in which servers look for them.
SIDE_CONFIGS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")

# How names of plain weights end: none of a container's own tensors ends like that.
PLAIN = (".weight", ".bias")


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


def undeclared(names: Iterable[str]) -> Mapping[str, Any] | None:
    """What tensors of these names say of a quantization that no configuration mentions; None for plain ones.

    Raises InputError where they are quantized and it takes a configuration to read them.
    """
    seen = [name for name in names if not name.endswith(PLAIN)]
    if not seen:
        return None  # no container is asked, nor imported
    from quantkit.formats.containers.table import readings

    for reading in readings().values():
        for ending, said in reading.unsaid:
            if any(name.endswith(ending) for name in seen):
                return said
    for reading in readings().values():
        for ending, tool, hint in reading.untold:
            found = next((name for name in seen if name.endswith(ending)), None)
            if found is not None:
                what = f'the weights are quantized by {tool} ("{shown(found)}"), and no file says how'
                raise InputError(what, tensor=found, key="quantization_config", hint=hint)
    return None


def _method_of(quantization: Mapping[str, Any]) -> str:
    """The method that a section names, or the one whose keys it has: old writers named none, and MLX never does."""
    from quantkit.formats.containers.table import readings

    known = readings()
    name = quantization.get("quant_method")
    if name is None:
        telling = [(key, method) for method, reading in known.items() for key in reading.telling]
        vague = [(key, method) for method, reading in known.items() for key in reading.vague]
        name = next((method for key, method in [*telling, *vague] if key in quantization), "(none)")
    if not isinstance(name, str) or name not in known:
        what = f'the weights are quantized by an unknown method (quant_method: "{shown(str(name))}")'
        hint = f"read are {', '.join(known)}; else start from the original checkpoint"
        raise UnsupportedError(what, key="quantization_config", hint=hint)
    return name
