"""What of config.json reaches the model that calibrates: the numbers that shape it and those it computes with.

Everything else stays outside: token ids, settings of generation and of training, names of kernels and of code, labels,
types, quantization. A folder gives the same results with such keys and without.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.describe import find_family
from quantkit.families.heads import TIED, needs_no_head, stored_head
from quantkit.families.hparams import CONFIG_HINT, Hparams, nested_part
from quantkit.families.layers import (
    DECODER_LAYERS,
    DECODING,
    KINDS,
    PASSES,
    PER_STACK,
    TWO_STACKS,
    block_count,
    trunk_of,
)
from quantkit.families.linears import further_blocks, require_walked
from quantkit.families.mapping import check_shapes
from quantkit.families.names import expert_of
from quantkit.families.rows import Family, Stack
from quantkit.source import Checkpoint
from quantkit.tensors import FLOAT_DTYPES, TensorInfo
from quantkit.units import counted
from quantkit.untrusted import shown

LAYERS = "num_hidden_layers"
VECTOR_VALUES = 64
MAX_LAYERS = 1024  # blocks are built on the meta device, some milliseconds each; published models have up to 126
MAX_PASSES = 1 << 12  # of all layers together, where text goes through them again and again; published: 128
MAX_SLOPED = 1 << 18  # positions of MPT, which has a slope for each beforehand; published models have up to 65,536
EARLY_LONGROPE = frozenset({"su", "yarn"})  # what Phi-3 first called it; transformers 5.23 stumbles over the names

# Keys that families share, from configuration_*.py and modeling_*.py of transformers 5.24.
SHAPES = frozenset({
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "tie_word_embeddings", "attention_bias", "mlp_bias", "num_local_experts",
    "num_experts", "moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers",
})  # fmt: skip
ARITHMETIC = frozenset({
    "hidden_act", "hidden_activation", "rms_norm_eps", "attn_logit_softcapping", "final_logit_softcapping",
    "query_pre_attn_scalar", "num_experts_per_tok", "use_qk_norm", "norm_topk_prob", "use_bidirectional_attention",
})  # fmt: skip
POSITIONS = frozenset({
    "max_position_embeddings", "original_max_position_embeddings", "rope_theta", "rope_scaling", "rope_parameters",
    "rope_local_base_freq", "partial_rotary_factor", "sliding_window", "use_sliding_window", "max_window_layers",
    "layer_types", "sliding_window_pattern",
})  # fmt: skip
MIXTURES = frozenset({
    "n_routed_experts", "n_shared_experts", "num_shared_experts", "routed_scaling_factor", "n_group", "topk_group",
    "topk_method", "first_k_dense_replace", "mlp_layer_types", "shared_expert_intermediate_size",
    "shared_intermediate_size", "num_dense_layers", "use_expert_bias", "moe_num_experts", "moe_k",
    "moe_num_shared_experts", "moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval", "moe_norm_min",
    "moe_topk", "swiglu_alpha", "swiglu_limit",
})  # fmt: skip
LATENTS = frozenset({
    "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rope_interleave",
})  # fmt: skip
RECURRENT = frozenset({
    "linear_conv_kernel_dim", "linear_key_head_dim", "linear_value_head_dim", "linear_num_key_heads",
    "linear_num_value_heads", "full_attention_interval", "mamba_d_ssm", "mamba_n_heads", "mamba_d_head",
    "mamba_n_groups", "mamba_d_state", "mamba_d_conv", "mamba_expand", "mamba_chunk_size", "mamba_conv_bias",
    "mamba_proj_bias", "mamba_norm_before_gate", "mamba_rms_norm", "projectors_bias", "time_step_limit",
})  # fmt: skip
CONVOLVED = frozenset({
    "norm_eps", "conv_bias", "conv_L_cache", "full_attn_idxs", "block_ff_dim", "block_multiple_of",
    "block_ffn_dim_multiplier", "block_auto_adjust_ff_dim",
})  # fmt: skip
COMPUTES = SHAPES | ARITHMETIC | POSITIONS | MIXTURES | LATENTS | RECURRENT | CONVOLVED

# Where the gates of experts are cut off in each layer, which no class has in lists (Ling 3).
LIMITS = ("expert_swiglu_limit_list", "share_expert_swiglu_limit_list")

# Given to every class of a family that computes without, whose own defaults may lie outside a small vocabulary (Phi-3:
# padding is 32000).
NO_TOKENS: Mapping[str, None] = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


def model_settings(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> tuple[str, dict[str, Any]]:
    """The model type and the settings that the model's class is built from, in agreement with the tensors.

    Raises InputError, before anything of a claimed size is made, for numbers that are not those of the tensors, and
    UnsupportedError for an unknown family.
    """
    family, _ = find_family(config)
    require_walked(family, tensors)
    settings = _text_settings(config)
    kind = family.model_type(config)
    hparams = family.numbers(config, tensors)
    count = _count_layers(family, hparams, settings, tensors)
    check_shapes(family, hparams, tensors)
    _check_experts(hparams, tensors)
    _check_slopes(kind, hparams)
    _check_passes(hparams)
    _require_no_limits(settings)
    types = settings.get("layer_types")
    if isinstance(types, list) and len(types) != count:
        raise _contradiction("layer_types", f"has {len(types):,} entries, the checkpoint has {counted(count, 'layer')}")
    settings = {key: value for key, value in settings.items() if key in COMPUTES | family.computes}
    if family.embeds:
        settings[TIED] = True  # what it computes are vectors, whatever head the checkpoint has
    elif hparams.number(DECODING):
        pass  # it says whether outputs are scaled, and nothing of the head
    elif stored_head(tensors):
        settings[TIED] = False
    elif needs_no_head(config, tensors):
        settings[TIED] = True  # as families.heads has it
    if kind == "phi3" and isinstance(rope := settings.get("rope_scaling"), Mapping):
        name = rope.get("rope_type", rope.get("type"))
        early = isinstance(name, str) and name in EARLY_LONGROPE
        settings["rope_scaling"] = {**rope, "type": "longrope" if early else name}
    if kind == "minimax":
        settings |= _of_minimax(family, hparams)
    if kind == "dbrx":  # transformers 5.24 takes no base from where published files say it
        settings.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": hparams.number("rope_theta")})
    if kind == "deepseek_ocr":
        settings["mlp_layer_types"] = _kinds_of_ocr(hparams)
    if kind == "chameleon":
        settings["vocabulary_map"] = hparams.values["image_tokens"]  # which its class never predicts
        if not settings["vocabulary_map"]:
            raise _contradiction("vocabulary_map", "does not say which tokens stand for images", CONFIG_HINT)
    no_tokens = {key: value for key, value in NO_TOKENS.items() if key not in family.computes}
    return kind, {**no_tokens, **{key: _number(value) for key, value in settings.items()}}


def _check_slopes(kind: str, hparams: Hparams) -> None:
    """Raise InputError for a context of MPT that no model has: memory for all of it would be taken."""
    if kind == "mpt" and hparams.count("max_position_embeddings") > MAX_SLOPED:
        what = f"is {hparams.count('max_position_embeddings'):,}, at most {MAX_SLOPED:,} positions are run"
        raise _contradiction("max_seq_len", what, "correct max_seq_len, or quantize without calibration data")


def _check_passes(hparams: Hparams) -> None:
    """Raise InputError for a model that nobody would wait for: all that its layers are called with is held at once."""
    passes = hparams.number(PASSES) or 0
    if passes > MAX_PASSES:
        what = f"and other cycles make {int(passes):,} passes through layers, at most {MAX_PASSES:,} are run"
        raise _contradiction("H_cycles", what, "correct config.json, or quantize without calibration data")


def _of_minimax(family: Family, hparams: Hparams) -> dict[str, Any]:
    """What MiniMax 01 says in words of its own. Raises UnsupportedError where transformers computes something else."""
    rotated, head = hparams.count("rotary_dim"), hparams.count("head")
    if rotated != head:
        what = f"transformers rotates all {head} dimensions of a head, this model {rotated} of them"
        hint = "use --to nf4, int8, w8a8 or fp8, or a GGUF type without calibration text"
        raise UnsupportedError(f"config.json: {what}", key="rotary_dim", path="config.json", hint=hint)
    said = {name: hparams.values[name] for name in family.aliases.values() if name in hparams.values}
    return {**said, "layer_types": list(hparams.values[KINDS])}


def _kinds_of_ocr(hparams: Hparams) -> list[str]:
    """The kinds of layers as transformers has them for the second DeepSeek-OCR, whose text is that of the first.

    Raises UnsupportedError for weights of experts that add up to 1, which its class does not know.
    """
    if hparams.flag("norm_topk_prob"):
        what = "transformers' class of DeepSeek-OCR does not bring the weights of experts to a sum of 1"
        raise UnsupportedError(what, key="norm_topk_prob", hint="quantize without calibration data")
    dense = hparams.count("dense_layers")
    return ["dense" if layer < dense else "sparse" for layer in range(hparams.count("num_hidden_layers"))]


def _number(value: Any) -> Any:
    """A value with its infinite numbers, which JSON has not: transformers writes {"__float__": "Infinity"}."""
    if isinstance(value, Mapping) and value.keys() == {"__float__"}:
        known = {"Infinity": math.inf, "-Infinity": -math.inf}
        return known.get(str(value["__float__"]), value)
    return [_number(one) for one in value] if isinstance(value, list) else value


def fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 (hex) that tells a model from every other: what it computes with, its tensors, and a row of each.

    Reads a row of every matrix and at most VECTOR_VALUES of every vector. Raises what `model_settings` raises.
    """
    tensors = checkpoint.tensors()
    kind, settings = model_settings(checkpoint.config, tensors)
    digest = hashlib.sha256(json.dumps([kind, settings], sort_keys=True).encode())
    for name in sorted(tensors):
        info = tensors[name]
        digest.update(json.dumps([name, info.dtype, info.shape]).encode())
        if info.dtype in FLOAT_DTYPES:
            rows = 1 if len(info.shape) > 1 else min(info.rows, VECTOR_VALUES)
            middle = (info.rows - rows) // 2  # the first rows of an embedding are often the same in all models
            digest.update(checkpoint.ref(name).read(middle, middle + rows).tobytes())
    return digest.hexdigest()


def _text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's keys; a model that sees or hears has them in a part of its own."""
    nested = nested_part(config)
    settings = {str(key): value for key, value in (config if nested is None else nested).items()}
    if nested is not None and "tie_word_embeddings" in config:
        settings.setdefault("tie_word_embeddings", config["tie_word_embeddings"])
    return settings


def _count_layers(
    family: Family, hparams: Hparams, settings: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> int:
    """How many layers the tensors make, those of the first where there are several stacks; config.json has to say the
    same. Blocks after the last layer, which predict further tokens, are none."""
    if family.stacks:
        first, *_ = [_count_stack(family, stack, hparams, tensors) for stack in family.stacks]
        return first
    if hparams.flag(TWO_STACKS):
        return _count_both(family, hparams, settings, tensors)
    key = next((key for key in (LAYERS, *_spelled(family, LAYERS)) if key in settings), LAYERS)
    said = settings.get(key)
    layers = said if isinstance(said, int) and not isinstance(said, bool) and 0 < said <= MAX_LAYERS else 0
    numbers = {number for name in tensors if (number := family.layer_of(name, layers)) is not None}
    count = max(numbers, default=-1) + 1
    if 0 < layers < count:
        count -= min(count - layers, further_blocks(family, hparams))
        numbers = {number for number in numbers if number < count}
    _require_whole(key, count if said is None else said, numbers, count)
    return count


def _count_both(
    family: Family, hparams: Hparams, settings: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> int:
    """The layers of two stacks together, which have as many each and are numbered one after the other."""
    each = trunk_of(hparams)
    numbers = {number for name in tensors if (number := family.layer_of(name, each)) is not None}
    first = {number for number in numbers if number < each}
    for found in (first, {number - each for number in numbers - first}):
        _require_whole(PER_STACK if PER_STACK in settings else LAYERS, each, found, max(found, default=-1) + 1)
    return block_count(hparams)


def _count_stack(family: Family, stack: Stack, hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> int:
    """The same for a stack with names of its own, of which config.json says how many layers it has."""
    begin = stack.source.partition("{}")[0]
    inside = (name[len(begin) :] for name in map(family.source_name, tensors) if name.startswith(begin))
    numbers = {int(text) for name in inside if (text := name.partition(".")[0]).isdecimal() and len(text) < 7}
    key = DECODER_LAYERS if stack.before(hparams) else next(_spelled(family, LAYERS), LAYERS)
    count = max(numbers, default=-1) + 1
    _require_whole(key, stack.count(hparams), numbers, count)
    return count


def _require_whole(key: str, said: object, numbers: Set[int], count: int) -> None:
    """Raise InputError for layers that are not those of config.json, or not all there, UnsupportedError for too many"""
    if isinstance(said, bool) or said != count or not count:
        what = f"is {shown(str(said)[:100])}, the checkpoint has {counted(count, 'layer')}"
        raise _contradiction(key, what, "is a shard missing?")
    if len(numbers) != count:
        missing = next(number for number in range(count) if number not in numbers)
        what = f"is {count}, the checkpoint has no tensor of layer {missing}"
        raise _contradiction(key, what, "is a shard missing?")
    if count > MAX_LAYERS:
        message = f"the checkpoint has {count:,} layers, at most {MAX_LAYERS:,} can be run"
        raise UnsupportedError(message, key=key, hint="quantize without calibration data")


def _spelled(family: Family, name: str) -> Iterator[str]:
    """What else a family's config.json calls a number."""
    return (key for key, meant in family.aliases.items() if meant == name)


def _check_experts(hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> None:
    numbers = {number for name in tensors if (number := expert_of(name)) is not None}
    if numbers and hparams.count("num_local_experts") != max(numbers) + 1:
        said = hparams.count("num_local_experts")
        raise _contradiction("num_experts", f"is {said:,}, the checkpoint has {counted(max(numbers) + 1, 'expert')}")


def _require_no_limits(settings: Mapping[str, Any]) -> None:
    for key in LIMITS:
        said = settings.get(key)
        if isinstance(said, list) and any(said):
            what = f"config.json: {key} cuts off the gates of experts, which transformers does not do in this model"
            raise UnsupportedError(what, key=key, hint="quantize without calibration data")


def _contradiction(key: str, what: str, hint: str | None = None) -> InputError:
    hint = hint or "config.json and the weights are not of the same model"
    return InputError(f"config.json: {key} {what}", key=key, path="config.json", hint=hint)


@contextmanager
def sensible_settings() -> Iterator[None]:
    """Whatever transformers says about bad settings while a class is built of them becomes one InputError."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (
        ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError,
        StrictDataclassError,
    ) as error:  # fmt: skip
        reason = next(reversed(str(error).strip().splitlines()), type(error).__name__)
        what = "transformers does not know " if isinstance(error, KeyError) else ""  # such errors say a name alone
        message = f"config.json: {what}{shown(reason, 200)}"
        raise InputError(message, path="config.json", hint="download config.json again") from error
