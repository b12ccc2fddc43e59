"""Families beyond Llama in transformers: every weight that quantkit decodes is what the loader holds, experts included.

The plain model that an artifact is compared with is loaded from what quantkit decodes, so that transformers itself
brings names and stacks of experts into its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import family_table
import pytest
import torch
import transformers
from activations import round_inputs
from comparisons import FLOAT32, distance, same
from expected import decoded, quantization
from loaders import computes_in_float32, loaded_weights
from safetensors.torch import save_file
from transformers import PreTrainedModel

import quantkit

LOADED = {
    "granite-4-h": "w4a16", "falcon-h1": "w4a16", "nemotron-3": "w4a16", "jamba": "fp8", "trinity": "w4a16",
    "k-exaone": "w4a16", "cohere2-moe": "w4a16", "hunyuan-moe": "w4a16", "gemma4": "w8a8", "qwen3.5-moe": "fp8",
    "lfm2-moe": "w4a16", "qwen3-vl": "nf4", "gemma4-e": "w4a16", "gemma3n": "fp8", "gpt-oss": "w8a8",
}  # fmt: skip
NAMED = {"gemma4-moe": "w4a16", "qwen3-vl-moe": "fp8"}  # whose experts transformers knows by their stack alone


def load(folder: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """A checkpoint in the class that its config.json names."""
    [name] = json.loads((folder / "config.json").read_text())["architectures"]
    options = {} if dtype is None else {"dtype": dtype}
    return getattr(transformers, name).from_pretrained(folder, attn_implementation="eager", **options).eval()


def plain(artifact: Path, weights: dict[str, torch.Tensor], folder: Path) -> PreTrainedModel:
    """The model with these weights and nothing rounded but, where the artifact asks for it, inputs of linears."""
    folder.mkdir()
    config = json.loads((artifact / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "quantization_config"}))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load(folder, torch.float32)


def made(name: str, recipe: str, folder: Path) -> tuple[Path, bool]:
    """The artifact of a family's small checkpoint, and whether the table says that transformers loads it."""
    build = family_table.build if name in family_table.TABLE else checkpoints.build
    request = quantkit.Request(str(build(name, folder)), (recipe,), method="rtn")
    prepared = quantkit.prepare(request)
    [said] = [v for v in quantkit.consumer_verdicts(prepared.plans[0]) if v.consumer == "transformers"]
    prepared.checkpoint.close()
    quantkit.convert(request, quantkit.Output(folder / "out", threads=1))
    return folder / "out", said.ok


def unlike(model: PreTrainedModel, expected: PreTrainedModel, artifact: Path) -> set[str]:
    """The rounded matrices, and stacks of experts, that are not those expected."""
    rounded, wanted = loaded_weights(model, artifact), dict(expected.named_parameters())
    stacks = {name: p.detach() for name, p in model.named_parameters() if ".experts." in name}
    return {name for name, weight in {**rounded, **stacks}.items() if not same(weight, wanted[name], exact=True)}


@pytest.mark.parametrize(("name", "recipe"), LOADED.items(), ids=[f"{n}-{r}" for n, r in LOADED.items()])
def test_the_loader_has_the_weights_that_quantkit_decodes(name: str, recipe: str, tmp_path: Path) -> None:
    artifact, ok = made(name, recipe, tmp_path)
    assert ok
    model = load(artifact, torch.float32 if computes_in_float32(artifact) else None)
    expected = plain(artifact, decoded(artifact), tmp_path / "plain")
    assert unlike(model, expected, artifact) == set()
    ids = torch.randint(3, 390, (1, 40), generator=torch.Generator().manual_seed(1))
    config = quantization(artifact)
    with torch.inference_mode():
        found = model(input_ids=ids).logits[0].float()
        if recipe in {"fp8", "w8a8"}:  # experts of packed integers are decoded to bfloat16 before the type of the model
            round_inputs(expected, config, {})
            assert distance(found, expected(input_ids=ids).logits[0]) <= FLOAT32
    assert found.isfinite().all()


@pytest.mark.parametrize("recipe", ["w4a16", "fp8"])
def test_experts_of_llama_4_become_linears_of_their_own(recipe: str, tmp_path: Path) -> None:
    """Where weights are those of compressed-tensors, the loader itself takes its stacks apart."""
    artifact, ok = made("llama4-interleaved", recipe, tmp_path)
    assert ok
    model, expected = load(artifact, torch.float32), decoded(artifact)
    found = loaded_weights(model, artifact)
    assert any(".experts.3.up_proj" in name for name in found)
    assert [name for name, weight in found.items() if not same(weight, expected[name], exact=True)] == []
    with torch.inference_mode():
        assert model(input_ids=torch.arange(3, 40)[None]).logits.isfinite().all()


@pytest.mark.parametrize(("name", "recipe"), NAMED.items())
def test_experts_that_are_known_by_their_stack_alone_are_not_found(name: str, recipe: str, tmp_path: Path) -> None:
    artifact, ok = made(name, recipe, tmp_path)
    assert not ok
    model = load(artifact, torch.float32)
    wrong = unlike(model, plain(artifact, decoded(artifact), tmp_path / "plain"), artifact)
    assert wrong
    assert all(".experts." in name for name in wrong)
