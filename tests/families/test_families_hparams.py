"""Defaults and spellings of config.json against transformers, which is where they come from."""

from __future__ import annotations

import math
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError

from quantkit.errors import InputError
from quantkit.families.hparams import ALIASES, read_hparams
from quantkit.families.known import known_families
from quantkit.families.rows import OWN_CODE, Family

OWN_FAMILIES = [family for family in known_families() if OWN_CODE in (family.unserved, family.unwalked)]
OWN = {kind for family in OWN_FAMILIES for kind in family.defaults}
DEFAULTS = {kind: values for f in known_families() for kind, values in f.defaults.items() if kind not in OWN}
SPELLINGS = {kind: {**ALIASES, **f.aliases} for f in known_families() for kind in f.defaults}
# By the checkpoints: the class has no default, or counts what "auto" leaves to whoever reads it.
ONLY_SAID = {
    "phimoe": {"original_max_position_embeddings"}, "falcon_h1": {"head_dim", "ssm_head_dim"},
    "granitemoehybrid": {"ssm_head_dim"}, "bamba": {"ssm_head_dim"},
    "jamba": {"mamba_dt_rank"}, "kimi_linear": {"first_k_dense_replace"},
    "hrm_text": {"num_hidden_layers"},  # transformers says the layers of all passes
    "muse_glimmer_assistant": {"vocab_size"},  # it is the target's
}  # fmt: skip
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96}


def transformers_config(model_type: str, config: dict[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        parsed: dict[str, Any] = AutoConfig.for_model(model_type, **config).to_dict()
    except (ValueError, StrictDataclassError) as refused:
        pytest.skip(f"transformers has no such model, or not of these sizes: {refused}")
    return parsed


@pytest.mark.parametrize("config", [{}, SMALL], ids=["all", "others"])
@pytest.mark.parametrize("model_type", DEFAULTS)
def test_defaults_are_those_of_transformers(model_type: str, config: dict[str, Any]) -> None:
    spelled = SPELLINGS[model_type]
    values = dict(read_hparams(config, DEFAULTS[model_type], spelled).values)
    expected = {spelled.get(key, key): value for key, value in transformers_config(model_type, config).items()}
    rope = expected.get("rope_parameters") or {}  # models with learned positions, or none, have none
    full = rope.get("full_attention", rope.get("main", rope))
    if "rope_theta" in DEFAULTS[model_type]:
        assert values["rope_theta"] == full["rope_theta"]
        assert values["rope_theta_swa"] == rope.get("sliding_attention", {}).get("rope_theta")
    if "partial_rotary_factor" in DEFAULTS[model_type]:
        assert (values.get("partial_rotary_factor") or 1.0) == (full.get("partial_rotary_factor") or 1.0)
    ours = set(DEFAULTS[model_type]) - {"rope_theta", "rope_local_base_freq", "partial_rotary_factor"}
    if expected.get("num_key_value_heads") is None:  # Nemotron's class leaves it to the model; encoders have one kind
        expected["num_key_value_heads"] = values["num_key_value_heads"]
    width = expected.get("intermediate_size")
    expected["intermediate_size"] = width[0] if isinstance(width, list) and len(set(width)) == 1 else width
    ours -= ONLY_SAID.get(model_type, set())
    made_up = ours - set(expected)  # what such a model has not, or counts by a list of its own
    assert made_up <= {"num_attention_heads", "max_position_embeddings", "num_hidden_layers"}
    assert {key: values[key] for key in ours - made_up} == {key: expected[key] for key in ours - made_up}


@pytest.mark.parametrize("family", OWN_FAMILIES, ids=lambda family: family.name)
def test_models_with_code_of_their_own_are_not_transformers(family: Family) -> None:
    import transformers

    assert not any(hasattr(transformers, name) for name in family.hf)


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_every_number_that_transformers_knows_by_default_has_a_default(model_type: str) -> None:
    """A key that could reach the metadata is not forgotten."""
    watched = {
        "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps",
        "num_local_experts", "num_experts", "num_experts_per_tok", "tie_word_embeddings",
        "shared_expert_intermediate_size", "original_max_position_embeddings", "attention_multiplier",
        "embedding_multiplier", "residual_multiplier", "logits_scaling",
    }  # fmt: skip
    said = transformers_config(model_type, {})
    spelled = {SPELLINGS[model_type].get(key, key): value for key, value in said.items()}
    known = {key for key, value in spelled.items() if key in watched and value is not None}
    if "kv_lora_rank" in DEFAULTS[model_type]:
        known -= {"head_dim"}  # heads are made of other numbers
    if DEFAULTS[model_type]["num_attention_heads"] == 0:
        known -= {"intermediate_size"}  # of the mixer, twice the hidden size
    assert known <= set(DEFAULTS[model_type])


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"full_attention": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}},
    ],
)
def test_rope_settings_are_read_in_every_spelling(rope: dict[str, Any]) -> None:
    values = read_hparams({**SMALL, **rope}, DEFAULTS["llama"]).values
    assert (values["rope_type"], values["rope_theta"], values["rope_factor"]) == ("linear", 5e5, 2.0)


@pytest.mark.parametrize("kind", [["yarn"], {}, 3, None, ""])
def test_a_rope_type_may_be_anything(kind: object) -> None:
    read_hparams({**SMALL, "rope_scaling": {"rope_type": kind, "factor": 2.0}}, DEFAULTS["llama"])


def test_experts_are_counted_in_every_spelling() -> None:
    for key in ("num_experts", "num_local_experts"):
        assert read_hparams({**SMALL, key: 60}, DEFAULTS["qwen3_moe"]).count("num_local_experts") == 60


def test_the_text_part_of_a_model_with_vision_wins() -> None:
    config = {"vocab_size": 1, "hidden_size": 1, "text_config": {**SMALL, "vocab_size": 300}}
    hparams = read_hparams(config, DEFAULTS["gemma3_text"])
    assert (hparams.count("vocab_size"), hparams.count("hidden_size")) == (300, 64)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "64"), ("hidden_size", -64), ("hidden_size", 0), ("hidden_size", True), ("hidden_size", 64.5),
        ("hidden_size", 2**31), ("hidden_size", None), ("hidden_size", [64]), ("num_attention_heads", 0),
        ("num_key_value_heads", {}), ("head_dim", "16"), ("rope_parameters", [1]),
        ("rope_scaling", "yarn"), ("num_attention_heads", 10**400),
    ],
)  # fmt: skip
def test_a_bad_number_is_named(key: str, value: object) -> None:
    with pytest.raises(InputError, match=key) as caught:
        read_hparams({**SMALL, key: value}, DEFAULTS["llama"])
    assert caught.value.key == key
    assert caught.value.hint


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, 10**400, "1e-5", True])
def test_a_number_has_to_be_finite(value: object) -> None:
    hparams = read_hparams({**SMALL, "rms_norm_eps": value}, DEFAULTS["llama"])
    with pytest.raises(InputError, match="rms_norm_eps"):
        hparams.number("rms_norm_eps")
