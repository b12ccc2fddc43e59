"""adapter_config.json of PEFT: which numbers scale a LoRA, and what of it is not read.

Keys and meanings are those of `LoraConfig` (peft 0.21).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from math import isfinite, sqrt
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.patterns import PatternError, compile_search
from quantkit.records import record
from quantkit.untrusted import shown

ADAPTER_CONFIG = "adapter_config.json"
MAX_RANK = 1 << 14
MAX_PATTERNS = 1 << 14

# Settings that change what the tensors mean -> what they do. Only falsy values are read.
NOT_READ = {
    "layer_replication": "it repeats layers of the base model",
    "target_parameters": "it adapts parameters that are no linear layer of their own (fused experts)",
    "trainable_token_indices": "it replaces single rows of the embedding",
    "alora_invocation_tokens": "it is switched on by a phrase in the text: merged, it would always be on",
    "use_qalora": "it pools the inputs of a layer",
    "use_bdlora": "its matrices are block-diagonal",
    "arrow_config": "it routes between several adapters",
}
# Ways to begin training that change the base model as well: without the changed base the tensors say nothing.
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
HINT = "fetch the adapter again, or correct the value"


@record
class AdapterConfig:
    """The numbers of an adapter. `ranks` and `alphas` are those of modules by pattern (regular expressions)."""

    rank: int
    alpha: float
    base: str | None = None
    rslora: bool = False
    dora: bool = False
    transposed: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """The rank that a module has by its name within the model, as PEFT looks it up."""
        return self.ranks[key] if (key := _matching(self.ranks, module)) is not None else self.rank

    def alpha_of(self, module: str) -> float:
        """The alpha of a module."""
        return self.alphas[key] if (key := _matching(self.alphas, module)) is not None else self.alpha

    def scale_of(self, module: str) -> float:
        """What the product of a module's two matrices is multiplied by."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (sqrt(rank) if self.rslora else rank)


def _matching(patterns: Mapping[str, Any], module: str) -> str | None:
    """The first pattern that fits the end of a name at a dot, as `peft.utils.other.get_pattern_key`."""
    for pattern in patterns:
        try:
            fits = compile_search(rf"^(.*\.)?({pattern})$", cased=True)
        except PatternError as error:
            what = f'{ADAPTER_CONFIG}: the pattern "{shown(pattern)}" cannot be read: {error}'
            raise InputError(what, path=ADAPTER_CONFIG, key="rank_pattern", hint=HINT) from error
        if fits(module):
            return pattern
    return None


def read_adapter_config(said: Mapping[str, Any]) -> AdapterConfig:
    """What adapter_config.json (parsed) says. Raises UnsupportedError naming the setting for an adapter that is no
    plain LoRA, InputError naming the key for a value that is missing or none."""
    kind = said.get("peft_type")
    if kind != "LORA":
        what = f"{ADAPTER_CONFIG}: an adapter of the kind {shown(str(kind))} is not read"
        raise UnsupportedError(what, path=ADAPTER_CONFIG, key="peft_type", hint="LoRA adapters of PEFT are")
    for key, why in NOT_READ.items():
        if said.get(key):
            what = f"{ADAPTER_CONFIG}: an adapter with {key} is not read: {why}"
            hint = "merge it with peft (merge_and_unload, save_pretrained) and give that folder"
            raise UnsupportedError(what, path=ADAPTER_CONFIG, key=key, hint=hint)
    begun = said.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(CHANGED_BASE):
        what = f'{ADAPTER_CONFIG}: training began with "{shown(begun)}", which changes the base model as well'
        hint = "save the adapter once more with peft's path_initial_model_for_weight_conversion, which makes it plain"
        raise UnsupportedError(what, path=ADAPTER_CONFIG, key="init_lora_weights", hint=hint)
    base = said.get("base_model_name_or_path")
    return AdapterConfig(
        rank=_rank(said.get("r"), "r"),
        alpha=_number(said.get("lora_alpha"), "lora_alpha"),
        base=base if isinstance(base, str) and base else None,
        rslora=_flag(said, "use_rslora"),
        dora=_flag(said, "use_dora"),
        transposed=_flag(said, "fan_in_fan_out"),
        ranks={key: _rank(value, "rank_pattern") for key, value in _patterns(said, "rank_pattern")},
        alphas={key: _number(value, "alpha_pattern") for key, value in _patterns(said, "alpha_pattern")},
    )


def _patterns(said: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    found = said.get(key) or {}
    if not isinstance(found, Mapping) or len(found) > MAX_PATTERNS:
        raise _bad(key, found, f"an object of at most {MAX_PATTERNS:,} patterns")
    return list(found.items())


def _flag(said: Mapping[str, Any], key: str) -> bool:
    found = said.get(key)
    if found not in (True, False, None):
        raise _bad(key, found, "true or false")
    return found is True


def _rank(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_RANK:
        raise _bad(key, value, f"a number from 1 to {MAX_RANK:,}")
    return value


def _number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or abs(value) > 1e30:
        raise _bad(key, value, "a finite number")
    return float(value)


def _bad(key: str, value: object, expected: str) -> InputError:
    found = "missing" if value is None else shown(repr(value), 80)
    what = f"{ADAPTER_CONFIG}: {key} is {found}, expected {expected}"
    return InputError(what, path=ADAPTER_CONFIG, key=key, hint=HINT)
