"""Plans of checkpoints for servers, from shapes alone: which groups take over where a recipe's do not divide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from commands import quantkit
from headers import checkpoint_of
from llama_folder import shapes, store, weights, write

from quantkit.cli.main import main
from quantkit.errors import RecipeError, UnsupportedError, UsageError
from quantkit.families.hparams import NESTED, part_of
from quantkit.families.linears import outline
from quantkit.formats.containers.packed import as_stored
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.plan import checkpoint as planner
from quantkit.plan.base import STANDARD, Plan
from quantkit.plan.checkpoint import plan_checkpoint
from quantkit.plan.dtypes import KEYS, computed_in, named_in
from quantkit.recipes.read import load_recipe, recipe_names
from quantkit.report.manifest import read_manifest
from quantkit.schemas import json_schema
from quantkit.source import open_source
from quantkit.source.memory import MemoryCheckpoint

SMOLLM = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
OPENLLAMA = {"hidden_size": 3200, "intermediate_size": 8640, "num_attention_heads": 32, "num_key_value_heads": 32}
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "num_hidden_layers": 2,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
FALLING = [name for name in recipe_names() if load_recipe(name).weights.fallback]


def test_no_more_shards_are_planned_than_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    source, options = llama(**SMOLLM), replace(STANDARD, shard_bytes=1 << 20)
    shards = [f for f in plan_checkpoint(source, load_recipe("fp8"), options).files if f.name.endswith(".safetensors")]
    monkeypatch.setattr(planner, "MAX_SHARDS", len(shards))
    assert plan_checkpoint(source, load_recipe("fp8"), options)
    monkeypatch.setattr(planner, "MAX_SHARDS", len(shards) - 1)
    with pytest.raises(
        UsageError, match=f"{len(shards)} shards, of which at most {len(shards) - 1} are read"
    ) as caught:
        plan_checkpoint(source, load_recipe("fp8"), options)
    assert "--max-shard-size" in (caught.value.hint or "")


def llama(**sizes: int) -> MemoryCheckpoint:
    config = LLAMA | sizes
    return replace(checkpoint_of(shapes(config)), config=config)


def qwen3_moe(hidden: int, inner: int) -> MemoryCheckpoint:
    """Two blocks of four experts, whose widths differ."""
    config = {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 2048, "hidden_size": hidden,
        "intermediate_size": 64, "moe_intermediate_size": inner, "num_experts": 4, "num_experts_per_tok": 2,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": hidden // 4,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "norm_topk_prob": True,
        "decoder_sparse_step": 1, "mlp_only_layers": [],
    }  # fmt: skip
    block = {f"self_attn.{which}_proj": (hidden, hidden) for which in "qkvo"}
    block |= {f"self_attn.{which}_norm": (hidden // 4,) for which in "qk"} | {"mlp.gate": (4, hidden)}
    block |= {name: (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
    for expert in range(4):
        sizes = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
        block |= {f"mlp.experts.{expert}.{name}": size for name, size in sizes.items()}
    tensors = {f"model.layers.{layer}.{name}.weight": size for layer in range(2) for name, size in block.items()}
    outside = {"model.embed_tokens.weight": (2048, hidden), "model.norm.weight": (hidden,)}
    return replace(checkpoint_of({**outside, **tensors}), config=config)


def planned(recipe: str, checkpoint: MemoryCheckpoint, **changed: Any) -> Plan:
    found = load_recipe(recipe)
    return plan_checkpoint(checkpoint, replace(found, **changed))


def groups(plan: Plan) -> dict[str, set[int]]:
    """Sizes of groups by the last part of a layer's name."""
    found: dict[str, set[int]] = {}
    for module in plan.rounded:
        found.setdefault(module.name.rpartition(".")[2], set()).add(module.layout.scheme.group)  # type: ignore[union-attr]
    return found


def test_our_recipes_in_groups_name_what_takes_over() -> None:
    grouped = {n for n in recipe_names() if load_recipe(n).mixture is None
               and load_recipe(n).weights.type == "int" and load_recipe(n).weights.group > 32}  # fmt: skip
    assert grouped
    assert set(FALLING) == grouped


@pytest.mark.parametrize("recipe", FALLING)
@pytest.mark.parametrize("sizes", [SMOLLM, OPENLLAMA], ids=["smollm", "openllama"])
def test_every_row_has_whole_groups(recipe: str, sizes: dict[str, int]) -> None:
    plan = planned(recipe, llama(**sizes))
    for module in plan.rounded:
        assert module.tensor.cols % module.layout.scheme.group == 0, module.name  # type: ignore[union-attr]
    ours = load_recipe(recipe)
    wide = {m.name for m in plan.linears if m.cols % ours.weights.group}
    assert wide <= {m.name for m in plan.rounded if m.wanted is not None}


def test_compressed_tensors_changes_only_what_does_not_fit() -> None:
    plan = planned("w4a16", llama(**SMOLLM))
    assert groups(plan) == {name: {64} for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")} | {
        "down_proj": {128}
    }
    config = plan.files[-1].header.decode()
    assert '"group_size": 128' in config
    assert '"group_size": 64' in config


@pytest.mark.parametrize("recipe", ["gptq-w4g128", "awq-w4g128"])
def test_containers_with_one_size_take_one_that_divides_all(recipe: str) -> None:
    plan = planned(recipe, llama(**OPENLLAMA))
    assert set().union(*groups(plan).values()) == {64}
    assert all(m.wanted.startswith("int4-g128") for m in plan.rounded if m.wanted is not None)
    assert '"group_size": 64' in plan.files[-1].header.decode()


def test_experts_fall_back_together() -> None:
    found = groups(planned("w4a16", qwen3_moe(256, 192)))
    assert found["q_proj"] == {128}
    assert found["gate_proj"] == found["up_proj"] == found["down_proj"] == {64}


def test_nothing_changes_where_groups_divide() -> None:
    plan = planned("w4a16", llama(hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=4))
    assert all(module.wanted is None for module in plan.rounded)
    assert not [code for code, _ in plan.warnings if code == "fallback"]


def test_without_a_size_that_fits_the_nearest_is_named() -> None:
    odd = {"hidden_size": 208, "intermediate_size": 208, "num_attention_heads": 4, "num_key_value_heads": 4}
    with pytest.raises(UnsupportedError, match="rows of 208 weights do not divide into groups of 128") as caught:
        planned("w4a16", llama(**odd))
    assert caught.value.hint == "use a group size of 16"


def test_fallback_can_be_refused() -> None:
    with pytest.raises(RecipeError, match="12 of 14 layers") as caught:
        planned("w4a16", llama(**SMOLLM), on_fallback="error")
    assert "--on-fallback report" in (caught.value.hint or "")
    assert planned("w8a16", llama(**SMOLLM), on_fallback="error").rounded


def test_plan_and_manifest_say_what_fell_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "source")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'schema = 1\ncontainer = "compressed-tensors"\n[weights]\nbits = 4\ngroup = 64\nfallback = [48, 16]\n'
    )
    assert main(["plan", str(source), "--to", str(recipe)]) == 0
    shown = capsys.readouterr()
    assert "6 of 7 layers have rows that the recipe's groups do not divide" in shown.out
    assert "model.layers.0.mlp.up_proj  int4-g64 -> int4-g16" in shown.out
    assert "warning[fallback]" in shown.err
    assert main(["plan", str(source), "--to", str(recipe), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    jsonschema.validate(said, json_schema("plan"))
    fallen = {entry["tensor"]: (entry["wanted"], entry["type"]) for entry in said["plans"][0]["fallbacks"]}
    assert fallen["model.layers.0.mlp.up_proj"] == ("int4-g64", "int4-g16")
    out = tmp_path / "out"
    assert main(["convert", str(source), "--to", str(recipe), "-o", str(out)]) == 0
    records = {t.name: t.fallback_from for t in read_manifest(out / "model.manifest.json").tensors}
    assert records["model.layers.0.mlp.up_proj.weight_packed"] == "int4-g64"
    assert records["model.layers.0.mlp.down_proj.weight_packed"] is None
    assert records["model.norm.weight"] is None
    refused = main(["convert", str(source), "--to", str(recipe), "-o", str(out / "x"), "--on-fallback", "error"])
    assert refused == 2
    assert not (out / "x").exists()


def test_an_outline_of_the_experts_is_what_the_test_says() -> None:
    checkpoint = qwen3_moe(256, 192)
    found = outline(checkpoint.tensors(), checkpoint.config)
    assert sum(module.expert is not None for module in found.tensors) == 24


def test_what_stays_plain_has_the_type_of_the_configuration(tmp_path: Path) -> None:
    source = mixed_dtypes(tmp_path / "source", torch_dtype="bfloat16")
    out = tmp_path / "out"
    assert main(["convert", str(source), "--to", "fp8", "-o", str(out)]) == 0
    stored = read_safetensors(out / "model.safetensors").tensors
    assert {t.dtype for name, t in stored.items() if not name.endswith("proj.weight")} == {"BF16"}
    warnings = dict(
        (w["code"], w["message"]) for w in json.loads((out / "model.manifest.json").read_text())["warnings"]
    )
    assert "2 tensors" in warnings["stored-dtype"]
    assert "model.norm.weight" in warnings["stored-dtype"]
    assert main(["verify", str(out), "--against", str(source)]) == 0
    made, was = open_source(str(out)), open_source(str(source))
    norm = "model.norm.weight"
    assert np.array_equal(made.ref(norm).read(0, 1), as_stored(was.ref(norm).read(0, 1), "BF16"))


def test_a_plain_value_that_overflows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = weights("F16") | {"model.norm.weight": store(np.full(32, 70000.0), "F32")}
    source = write(tmp_path / "source", tensors, torch_dtype="float16")
    assert main(["convert", str(source), "--to", "fp8", "-o", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "model.norm.weight[0, 0] is 70000, which F16 cannot hold" in said
    assert "config.json" in said


@pytest.mark.parametrize("recipe", ["nvfp4a16", "mxfp4a16"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_four_bit_floats_make_a_checkpoint_of_bfloat16(recipe: str, dtype: str, tmp_path: Path) -> None:
    source = write(tmp_path / "source", weights({"float16": "F16", "float32": "F32"}[dtype]), torch_dtype=dtype)
    out = tmp_path / "out"
    assert main(["convert", str(source), "--to", recipe, "-o", str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    stored = read_safetensors(out / "model.safetensors").tensors
    assert stored["model.embed_tokens.weight"].dtype == stored["model.norm.weight"].dtype == "BF16"
    codes = {w["code"] for w in json.loads((out / "model.manifest.json").read_text())["warnings"]}
    assert {"dtype", "stored-dtype"} <= codes
    assert main(["verify", str(out), "--against", str(source)]) == 0


def test_a_configuration_without_a_type_gets_one() -> None:
    config = LLAMA | SMOLLM
    checkpoint = replace(checkpoint_of(shapes(config), "float16"), config=config)
    written = json.loads(planned("w8a16", checkpoint).files[-1].header)
    assert written["torch_dtype"] == "float16"
    spoken = replace(checkpoint, config=config | {"dtype": "torch.float32", "text_config": {"dtype": "float16"}})
    assert "torch_dtype" not in json.loads(planned("w8a16", spoken).files[-1].header)
    assert {u.outputs[0].dtype for u in planned("w8a16", spoken).units if u.copy} == {"F32"}


@pytest.mark.parametrize("path", NESTED)
def test_every_part_names_the_type_that_is_stored(path: str) -> None:
    """Loaders make models of their own of parts: those on the way to the language model's, and encoders."""
    *outer, inner = path.split(".")
    config: dict[str, Any] = {
        inner: {"torch_dtype": "float16", "rope_scaling": None},
        "vision_config": {"dtype": "float32"},
    }
    for key in outer:
        config = {key: config | {"torch_dtype": "float16"}}
    named = named_in(config, "BF16")
    part, place = part_of(named, path), part_of(named, ".".join(outer)) if outer else named
    assert part == {"torch_dtype": "bfloat16", "rope_scaling": None}
    assert place is not None
    assert place["vision_config"] == {"dtype": "bfloat16"}
    assert {key: word for key, word in place.items() if key in KEYS} == ({"torch_dtype": "bfloat16"} if outer else {})
    assert named.keys() == config.keys()  # the root names none that it did not name


def test_a_type_in_no_part_of_config_json_is_left_alone() -> None:
    """However deep the mappings are in one another: as deep as a reader of JSON takes them."""
    depth, deep = 900, {"dtype": "float32"}
    for _ in range(depth):
        deep = {"further": deep}
    found = named_in({"dtype": "float32", "further": deep}, "BF16")
    assert found["dtype"] == "bfloat16"
    for _ in range(depth + 1):
        found = found["further"]
    assert found == {"dtype": "float32"}


def test_a_type_is_read_where_a_thinker_names_it() -> None:
    config = LLAMA | SMOLLM
    checkpoint = checkpoint_of(shapes(config), "float16")
    found = outline(checkpoint.tensors(), config)
    inside = {"thinker_config": {"dtype": "bfloat16", "text_config": config}}
    assert computed_in(config, found, checkpoint.tensors()) == "F16"
    assert computed_in(inside, found, checkpoint.tensors()) == "BF16"


@pytest.mark.parametrize("architecture", ["Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"])
def test_a_pickle_that_a_class_asks_for_is_said_to_stay_behind(architecture: str) -> None:
    inner = {**LLAMA, **SMOLLM, "architectures": None, "model_type": "qwen2_5_omni_text"}
    plain = shapes(inner)
    biases = {
        f"{name[:-6]}bias": size[:1]
        for name, size in plain.items()
        if name[:-7].endswith(("q_proj", "k_proj", "v_proj"))
    }
    named = {f"thinker.{name}": size for name, size in (plain | biases).items()}
    config = {"architectures": [architecture], "thinker_config": {"text_config": inner}}
    plan = planned("w8a16", replace(checkpoint_of(named), config=config))
    assert "spk_dict.pt" in dict(plan.warnings)["not-carried"]
    assert "not-carried" not in dict(planned("w8a16", llama(**SMOLLM)).warnings)


@pytest.mark.parametrize("recipe", [n for n in recipe_names() if load_recipe(n).mixture is None])
def test_low_bits_always_warn(recipe: str) -> None:
    found = load_recipe(recipe)
    plan = planned(recipe, llama(hidden_size=512, intermediate_size=1024, num_attention_heads=8, num_key_value_heads=8))
    assert ("low-bits" in dict(plan.warnings)) == (found.weights.type == "int" and found.weights.bits < 3)


def mixed_dtypes(folder: Path, **config: str) -> Path:
    """Weights in bfloat16, norms of the model and of a block in float32."""
    rng = np.random.default_rng(1)
    norms = {name: store(rng.normal(1, 0.1, 32), "F32") for name in ("model.norm.weight",
             "model.layers.0.input_layernorm.weight")}  # fmt: skip
    return write(folder, weights() | norms, **config)


@pytest.mark.parametrize("recipe", ["hf-bf16", "w8a16"])
def test_numbers_of_any_length_are_carried_as_they_are(recipe: str, tmp_path: Path) -> None:
    """`Infinity` is what Python makes of them, and no JSON."""
    folder = write(tmp_path / "m", model_max_length=0, nested={"deep": [0]})
    text = (folder / "config.json").read_text()
    long, beyond = "9" * 400, "1e400"
    text = text.replace('"model_max_length": 0', f'"model_max_length": {long}')
    text = text.replace('"deep": [0]', f'"deep": [{beyond}, Infinity]')
    (folder / "config.json").write_text(text)
    assert quantkit("convert", folder, "--to", recipe, "--out", tmp_path / "out").status == 0
    written = (tmp_path / "out" / "config.json").read_text()
    assert f'"model_max_length": {long}' in written
    assert f'"deep": [{beyond},Infinity]' in "".join(written.split()).replace('"deep":', '"deep": ')
    seen = quantkit("inspect", tmp_path / "out")
    assert "model_max_length" in seen.stdout
    assert seen.status == 0
