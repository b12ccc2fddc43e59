"""Checkpoints that do not fit: each is an error that names what is wrong, from headers alone."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from described import describe_infos
from hypothesis import given, settings
from hypothesis import strategies as st
from row_headers import headers

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.families.describe import find_family
from quantkit.families.describe_gguf import describe_gguf
from quantkit.families.known import known_families
from quantkit.families.rows import Family
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo

TINY = Path(__file__).parent.parent / "data" / "docs-llama-tiny"
Infos = dict[str, TensorInfo]


def info(name: str, *shape: int, dtype: str = "BF16") -> TensorInfo:
    return TensorInfo(name, dtype, shape, 0)


def tiny() -> tuple[Infos, dict[str, Any]]:
    """Headers and configuration of the bundled Llama: 4 layers, tied embeddings."""
    from safetensors import safe_open

    with safe_open(TINY / "model.safetensors", "np") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return {name: info(name, *shape) for name, shape in shapes.items()}, json.loads((TINY / "config.json").read_text())


def moe(architecture: str = "MixtralForCausalLM", module: str = "block_sparse_moe") -> tuple[Infos, dict[str, Any]]:
    """Two layers of three experts."""
    config = {
        "architectures": [architecture], "vocab_size": 32, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 3,
    }  # fmt: skip
    infos = [info("model.embed_tokens.weight", 32, 8), info("model.norm.weight", 8), info("lm_head.weight", 32, 8)]
    for layer in range(2):
        block = f"model.layers.{layer}."
        for name, *shape in (
            ("self_attn.q_proj", 8, 8), ("self_attn.k_proj", 4, 8), ("self_attn.v_proj", 4, 8),
            ("self_attn.o_proj", 8, 8), ("input_layernorm", 8), ("post_attention_layernorm", 8),
            (f"{module}.gate", 3, 8),
        ):  # fmt: skip
            infos.append(info(f"{block}{name}.weight", *shape))
        for expert in range(3):
            for name, *shape in (("w1", 12, 8), ("w2", 8, 12), ("w3", 12, 8)):
                infos.append(info(f"{block}{module}.experts.{expert}.{name}.weight", *shape))
    return {each.name: each for each in infos}, config


def without(name: str) -> Callable[[Infos], None]:
    def edit(infos: Infos) -> None:
        infos.pop(name)

    return edit


def having(name: str, *shape: int, dtype: str = "BF16") -> Callable[[Infos], None]:
    def edit(infos: Infos) -> None:
        infos[name] = info(name, *shape, dtype=dtype)

    return edit


Q1, EXPERT = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.block_sparse_moe.experts.1.w3.weight"

WRONG_TENSORS: dict[str, tuple[Any, Callable[[Infos], None], type[QuantkitError], str, str]] = {
    "unmapped": (tiny, having("model.layers.1.self_attn.q_prj.weight", 1), UnsupportedError,
                 "model.layers.1.self_attn.q_prj.weight", Q1),
    "unmapped outside": (tiny, having("model.embed.weight", 1), UnsupportedError, "model.embed.weight", "embed_tokens"),
    "norm of another family": (tiny, having("model.layers.0.self_attn.q_norm.weight", 64), UnsupportedError,
                               "q_norm", "nearest"),
    "long number": (tiny, having(f"model.layers.{'9' * 5000}.mlp.up_proj.weight", 1), UnsupportedError, "9999", "mlp"),
    "missing": (tiny, without(Q1), InputError, Q1, "shard"),
    "missing outside": (tiny, without("model.norm.weight"), InputError, "model.norm.weight", "shard"),
    "missing expert": (moe, without(EXPERT), InputError, EXPERT, "shard"),
    "missing head": (moe, without("lm_head.weight"), InputError, "lm_head.weight", "shard"),
    "missing router": (moe, without("model.layers.0.block_sparse_moe.gate.weight"), InputError,
                       "model.layers.0.block_sparse_moe.gate.weight", "shard"),
    "shape": (tiny, having(Q1, 256, 128), InputError, r"\[256, 128\].*\[256, 256\]", "same model"),
    "transposed": (tiny, having("model.layers.0.mlp.up_proj.weight", 256, 768), InputError, r"\[768, 256\]", "same"),
    "rank": (tiny, having("model.norm.weight", 256, 1), InputError, r"\[256, 1\]", "same model"),
    "zero": (tiny, having("model.norm.weight", 0), InputError, r"\[0\]", "same model"),
    "layer too many": (tiny, having("model.layers.4.input_layernorm.weight", 256), InputError,
                       "number 4.*num_hidden_layers 4", "same model"),
    "expert too many": (moe, having("model.layers.0.block_sparse_moe.experts.3.w1.weight", 12, 8), InputError,
                        "number 3.*num_local_experts 3", "same model"),
    "dtype": (tiny, having(Q1, 256, 256, dtype="I8"), UnsupportedError, "I8", "precision"),
    "claimed twice": (moe, having("model.layers.1.mlp.gate.weight", 3, 8), UnsupportedError,
                      "model.layers.1.block_sparse_moe.gate.weight.*model.layers.1.mlp.gate.weight", "remove"),
    "written twice": (tiny, having("model.layers.01.input_layernorm.weight", 256), UnsupportedError,
                      "blk.1.attn_norm.weight", "remove"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_a_tensor_that_does_not_fit_is_named(case: str) -> None:
    model, edit, error, message, hint = WRONG_TENSORS[case]
    infos, config = model()
    describe_infos(infos, config)
    edit(infos)
    with pytest.raises(error, match=message) as caught:
        describe_infos(infos, config)
    assert type(caught.value) is error
    assert caught.value.tensor is not None
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_mandatory_bias_is_missed() -> None:
    infos, config = tiny()
    with pytest.raises(InputError, match=r"self_attn\.q_proj\.bias"):
        describe_infos(infos, {**config, "attention_bias": True})
    with pytest.raises(InputError, match=r"self_attn\.q_proj\.bias"):
        describe_infos(infos, {**config, "architectures": ["Qwen2ForCausalLM"]})


def test_a_second_output_matrix_of_gemma_2_is_dropped_only_where_it_is_the_embedding() -> None:
    infos, config = tiny()
    for layer in range(4):
        for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            having(f"model.layers.{layer}.{name}.weight", 256)(infos)
    having("lm_head.weight", 2048, 256)(infos)
    config["architectures"] = ["Gemma2ForCausalLM"]
    assert set(describe_infos(infos, config).dropped) == {"lm_head.weight"}
    with pytest.raises(UnsupportedError, match=r"lm_head\.weight"):
        describe_infos(infos, {**config, "tie_word_embeddings": False})


def test_computed_frequencies_are_dropped_with_a_reason() -> None:
    infos, config = tiny()
    having("model.layers.0.self_attn.rotary_emb.inv_freq", 32)(infos)
    dropped = describe_infos(infos, config).dropped
    assert set(dropped) == {"model.layers.0.self_attn.rotary_emb.inv_freq"}
    assert "run time" in dropped["model.layers.0.self_attn.rotary_emb.inv_freq"]


WRONG_CONFIGS: dict[str, tuple[Mapping[str, Any], type[QuantkitError], str]] = {
    "typo": ({"architectures": ["LlamaForCausalML"]}, UnsupportedError, '"LlamaForCausalML".*LlamaForCausalLM'),
    "unknown": ({"architectures": ["OlmambaForCausalLM"]}, UnsupportedError, '"OlmambaForCausalLM".*nearest known'),
    "unknown type": ({"model_type": "qwen3_last"}, UnsupportedError, '"qwen3_last".*Qwen3'),
    "type of several parts": (
        {"architectures": None, "model_type": "qwen2_5_vl", "text_config": {"model_type": "qwen2_5_vl_text"}},
        UnsupportedError, 'names no architecture, and its model type "qwen2_5_vl" alone names no family',
    ),
    "long": ({"architectures": ["L" * 10**6]}, UnsupportedError, "1,000,000 characters"),
    "nothing": ({}, InputError, "neither an architecture nor a model type"),
    "no names": ({"architectures": [], "model_type": 3}, InputError, "neither"),
    "a list of types": ({"architectures": [3], "model_type": ["llama"]}, InputError, "neither"),
    "an object for a type": ({"model_type": {"llama": 1}}, InputError, "neither"),
    "quantized": ({"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "gptq"}},
                  UnsupportedError, '"gptq"'),
    "rope type": ({"architectures": ["LlamaForCausalLM"], "rope_scaling": {"type": "spiral"}},
                  UnsupportedError, '"spiral"'),
    "llama3 rope": ({"architectures": ["LlamaForCausalLM"], "rope_scaling": {"type": "llama3", "low_freq_factor": 8}},
                    InputError, "low_freq_factor"),
    "head": ({"architectures": ["LlamaForCausalLM"], "head_dim": -1}, InputError, "head_dim"),
    "context": ({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": -1}, InputError, "max_position"),
    "epsilon": ({"architectures": ["LlamaForCausalLM"], "rms_norm_eps": "1e-5"}, InputError, "rms_norm_eps"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_CONFIGS)
def test_a_configuration_that_does_not_fit_is_explained(case: str) -> None:
    changes, error, message = WRONG_CONFIGS[case]
    infos, config = tiny()
    replaced = {"architectures", "model_type", "rope_parameters"}
    base = {key: value for key, value in config.items() if key not in replaced}
    with pytest.raises(error, match=message):
        describe_infos(infos, {**base, **changes})


def test_own_code_of_a_checkpoint_is_never_run_and_the_user_is_told() -> None:
    infos, config = tiny()
    model = describe_infos(infos, {**config, "auto_map": {"AutoModelForCausalLM": "modeling.Model"}})
    assert [code for code, _ in model.warnings] == ["remote-code"]
    with pytest.raises(UnsupportedError) as caught:
        find_family({"architectures": ["OwnForCausalLM"], "auto_map": {}})
    assert "never run" in str(caught.value.hint)


TOLD = [family for family in known_families() if any(drop.told for drop in family.drop)]


@pytest.mark.parametrize("family", TOLD, ids=[family.name for family in TOLD])
def test_what_no_file_does_is_told_with_how_much_it_is(family: Family) -> None:
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24]}
    model_type = next(iter(family.defaults))
    config = {"architectures": [family.hf[0]], "model_type": model_type, "num_hidden_layers": 1, "rope_scaling": rope}
    infos = {info.name: info for info in headers(family, family.hparams(config))}
    patterns = [drop.pattern for drop in family.drop if drop.told]
    lost = [info(pattern.replace("*", f"{n}.weight"), 2, 2) for pattern in patterns for n in range(2)]
    whole = {**infos, **{one.name: one for one in lost}}
    bare, told = (dict(describe_infos(held, config).warnings).get("part-left-out", "") for held in (infos, whole))
    assert bare == ""
    assert told.startswith("llama.cpp ") and told.endswith(f": {len(lost)} tensors left out")


def test_a_family_is_found_by_its_model_type_where_no_architecture_is_named() -> None:
    for family in known_families():
        for model_type in family.defaults if family.serves({}) else ():
            assert find_family({"model_type": model_type}) == (family, family.hf[0])


def test_side_files_that_cannot_be_read_are_warnings() -> None:
    infos, config = tiny()
    files = {"README.md": b"---\na: [\n---\n", "generation_config.json": b"{", "modules.json": b"\xff"}
    warnings = describe_infos(infos, config, files=files).warnings
    assert [code for code, _ in warnings] == ["side-file", "side-file"]
    assert "README.md" in warnings[0][1]
    assert "generation_config.json" in warnings[1][1]


BOMB = "---\na0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20))


@pytest.mark.parametrize(
    "card",
    [
        b"", b"---", b"---\n", b"\xff\xfe", b"---\n- a\n---\n", b"---\nname: {a: 1}\ntags: {a: b}\nlanguage: 3\n---\n",
        b"---\nbase_model: [[a], 3, null, {name: [1]}]\ndatasets:\n---\n", b"---\nversion: 1.0\nname: 2024-01-01\n---",
        f"{BOMB}tags: *a19\nname: *a19\nlicense: *a19\nbase_model: *a19\n---".encode(), b"---\nx: 2024-99-99\n---",
        b"---\nx: " + b"9" * 5000 + b"\n---", b"---\n" + b"[" * 5000, b"---\n" + b"# x\n" * 10**6 + b"---\n",
    ],
)  # fmt: skip
def test_any_model_card_is_survived(card: bytes) -> None:
    infos, config = tiny()
    model = describe_infos(infos, config, files={"README.md": card})
    assert sum(len(str(kv.value)) for kv in model.metadata) < 5000


def test_text_that_is_not_unicode_is_replaced() -> None:
    infos, config = tiny()
    files = {"README.md": b'---\nname: "a\\ud800b"\n---', "generation_config.json": b'{"sequence": "\\ud800"}'}
    values = {kv.key: kv.value for kv in describe_infos(infos, config, files=files).metadata}
    assert (values["general.name"], values["general.sampling.sequence"]) == ("a?b", "?")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([f.hf[0] for f in known_families()]), st.data())
@settings(derandomize=True, max_examples=300, deadline=None)
def test_any_configuration_is_described_or_refused(architecture: str, data: st.DataObject) -> None:
    """Nothing but a QuantkitError comes out of a configuration, whatever its values are."""
    infos, config = tiny()
    keys = [*config, "rope_scaling", "rope_theta", "sliding_window", "text_config", "num_experts", "auto_map"]
    changes = data.draw(st.dictionaries(st.sampled_from(keys), JSON, max_size=3))
    try:
        describe_infos(infos, {**config, "architectures": [architecture], **changes})
    except QuantkitError as error:
        assert error.hint or error.key


def test_a_gguf_file_without_an_architecture_is_refused() -> None:
    with pytest.raises(InputError, match=r"general\.architecture"):
        describe_gguf({}, (KeyValue("general.type", "string", "adapter"),))


def test_a_gguf_file_with_a_tensor_per_expert_is_refused() -> None:
    """Written until April 2024; llama.cpp of today does not load it, and would not load what is made of it."""
    metadata = (KeyValue("general.architecture", "string", "llama"),)
    infos = {name: info(name, 8, 8, dtype="F16") for name in ("token_embd.weight", "blk.0.ffn_down.3.weight")}
    with pytest.raises(UnsupportedError, match=r"blk\.0\.ffn_down\.3\.weight") as caught:
        describe_gguf(infos, metadata)
    assert "checkpoint" in str(caught.value.hint)
    stacked = {"blk.0.ffn_down_exps.weight": info("blk.0.ffn_down_exps.weight", 4, 8, 8, dtype="F16")}
    assert describe_gguf(stacked, metadata).tensors


def test_an_unknown_architecture_is_described_from_a_gguf_file() -> None:
    metadata = (
        KeyValue("general.architecture", "string", "new"),
        KeyValue("general.file_type", "u32", 1),
        KeyValue("general.alignment", "u32", 64),
        KeyValue("split.count", "u16", 2),
        KeyValue("new.block_count", "u32", 1),
        KeyValue("new.embedding_length", "u32", 8),
        KeyValue("new.attention.head_count", "u32", (4, 2), array=True),
        KeyValue("general.quantization_version", "u32", 2),
    )
    infos = [
        info("token_embd.weight", 32, 8, dtype="F16"),
        info("blk.0.ssm_conv1d.weight", 4, 8, dtype="F32"),
        info("blk.0.attn_norm.weight", 8, dtype="F16"),
        info("blk.0.ffn_gate_inp.weight", 3, 8, dtype="F32"),
        info("blk.0.ffn_down_exps.weight", 3, 8, 4, dtype="q8_0"),
        info("blk.0.route", 7, dtype="I32"),
    ]
    model = describe_gguf({each.name: each for each in infos}, metadata)
    assert [kv.key for kv in model.metadata] == [
        "general.architecture", "new.block_count", "new.embedding_length", "new.attention.head_count",
    ]  # fmt: skip
    assert (model.shape.layers, model.shape.heads, model.shape.kv_heads, model.shape.head_dim) == (1, 4, 4, 2)
    assert [(t.role.value, t.layer, t.stored) for t in model.tensors] == [
        ("token_embd", None, None), ("other", 0, "f32"), ("norm", 0, "f16"), ("router", 0, "f32"),
        ("ffn_down", 0, None), ("other", 0, "i32"),
    ]  # fmt: skip


def test_describe_gguf_takes_the_head_counts_of_layer_0_where_layers_differ() -> None:
    infos = [TensorInfo("blk.0.attn_q.weight", "F32", (8, 8), 256)]
    metadata = (
        KeyValue("general.architecture", "string", "deci"),
        KeyValue("deci.attention.head_count", "u32", array("I", [8, 4]), array=True),
        KeyValue("deci.attention.head_count_kv", "u32", array("I", [2, 0]), array=True),
    )
    shape = describe_gguf({each.name: each for each in infos}, metadata).shape
    assert (shape.heads, shape.kv_heads) == (8, 2)
