"""What reaches the classes of transformers that calibrate, and what checkpoints for servers leave alone."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import checkpoints
import family_table
import pytest

from quantkit.calibration.walk.settings import COMPUTES, model_settings
from quantkit.consumers.finders import WHOLE_STACKS
from quantkit.errors import UnsupportedError
from quantkit.families.known import known_families
from quantkit.families.linears import outline
from quantkit.plan.checkpoint import plan_checkpoint
from quantkit.recipes.read import load_recipe
from quantkit.source import open_source

# Of training, of generation, of images, or choices among kernels that give the same.
IDLE = frozenset({
    "attention_probs_dropout_prob", "chunk_size_feed_forward", "classifier_activation", "classifier_bias",
    "classifier_pooling", "decoder_bias", "deterministic_flash_attn", "dropout", "hidden_dropout_prob",
    "initializer_cutoff_factor", "is_encoder_decoder", "mlp_dropout", "qa_dropout", "seq_classif_dropout",
    "sparse_pred_ignore_index", "sparse_prediction",
    "L_bp_cycles", "decoder_start_token_id", "dropout_rate", "initializer_factor", "model_parallel_size", "vq_config",
    "add_cross_attention", "altup_coef_clip", "attention_dropout", "attn_pdrop", "bos_token_id", "classifier_dropout",
    "dtype", "emb_pdrop", "embd_pdrop", "embedding_dropout", "eos_token_id", "hidden_dropout", "image_token_id",
    "initializer_range", "input_jitter_noise", "is_decoder", "num_labels", "num_logits_to_keep",
    "num_nextn_predict_layers", "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id",
    "pretraining_tp", "problem_type", "rescale_prenorm_residual", "resid_pdrop", "residual_dropout", "return_dict",
    "router_aux_loss_coef", "router_jitter_noise", "summary_first_dropout", "summary_proj_to_labels",
    "summary_use_proj", "text_config", "time_step_floor", "time_step_init_scheme", "time_step_max", "time_step_min",
    "time_step_scale", "use_associative_scan", "use_cache", "use_mamba_kernels", "use_mambapy", "use_return_dict",
    "video_token_id", "vision_config", "z_loss_coefficient",
})  # fmt: skip


SERVED = [
    (family, kind)
    for family in known_families()
    if not (family.unserved or family.unwalked)
    for kind in family.defaults
]


@pytest.mark.parametrize(("family", "kind"), SERVED, ids=[f"{family.name}-{kind}" for family, kind in SERVED])
def test_what_the_class_computes_with_reaches_it(family, kind):
    """A number of config.json that is left out takes the default of the class, and nothing else would show it."""
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        pytest.skip("transformers has no such model type")
    said = CONFIG_MAPPING[kind]
    modeling = importlib.import_module(said.__module__.replace("configuration_", "modeling_"))
    read = set(re.findall(r"\bconfig\.([a-zA-Z_0-9]+)", Path(str(modeling.__file__)).read_text()))
    fields = {name for base in said.__mro__ for name in getattr(base, "__annotations__", {})}
    numbers = {said.attribute_map.get(name, name) for name in read if name in fields | said.attribute_map.keys()}
    known = COMPUTES | family.computes
    known |= {said.attribute_map.get(name, name) for name in known}
    assert sorted(name for name in numbers - known - IDLE if not name.startswith("_")) == []


@pytest.mark.parametrize("name", ["qwen3.5-mtp", "glm4-moe-mtp"])
def test_blocks_that_predict_further_tokens_stay(name, tmp_path):
    """Neither rounded under the number of a layer nor forgotten: they are carried over and left alone by name."""
    folder = checkpoints.build(name, tmp_path)
    checkpoint = open_source(str(folder))
    tensors, layers = checkpoint.tensors(), checkpoint.config["num_hidden_layers"]
    found = outline(tensors, checkpoint.config)
    further = [n for n in tensors if n.startswith(("mtp.", f"model.layers.{layers}."))]
    matrices = {n.removesuffix(".weight") for n in further if len(tensors[n].shape) > 1}
    checkpoint.close()
    assert {m.layer for m in found.tensors} == set(range(layers))
    assert matrices <= set(found.stay)
    assert not any(m.name in matrices or m.name.startswith("mtp") for m in found.tensors)


# Whose experts are known by their stacks alone: the name of their module, and of a router.
STACKS = {
    "gpt-oss": ("model.layers.1.mlp.experts", "model.layers.0.mlp.router"),
    "dbrx": ("transformer.blocks.1.ffn.experts", "transformer.blocks.0.ffn.router.layer"),
}


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    builds = {name: family_table.build if name in family_table.TABLE else checkpoints.build for name in STACKS}
    folders = {name: build(name, tmp_path_factory.mktemp(name)) for name, build in builds.items()}
    found = {name: open_source(str(folder)) for name, folder in folders.items()}
    yield found
    for checkpoint in found.values():
        checkpoint.close()


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize(
    ("recipe", "key", "names"),
    [
        ("w4a16", "ignore", {r"re:.*\.experts\..*", "ROUTER"}),  # vLLM asks for ".experts.0.gate_proj"
        ("gptq-w4g32", "dynamic", {r"-:.*\.experts.*"}),
        ("awq-w4g128", "modules_to_not_convert", {"EXPERTS", "ROUTER"}),
        ("fp8-native", "modules_to_not_convert", {"EXPERTS", "ROUTER"}),
        ("nf4", "llm_int8_skip_modules", {"EXPERTS", "ROUTER"}),
    ],
)
def test_whole_stacks_are_left_alone_under_the_names_that_vllm_asks_for(recipe, key, names, name, stacks):
    experts, router = STACKS[name]
    plan = plan_checkpoint(stacks[name], load_recipe(recipe))
    assert {unit.name.rpartition(".")[0].rpartition(".")[2] for unit in plan.rounded} <= {"self_attn", "attn"}
    assert "experts-stay" in dict(plan.warnings)
    assert WHOLE_STACKS.issuperset(stacks[name].config["architectures"])
    [config] = [json.loads(file.header) for file in plan.files if file.name == "config.json"]
    said = config["quantization_config"]
    assert {{"EXPERTS": experts, "ROUTER": router}.get(each, each) for each in names} <= set(said[key])


def test_routers_beside_rounded_layers_are_no_modules_of_gptq(stacks):
    """Its readers replace the linears of a block that it names, or all: blocks of any name."""
    plan = plan_checkpoint(stacks["dbrx"], load_recipe("gptq-w4g32"))
    [config] = [json.loads(file.header) for file in plan.files if file.name == "config.json"]
    said = config["quantization_config"]
    assert said["block_name_to_quantize"] == "transformer.blocks"
    assert said["modules_in_block_to_quantize"] == [["norm_attn_norm.attn.Wqkv"], ["norm_attn_norm.attn.out_proj"]]


def test_the_base_of_rotary_embeddings_is_the_one_that_dbrx_was_published_with(stacks):
    checkpoint = stacks["dbrx"]
    config = {key: value for key, value in checkpoint.config.items() if key != "rope_parameters"}
    _, settings = model_settings(config, checkpoint.tensors())
    assert settings["rope_parameters"] == checkpoint.config["rope_parameters"]


def test_what_minimax_says_in_words_of_its_own_reaches_the_class(tmp_path):
    checkpoint = open_source(str(family_table.build("minimax-01", tmp_path)))
    config, tensors = checkpoint.config, checkpoint.tensors()
    own = {key: value for key, value in config.items() if not key.endswith("_factor") and key != "layer_types"}
    kind, settings = model_settings(own, tensors)
    assert (kind, settings) == model_settings(config, tensors)
    assert settings["layer_types"][6:] == ["linear_attention", "full_attention"]
    assert settings["mlp_alpha_factor"] == 1.5
    with pytest.raises(UnsupportedError, match="rotates all 32 dimensions of a head, this model 16 of them"):
        model_settings({**config, "rotary_dim": 16}, tensors)
    checkpoint.close()


def test_narrow_projections_are_left_alone(tmp_path):
    with_linear_attention = open_source(str(checkpoints.build("qwen3.5", tmp_path)))
    plain = plan_checkpoint(with_linear_attention, load_recipe("fp8")).plain
    with_linear_attention.close()
    assert {"model.layers.0.linear_attn.in_proj_a", "model.layers.0.linear_attn.in_proj_b", "lm_head"} <= set(plain)
    assert "model.layers.0.linear_attn.in_proj_qkv" not in plain


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("qwen3-vl", ("visual",)),
        ("paddleocr-vl", ("mlp_AR", "projector", "visual")),
        ("hunyuan-vl", ("vision_tower", "vit")),
        ("muse-glimmer", ("vision_adapter", "vision_projection", "vision_tower")),
        ("qwen3-omni-saved", ("thinker.audio_tower", "thinker.visual")),
    ],
)
def test_encoders_are_left_alone_under_the_names_of_files_and_of_memory(name, beside, tmp_path):
    checkpoint = open_source(str(family_table.build(name, tmp_path)))
    found = outline(checkpoint.tensors(), checkpoint.config)
    plans = [plan_checkpoint(checkpoint, load_recipe(recipe)) for recipe in ("w8a16", "nf4")]
    checkpoint.close()
    assert (found.beside, found.unknown) == (beside, ())
    packed, named = (
        json.loads(file.header)["quantization_config"] for p in plans for file in p.files if file.name == "config.json"
    )
    parts = {part.removeprefix("thinker.") for part in beside}
    assert {f"re:.*{part}.*" for part in parts} <= set(packed["ignore"])  # vLLM has no thinkers
    outer = "thinker." if "thinker." in beside[0] else ""
    assert {f"{outer}model.{part}" for part in parts} <= set(named["llm_int8_skip_modules"])


@pytest.mark.parametrize("how", ["keep = true", "weights = { bits = 8 }"])
def test_experts_of_a_block_that_are_all_alike_are_one_pattern_wherever_they_lie(how, tmp_path):
    """And not one for each of thousands: of so many patterns our own reader takes no checkpoint."""
    file = tmp_path / "one.toml"
    file.write_text(
        'schema = 1\ncontainer = "compressed-tensors"\n[weights]\nbits = 4\ngroup = 128\n'
        f'[[rule]]\nnames = ["*.layers.0.mlp.experts.*"]\n{how}\n'
    )
    checkpoint = open_source(str(family_table.build("qwen3-vl-moe", tmp_path)))
    plan = plan_checkpoint(checkpoint, load_recipe(str(file)))
    checkpoint.close()
    [config] = [json.loads(file.header) for file in plan.files if file.name == "config.json"]
    said = config["quantization_config"]
    named = said["ignore"] if how == "keep = true" else said["config_groups"]["group_0"]["targets"]
    assert len(named) == len(set(named))
    [pattern] = [name for name in named if name.startswith("re:") and "experts" in name]

    def means(module):
        return bool(re.match(pattern.removeprefix("re:"), module))

    inside = [f"experts.{number}.{part}_proj" for number in range(4) for part in ("gate", "up", "down")]
    for start in ("model.language_model.layers", "language_model.model.layers", "model.layers", "layers"):
        assert all(means(f"{start}.0.mlp.{name}") for name in ("experts", *inside))
        others = ("1.mlp.experts", "10.mlp.experts", "0.mlp.gate", "0.mlp.experts_gate", "0.self_attn.q_proj")
        assert not any(means(f"{start}.{name}") for name in (*others, *(f"1.mlp.{name}" for name in inside)))
