"""Which keys of config.json reach the model that calibrates: those it computes with, in agreement with the tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import family_table
import numpy as np
import pytest
import torch
import transformers
from checkpoints import PRE, build
from commands import quantkit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from walks import logits_after, model_of, windows

from quantkit.calibration.walk.settings import MAX_LAYERS, fingerprint, model_settings
from quantkit.errors import InputError, UnsupportedError
from quantkit.plan.describe import describe_source
from quantkit.source import open_source
from quantkit.tensors import TensorInfo

# Keys that published checkpoints have, and that say nothing of what the model computes, at values as bad as can be.
IDLE: dict[str, Any] = {
    "pad_token_id": 10**9, "bos_token_id": -5, "eos_token_id": [10**12, "x"], "sep_token_id": {}, "cls_token_id": 1.5,
    "decoder_start_token_id": 7, "forced_eos_token_id": 10**30, "suppress_tokens": [10**30], "bad_words_ids": "x",
    "badwordsids": [[0]], "temperature": "hot", "top_k": -1, "max_length": 10**30, "num_beams": 0, "do_sample": 3,
    "attention_dropout": 0.9, "hidden_dropout": 0.9, "resid_pdrop": 0.9, "embd_pdrop": 0.9, "dropout": 1.0,
    "initializer_range": "wide", "use_cache": "yes", "pretraining_tp": 8, "output_attentions": True,
    "output_hidden_states": True, "output_router_logits": True, "router_jitter_noise": 5.0, "return_dict": False,
    "router_aux_loss_coef": "x", "torch_dtype": "float3", "dtype": "evil.dtype", "torchscript": True,
    "attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel", "_name_or_path": 3,
    "experts_implementation": "evil/kernel", "_experts_implementation": 5, "_commit_hash": {}, "_flash_attn_2": True,
    "auto_map": {"AutoModelForCausalLM": "evil--modeling.Evil"}, "is_encoder_decoder": True, "is_decoder": True,
    "id2label": {str(i): "x" for i in range(100_000)}, "label2id": {"x": 10**30}, "num_labels": 10**12,
    "problem_type": "odd", "chunk_size_feed_forward": -3, "per_layer_config": {"0": {"hidden_size": 3}},
    "pruned_heads": {"0": [0]}, "gradient_checkpointing": True, "tie_encoder_decoder": True, "add_cross_attention": 1,
    "cross_attention_hidden_size": 10**12, "finetuning_task": 1, "task_specific_params": [], "tokenizer_class": 9,
    "transformers_version": 5, "use_bfloat16": True, "vision_layers": 10**9, "num_layers": 10**9, "n_layer": 10**9,
    "encoder_layers": 10**9, "sub_config": {"num_hidden_layers": 10**9}, "unsloth_version": None, "rope_note": "x",
    "tie_last_hidden_states": True, "problem": float("nan"), "generation_config": {"x": 1}, "num_key": 10**30,
}  # fmt: skip

FAMILIES = ("llama-untied-gqa", "phi3-su", "gemma2", "qwen3-moe", "mixtral-4x1M", "gemma3-with-vision")


def edit(folder: Path, **changes: Any) -> dict[str, Any]:
    """config.json with other values where the text model's numbers are, written back."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for level in (config, config.get("text_config", config)):
        level.update(changes)
    if "text_config" in config:
        config["vision_config"] = {"num_hidden_layers": 10**9, "image_size": 10**9}
    path.write_text(json.dumps(config))
    return config


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_that_compute_nothing_change_no_bit(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path)
    samples = windows(400, count=2, seqlen=20)
    model = model_of(folder)
    expected = logits_after(model, samples)[0]
    edit(folder, **IDLE)
    other = model_of(folder)
    assert other.fingerprint() == model.fingerprint()
    assert torch.equal(logits_after(other, samples)[0], expected)
    assert other.skeleton.model.get_input_embeddings().padding_idx is None


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral-4x1M"])
@pytest.mark.parametrize("count", [1, 10**6, 10**12])
def test_experts_are_those_that_are_there(name: str, count: int, tmp_path: Path) -> None:
    folder = build(name, tmp_path)
    edit(folder, num_experts=count, num_local_experts=count)
    with pytest.raises(InputError, match="expert"):
        model_of(folder)


def layers(numbers: range | list[int]) -> dict[str, TensorInfo]:
    norm = "model.layers.{}.input_layernorm.weight"
    return {(name := norm.format(n)): TensorInfo(name, "BF16", (8,), 16) for n in numbers}


CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_attention_heads": 1}


@pytest.mark.parametrize(
    ("tensors", "said", "error", "message"),
    [
        (layers(range(2)), 10**9, InputError, "num_hidden_layers is 1000000000, the checkpoint has 2 layers"),
        (layers([99_999]), 100_000, InputError, "no tensor of layer 0"),
        (layers([0, 1, 3]), 4, InputError, "no tensor of layer 2"),
        (layers(range(MAX_LAYERS + 1)), MAX_LAYERS + 1, UnsupportedError, "at most 1,024 can be run"),
        ({}, 1, InputError, "the checkpoint has 0 layers"),
    ],
    ids=["more", "one-far-away", "gap", "too-many", "none"],
)
def test_layers_are_those_that_are_there(tensors, said: int, error, message: str) -> None:
    with pytest.raises(error, match=message):
        model_settings({**CONFIG, "num_hidden_layers": said}, tensors)


def test_slopes_are_made_for_no_more_positions_than_any_model_has() -> None:
    tensors = {
        "transformer.blocks.0.norm_1.weight": TensorInfo("transformer.blocks.0.norm_1.weight", "F32", (64,), 256)
    }
    config = {"architectures": ["MptForCausalLM"], "model_type": "mpt", "d_model": 64, "n_heads": 1, "n_layers": 1}
    assert model_settings({**config, "max_seq_len": 65536}, tensors)[0] == "mpt"
    with pytest.raises(InputError, match="max_seq_len is 2,147,483,647, at most 262,144 positions are run"):
        model_settings({**config, "max_seq_len": (1 << 31) - 1}, tensors)


def test_what_remains_is_what_the_model_computes_with() -> None:
    config = {**CONFIG, "num_hidden_layers": 2, "rms_norm_eps": 1e-4, **IDLE}
    kind, settings = model_settings(config, layers(range(2)))
    assert kind == "llama"
    tokens = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    numbers = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 2, "rms_norm_eps": 1e-4}
    assert settings == {**numbers, **tokens}
    assert np.isfinite(settings["rms_norm_eps"])


@pytest.mark.skipif(not hasattr(transformers, "BailingHybridForCausalLM"), reason="this transformers has no Ling 3")
@pytest.mark.parametrize("limits", [[0.0] * 4, [0.0, 0.0, 7.0, None]])
def test_limits_that_no_class_has_are_refused(limits: list[float | None], tmp_path: Path) -> None:
    """Ling 3 cuts off the gates of experts in some layers, which transformers leaves out."""
    checkpoint = open_source(str(family_table.build("ling-3", tmp_path)))
    config = {**checkpoint.config, "expert_swiglu_limit_list": limits}
    if any(limits):
        with pytest.raises(UnsupportedError, match="expert_swiglu_limit_list cuts off the gates of experts"):
            model_settings(config, checkpoint.tensors())
    else:
        assert model_settings(config, checkpoint.tensors()) == model_settings(checkpoint.config, checkpoint.tensors())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "vocabulary_map does not say which tokens stand for images"),
        ({"<image>": 7}, "vocabulary_map does not say which tokens stand for images"),
        ({"IMGIMGAZ": 8448}, "vocabulary_map.IMGIMGAZ is 8448, expected an id below 8,448"),
        ({"IMGIMGAZ": [7]}, "vocabulary_map.IMGIMGAZ is \\[7\\], expected an id"),
        ({"IMGIMGAZ": 7, "a": "x"}, None),
    ],
    ids=["none", "others", "beyond", "list", "one"],
)
def test_tokens_of_images_are_known(said: object, message: str | None, tmp_path: Path) -> None:
    checkpoint = open_source(str(family_table.build("chameleon", tmp_path)))
    config = {**checkpoint.config, "vocabulary_map": said}
    if message is None:
        assert model_settings(config, checkpoint.tensors())[1]["vocabulary_map"] == {"IMGIMGAZ": 7}
    else:
        with pytest.raises(InputError, match=message):
            model_settings(config, checkpoint.tensors())


def store_head(folder: Path, factor: float) -> None:
    """A head beside embeddings that config.json ties: the embeddings, upside down and scaled, or as they are."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    table = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = (table.flip(0) * factor if factor != 1 else table).contiguous().clone()
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_stored_head_is_the_head_though_config_ties_it(factor: float, tmp_path: Path) -> None:
    """transformers' rule and llama.cpp's: the run, the file and the count of its weights have the same one."""
    folder = build("qwen2-tied", tmp_path)
    store_head(folder, factor)
    samples = windows(400, count=1, seqlen=12)
    found, _ = logits_after(model_of(folder), samples)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = whole(input_ids=torch.from_numpy(samples.tokens).long()).logits
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
    described = describe_source(open_source(str(folder)), PRE)
    assert "output.weight" in {t.name for t in described.tensors}
    assert "tied-head" in {code for code, _ in described.warnings}


@pytest.mark.parametrize("tied", [True, False])
def test_models_without_a_head_run_with_their_embeddings(tied: bool, tmp_path: Path) -> None:
    folder = build("Qwen3-Embedding-0.1B", tmp_path)
    samples = windows(400, count=1, seqlen=12)
    expected, _ = logits_after(model_of(folder), samples)
    edit(folder, architectures=["Qwen3Model"], tie_word_embeddings=tied)
    assert torch.equal(logits_after(model_of(folder), samples)[0], expected)


def test_statistics_of_another_model_of_the_same_shapes_are_refused(tmp_path: Path) -> None:
    folder = build("llama-f16", tmp_path)
    text = Path(__file__).parent.parent / "data" / "calibration.jsonl"
    known = tmp_path / "known.safetensors"
    ran = quantkit("calibrate", folder, "--data", text, "-o", known, "--samples", "4", "--seqlen", "32", "--no-hessian")
    assert ran.status == 0, ran.stderr
    options = ("plan", folder, "--to", "q4_0", "--calib", known)
    assert quantkit(*options).status == 0
    first = fingerprint(open_source(str(folder)))
    path = folder / "model.safetensors"
    tensors = {name: tensor * 1.01 for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    assert fingerprint(open_source(str(folder))) != first
    refused = quantkit(*options)
    assert refused.status == 3
    assert "holds statistics of another model" in refused.stderr
    assert "quantkit calibrate" in refused.stderr
