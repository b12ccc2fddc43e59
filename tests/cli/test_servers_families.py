"""Every family as a checkpoint for servers: rounded block by block with moved scales, read back, run, compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import VARIANTS, build
from commands import TINY, quantkit

from quantkit.formats.safetensors.reader import read_safetensors

TEXT = TINY.parent / "calibration.jsonl"
SHORT = ["--samples", 8, "--seqlen", 64]
RECIPE = """
schema = 1
title = "Small"
container = "compressed-tensors"
[weights]
bits = 8
group = 32
[method]
name = "gptq"
transform = "{transform}"
"""


FAMILIES = (
    "llama-biases", "mistral-sliding", "qwen2-tied", "qwen3", "qwen3-moe", "qwen2-moe", "mixtral-4x1M", "gemma2",
    "gemma3", "phi3", "granite",
)  # fmt: skip
CASES = [("olmo2", "awq"), *((family, transform) for family in FAMILIES for transform in ("awq", "smoothquant"))]


@pytest.fixture
def recipe(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Groups that divide the small models, and scales moved wherever the family allows it."""
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.format(transform=request.param))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("family", "recipe"), CASES, indirect=["recipe"])
def test_predicts_as_the_source_does(family: str, recipe: Path, tmp_path: Path) -> None:
    source = build(family, tmp_path / "source", spread=0.2)
    out = tmp_path / "out"
    ran = quantkit("convert", source, "--to", recipe, "--calib", TEXT, *SHORT, "-o", out)
    assert ran.status == 0, ran.stderr
    ran = quantkit("verify", out, "--against", source, "--engine", "torch", "--json")
    assert ran.status == 0, ran.stderr
    found = {check["check"]: check for check in ran.json["checks"]}
    assert found["torch"]["ok"]
    assert found["torch"]["kl_mean"] < 2e-2, "8 bits lose next to nothing, whatever was moved"


@pytest.mark.parametrize("recipe", ["smoothquant"], indirect=True)
def test_a_family_without_norms_to_move_scales_into_is_refused(recipe: Path, tmp_path: Path) -> None:
    """Not taken, and left as it is without a word."""
    ran = quantkit("plan", build("olmo2", tmp_path), "--to", recipe)
    assert ran.status == 4
    assert 'in family "olmo2" no layer reads what a norm gives' in ran.stderr
    assert '"awq"' in ran.stderr


@pytest.mark.parametrize("family", ["qwen3-moe", "mixtral-4x1M"])
def test_experts(family: str, tmp_path: Path) -> None:
    source = build(family, tmp_path / "source", spread=0.2)
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE.format(transform="awq").replace('transform = "awq"\n', ""))
    out = tmp_path / "out"
    ran = quantkit("convert", source, "--to", recipe, "--calib", TEXT, "--samples", 1, "--seqlen", 16, "-o", out)
    assert ran.status == 0, ran.stderr
    assert "experts saw few tokens" in ran.stderr
    layers = json.loads((out / "model.manifest.json").read_text())["layers"]
    experts = [layer for layer in layers if ".experts." in layer["name"]]
    used = {layer["statistics"] for layer in experts}
    assert used <= {"own", "shrunk", "mean", "nothing"}
    assert "shrunk" in used
    assert all(layer["tokens"] == 0 for layer in experts if layer["statistics"] in {"mean", "nothing"})
    names = read_safetensors(out / "model.safetensors").tensors
    routers = {name.removesuffix(".weight") for name in names if name.endswith("gate.weight")}
    assert routers, "they stay as they are"
    assert routers <= set(json.loads((out / "config.json").read_text())["quantization_config"]["ignore"])
    wanted = quantkit(
        "convert", source, "--to", recipe, "--calib", TEXT, "--samples", 1, "--seqlen", 16, "-o", tmp_path / "gated",
        "--require-coverage", 100,
    )  # fmt: skip
    assert wanted.status == 8
    assert "experts saw enough tokens, 100 % were asked for" in wanted.stderr
    assert not list((tmp_path / "gated").glob("*.safetensors"))


def test_an_expert_without_tokens_has_a_place(tmp_path: Path) -> None:
    source = build("qwen3-moe", tmp_path / "source", spread=0.2)
    recipe = tmp_path / "static.toml"
    recipe.write_text(
        'schema = 1\ncontainer = "compressed-tensors"\n[weights]\nbits = 8\ngroup = -1\nactivations = "static"\n'
    )
    out = tmp_path / "out"
    ran = quantkit("convert", source, "--to", recipe, "--calib", TEXT, "--samples", 1, "--seqlen", 4, "-o", out)
    assert ran.status == 0, ran.stderr
    names = read_safetensors(out / "model.safetensors").tensors
    assert sum(name.endswith(".input_scale") for name in names) == sum(name.endswith("weight_scale") for name in names)


def test_fused_projections_are_one_layer(tmp_path: Path) -> None:
    source = build("phi3", tmp_path / "source")
    out = tmp_path / "out"
    assert quantkit("convert", source, "--to", "w8a16", "-o", out).status == 0
    names = read_safetensors(out / "model.safetensors").tensors
    assert "model.layers.0.self_attn.qkv_proj.weight_packed" in names
    assert "model.layers.0.mlp.gate_up_proj.weight_packed" in names


def test_shards_of_the_source_do_not_show(tmp_path: Path) -> None:
    source = build("llama-sharded", tmp_path / "source")
    out = tmp_path / "out"
    assert quantkit("convert", source, "--to", "w8a16", "-o", out).status == 0
    assert [p.name for p in out.glob("*.safetensors*")] == ["model.safetensors"]


def test_every_variant_is_covered() -> None:
    assert {"llama-biases", "qwen3-moe", "mixtral-4x1M", "gemma2", "gemma3", "phi3"} <= set(VARIANTS)


@pytest.mark.parametrize(
    "recipe", [("w8a16",), ("gptq-w4g32", "--calib", TEXT, "--samples", 1, "--seqlen", 16)], ids=["plain", "calibrated"]
)
def test_what_lies_beside_the_language_model_stays(recipe: tuple[object, ...], tmp_path: Path) -> None:
    source = build("gemma3-with-vision", tmp_path / "source")
    out = tmp_path / "out"
    ran = quantkit("convert", source, "--to", *recipe, "-o", out)
    assert ran.status == 0, ran.stderr
    assert "unknown" not in ran.stderr
    section = json.loads((out / "config.json").read_text())["quantization_config"]
    if recipe[0] == "w8a16":
        assert {"re:.*vision_tower.*", "re:.*multi_modal_projector.*"} <= set(section["ignore"])
    before, after = (read_safetensors(folder / "model.safetensors").tensors for folder in (source, out))
    beside = [name for name in before if "vision_tower" in name]
    assert beside
    assert all(after[name].dtype == before[name].dtype for name in beside)
    assert quantkit("verify", out, "--against", source).status == 0


def test_masks_that_older_checkpoints_hold_are_carried_over(tmp_path: Path) -> None:
    """Flags, as Pythia has them in every layer: no weight, and nothing to be rounded."""
    import torch
    from safetensors.torch import load_file, save_file

    source, out = build("pythia", tmp_path / "source"), tmp_path / "out"
    weights, mask = load_file(source / "model.safetensors"), torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()
    masks = {f"gpt_neox.layers.{layer}.attention.bias": mask.clone() for layer in (0, 1)}
    save_file({**weights, **masks}, source / "model.safetensors", metadata={"format": "pt"})
    assert quantkit("convert", source, "--to", "w8a16", "-o", out).status == 0
    made = load_file(out / "model.safetensors")
    assert all(made[name].equal(mask) for name in masks)
    assert quantkit("verify", out, "--against", source).status == 0
