"""Every family with values in config.json that are of no use there: refused by name, or read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from described import describe_infos
from family_table import TABLE
from row_headers import headers
from wrong_values import changed, places, wrong

from quantkit.errors import QuantkitError
from quantkit.families.describe import find_family
from quantkit.tensors import TensorInfo

Checkpoint = tuple[dict[str, Any], dict[str, TensorInfo]]


def checkpoint(name: str) -> Checkpoint:
    """The configuration of a row of the table, and headers of the tensors that its family wants."""
    entry = TABLE[name]
    config = json.loads(json.dumps({**entry.config, "architectures": [entry.architecture]}))
    family = find_family(config).family
    return config, {info.name: info for info in headers(family, family.hparams(config))}


def described(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], what: object) -> None:
    try:
        describe_infos(tensors, config, tokens=400)
    except QuantkitError as error:
        assert error.hint, what
    except Exception as error:
        raise AssertionError(what) from error


@pytest.mark.parametrize("name", TABLE)
def test_a_wrong_value_is_refused_or_read(name: str) -> None:
    """One at each place of config.json, another in each of its neighbours; and lists as long as they should be."""
    config, tensors = checkpoint(name)
    describe_infos(tensors, config, tokens=400)
    for number, path in enumerate(places(config), start=len(name)):
        described(changed(config, path, wrong(number)), tensors, (path, wrong(number)))
    lists = [(key, value) for key, value in config.items() if isinstance(value, list)]
    for key, value in [*lists, ("layer_types", [0] * 2)]:
        described({**config, key: [[]] * len(value)}, tensors, key)


REFUSED = {
    "more layers that share than there are": ("gemma3n", {"num_kv_shared_layers": 10**12}, "num_kv_shared_layers is"),
    "less than none that share": ("gemma4", {"num_kv_shared_layers": -1}, "num_kv_shared_layers is -1"),
    "more rotated than there is": ("bamba", {"attn_rotary_emb": 10**6}, "even number up to head_dim"),
    "an odd number rotated": ("bamba", {"attn_rotary_emb": 3}, "even number up to head_dim"),
    "a base that is none": ("granite-swa", {"rope_theta": None, "rope_parameters": None}, "rope_theta is missing"),
    "no epsilon": ("falcon-mamba", {"layer_norm_epsilon": None}, "layer_norm_epsilon is missing"),
    "a layer that is not there": ("qwen-3.8", {"ple_layer_ids": [0]}, "ple_layer_ids is .0., expected numbers"),
    "layers that are no list": ("qwen-3.8", {"ple_layer_ids": "x"}, "ple_layer_ids is 'x'"),
    "a gate of low rank": ("ling-3", {"no_kda_lora": False}, "no_kda_lora is False, llama.cpp has only True"),
    "another function": ("jais", {"activation_function": "gelu"}, "activation_function is 'gelu'"),
    "no word of a gate": ("spark-x2.5", {"headwise_attn_output_gate": None}, "headwise_attn_output_gate is None"),
    "an expert of all": ("maple", {"num_shared_experts": 2}, "num_shared_experts is 2, llama.cpp has only 0"),
    "no word of rotation": ("maple", {"nope_on_global_attention": None}, "nope_on_global_attention is None"),
    "a scale that is none": ("mpt", {"attn_config": {"softmax_scale": "x"}}, "softmax_scale is 'x', expected a finite"),
    "a list for a function": ("kimi-linear", {"moe_router_activation_func": []}, "moe_router_activation_func is"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named(case: str) -> None:
    name, changes, message = REFUSED[case]
    config, tensors = checkpoint(name)
    with pytest.raises(QuantkitError, match=message):
        describe_infos(tensors, {**config, **changes}, tokens=400)
