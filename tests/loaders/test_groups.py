"""Sizes of groups in the loaders: those that take over where a recipe's do not divide, and those that kernels lack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import SIZES, Variant, build_variant
from comparisons import require_same_weights
from expected import decoded, quantization
from loaders import loaded_weights, open_model, run
from mixtures import build, experts_of, stacked

import quantkit

pytestmark = pytest.mark.xdist_group("groups")
RECIPE = """
schema = 1
container = "{container}"
[weights]
bits = 4
group = {group}
fallback = {fallback}
symmetry = "{symmetry}"
"""


def source(folder: Path, hidden: int, inner: int) -> Path:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": 2, "num_key_value_heads": 2}
    return build_variant(Variant("Llama", {**SIZES, **sizes, "num_hidden_layers": 1}), folder)


def recipe(folder: Path, container: str, group: int, fallback: list[int]) -> str:
    path = folder / "mine.toml"
    symmetry = "asymmetric" if container == "awq" else "symmetric"
    path.write_text(RECIPE.format(container=container, group=group, fallback=fallback, symmetry=symmetry))
    return str(path)


@pytest.mark.parametrize("container", ["compressed-tensors", "gptq", "awq"])
def test_groups_that_took_over_load(container: str, tmp_path: Path) -> None:
    """Rows of 192 weights take groups of 64, those of 256 keep theirs of 128 where the container can say so."""
    out = tmp_path / "out"
    mine = recipe(tmp_path, container, 128, [64, 32])
    quantkit.convert(quantkit.Request(str(source(tmp_path / "source", 192, 256)), (mine,)), quantkit.Output(out))
    said = json.dumps(quantization(out))
    assert '"group_size": 64' in said
    assert ('"group_size": 128' in said) == (container == "compressed-tensors")
    model, expected = open_model(out), decoded(out)
    weights = loaded_weights(model, out)
    assert len(weights) == 7
    require_same_weights(weights, expected, out)
    assert run(model, out).logits.isfinite().all()


@pytest.mark.parametrize(
    ("container", "group"),
    [*(("awq", group) for group in (16, 32, 128, 256, -1)), *(("gptq", group) for group in (16, 512, -1))],
)
def test_groups_load_where_the_table_says_so(container: str, group: int, tmp_path: Path) -> None:
    folder, out = source(tmp_path / "source", 512, 512), tmp_path / "out"
    mine = recipe(tmp_path, container, group, [])
    prepared = quantkit.prepare(quantkit.Request(str(folder), (mine,)))
    (said,) = (v for v in quantkit.consumer_verdicts(prepared.plans[0]) if v.consumer == "transformers")
    prepared.checkpoint.close()
    quantkit.convert(quantkit.Request(str(folder), (mine,)), quantkit.Output(out))
    try:
        model = open_model(out)
        require_same_weights(loaded_weights(model, out), decoded(out), out)
        loads = bool(run(model, out).logits.isfinite().all())
    except (ValueError, NotImplementedError, RuntimeError):
        loads = False
    assert loads == said.ok, said


@pytest.mark.parametrize("pattern", ["*self_attn*", "*experts*"])
def test_experts_have_their_group_beside_other_ones(pattern: str, tmp_path: Path) -> None:
    """transformers decodes all experts by one group: theirs, whether theirs or that of attention is the larger."""
    out, path = tmp_path / "out", Path(recipe(tmp_path, "compressed-tensors", 64, []))
    rule = f'[[rule]]\nnames = ["{pattern}"]\nweights = {{ group = 32 }}\nwhy = "a test"\n'
    path.write_text(path.read_text() + rule)
    quantkit.convert(quantkit.Request(str(build("qwen3-moe", tmp_path)), (str(path),)), quantkit.Output(out))
    assert len(quantization(out)["config_groups"]) >= 2
    model, expected = open_model(out), stacked(decoded(out))
    found = experts_of(model)
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        assert (found[name] == weights.to(found[name].dtype)).all(), name
