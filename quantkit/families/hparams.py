"""The numbers of a checkpoint: config.json with its defaults filled in and its spellings made one.

Checkpoints leave out what transformers' configuration classes fill in, and write rope settings in three ways. The
reference converter sees the filled-in form (it loads `AutoConfig`), so families carry the defaults as data and
`transformers` is not imported. Source: configuration_*.py and modeling_rope_utils.py of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from quantkit.errors import InputError
from quantkit.families.expressions import evaluate, is_name
from quantkit.records import record
from quantkit.untrusted import shown

MAX_COUNT = 2**31 - 1  # GGUF stores counts as u32, llama.cpp reads many of them into int32
MAX_LAYERS = 1 << 14  # something is made for each
LAYERS = "num_hidden_layers"
MAX_NUMBER = float.fromhex("0x1.fffffep+127")  # the largest f32: metadata has no wider numbers

CONFIG_HINT = "download the checkpoint's config.json again, or correct the value"

ALIASES = {"num_experts": "num_local_experts"}  # spelling in a configuration -> the one spelling used here

# where a checkpoint that is more than a language model has the language model's part; the first one there counts
NESTED = (
    "text_config", "llm_config", "lm_config", "language_config", "thinker_config.text_config", "lfm",
    "transformer_layer_config",
)  # fmt: skip
NO_ALIASES: Mapping[str, str] = MappingProxyType({})

BY_LAYER = "by_layer"  # a derived list: for each block the numbers in which it differs from others

SCALED_FROM_SHORTER = frozenset({"llama3", "yarn", "longrope"})  # rope types that know a pretraining context length


@record
class Hparams:
    """Numbers by name: those of config.json, and the derived ones that tensor shapes and metadata keys name.

    Derived: head (dimensions per head), q_rows, kv_rows, qkv_rows, rope_dim, and the rope settings
    rope_type, rope_factor, rope_original_context, rope_theta, rope_theta_swa, rope_attention_factor (in either
    spelling, as the reference reads it), rope_temperature (in the one that transformers reads),
    rope_extrapolation_factor, rope_beta_fast, rope_beta_slow, rope_low_freq_factor, rope_high_freq_factor,
    rope_short_factor, rope_long_factor. A name that is missing or None has no value.
    """

    values: Mapping[str, Any]

    def count(self, key: str) -> int:
        """A positive integer that has to be there, of layers MAX_LAYERS at most. Raises InputError naming the key."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_COUNT:
            raise bad_value(key, value, "a positive integer")
        if key == LAYERS and value > MAX_LAYERS:
            raise bad_value(key, value, f"{MAX_LAYERS:,} at most")
        return value

    def size(self, axis: str) -> int:
        """The size that a row gives an axis: a number, the name of one, or an expression ("2*kd+vd").

        Raises InputError naming what is no count.
        """
        if is_name(axis):
            return self.count(axis)
        found = evaluate(axis, self._at_least_zero)
        if not 0 < found <= MAX_COUNT:
            raise bad_value(axis, found, "a positive integer")
        return found

    def _at_least_zero(self, key: str) -> int:
        return 0 if self.values.get(key) == 0 else self.count(key)

    def number(self, key: str) -> float | None:
        """A finite number, or None where the checkpoint has no such number. Raises InputError naming the key."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_NUMBER:
            raise bad_value(key, value, "a finite number")
        return float(value)

    def required(self, key: str) -> float:
        """A finite number that has to be there."""
        value = self.number(key)
        if value is None:
            raise bad_value(key, None, "a finite number")
        return value

    def flag(self, key: str) -> bool:
        return self.values.get(key) is True

    def of_layer(self, layer: int | None) -> Hparams:
        """The numbers as they are in a block: those that a family lists for each of them (BY_LAYER) over the others."""
        own = self.values.get(BY_LAYER)
        if layer is None or own is None or layer >= len(own):
            return self
        return Hparams({**self.values, **own[layer]})


def nested_part(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The language model's own part of a parsed config.json, None where it has the keys at its root."""
    found = (part_of(config, path) for path in NESTED)
    return next((part for part in found if part is not None), None)


def part_of(config: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """The object of a parsed config.json at a path of keys with dots between, None where there is none."""
    found: object = config
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def merged(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a parsed config.json, those of the language model's own part over those of the root."""
    return {**config, **(nested_part(config) or {})}


def read_hparams(
    config: Mapping[str, Any], defaults: Mapping[str, Any], aliases: Mapping[str, str] = NO_ALIASES
) -> Hparams:
    """Fill in and unify config.json (parsed).

    `defaults` are what transformers fills in for its model type; None means derived from other numbers. What
    config.json says wins over them, and its nested part for the language model over its root. `aliases` are spellings
    beside those that all families share; of two spellings of one number, the one used here wins. Raises InputError for
    numbers that are missing or not numbers.
    """
    named = {**ALIASES, **aliases}
    said = merged(config)
    said = {**{named.get(key, key): value for key, value in said.items()}, **_in_one_spelling(said, named, aliases)}
    values = {**defaults, **said}
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values["num_attention_heads"]
    given = Hparams(values)
    if values["num_attention_heads"] == 0 == defaults.get("num_attention_heads"):  # a family without attention
        return Hparams({**values, **_rope(values, defaults)})
    hidden, heads = given.count("hidden_size"), given.count("num_attention_heads")
    head = hidden // heads if values.get("head_dim") is None else given.count("head_dim")
    if "head_dim" in defaults:
        values["head_dim"] = head
    rope = _rope(values, defaults)
    q_rows, kv_rows = heads * head, given.count("num_key_value_heads") * head
    rotary = Hparams(rope).number("rope_partial_factor")
    return Hparams(
        {
            **values, **rope, "head": head, "q_rows": q_rows, "kv_rows": kv_rows, "qkv_rows": q_rows + 2 * kv_rows,
            "rope_dim": int((1.0 if rotary is None else rotary) * hidden) // heads,
        }
    )  # fmt: skip


def _in_one_spelling(
    said: Mapping[str, Any], named: Mapping[str, str], aliases: Mapping[str, str]
) -> Mapping[str, Any]:
    """What stands under the spelling used here while an alias of the family stands beside it."""
    return {named[key]: said[named[key]] for key in aliases if key in said and named[key] in said}


def _rope(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Rope settings from `rope_parameters` (transformers 5), `rope_scaling` (4), or keys of the root (both)."""
    scaling, parameters = _settings(values, "rope_scaling"), _settings(values, "rope_parameters")
    given = scaling or parameters
    full = _settings(given, "full_attention") or given
    sliding = _settings(given, "sliding_attention")
    kind = str(full.get("rope_type") or full.get("type") or "default")
    if "original_max_position_embeddings" in defaults and kind in {"su", "yarn"}:
        kind = "longrope"  # early Phi-3 checkpoints call it so
    return {
        "rope_type": kind,
        "rope_theta": full.get("rope_theta", values.get("rope_theta")),
        "rope_theta_swa": sliding.get("rope_theta", values.get("rope_local_base_freq")),
        "rope_partial_factor": full.get("partial_rotary_factor", values.get("partial_rotary_factor")),
        "rope_original_context": _original_context(values, defaults, full, kind in SCALED_FROM_SHORTER),
        "rope_attention_factor": full.get("attention_factor", full.get("attn_factor")),
        "rope_temperature": full.get("attention_factor"),
        **{
            f"rope_{key}": full.get(key)
            for key in (
                "factor", "extrapolation_factor", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor",
                "short_factor", "long_factor", "alpha", "mscale_all_dim", "llama_4_scaling_beta",
            )
        },
    }  # fmt: skip


def _original_context(
    values: Mapping[str, Any], defaults: Mapping[str, Any], rope: Mapping[str, Any], scaled: bool
) -> Any:
    """The context length before rope scaling. Phi-3 has a field of its own, which wins where scaling is on."""
    key = "original_max_position_embeddings"
    if scaled and key in defaults:
        return values[key]
    if rope.get(key) is not None:
        return rope[key]
    return values.get("max_position_embeddings") if scaled else values.get(key)


def _settings(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise bad_value(key, found, "an object")
    return found


def bad_value(key: str, value: object, expected: str) -> InputError:
    """The error for a value of config.json that is missing (None) or not what was expected."""
    found = "missing" if value is None else shown(repr(value)[:80])
    return InputError(
        f"config.json: {key} is {found}, expected {expected}",
        key=key,
        path="config.json",
        hint=CONFIG_HINT,
    )
