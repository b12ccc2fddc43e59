"""The table itself, and what no checkpoint of the reference shows: fused experts, prefixes, short vocabularies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from described import F32, Folder, describe_arrays, describe_infos, evaluate

from quantkit.errors import UnsupportedError
from quantkit.families import known
from quantkit.families.describe import find_family
from quantkit.families.keys import architecture_metadata
from quantkit.families.known import families_with, family_named, family_of_type, known_families, vocabulary_size
from quantkit.families.mapping import rows_by_source
from quantkit.families.roles import role_of
from quantkit.families.rows import Family
from quantkit.tensors import TensorInfo

FAMILIES = pytest.mark.parametrize("family", known_families(), ids=lambda family: family.name)
Arrays = dict[str, tuple[str, F32]]


@FAMILIES
def test_a_target_has_the_role_that_its_name_says(family: Family) -> None:
    """Sources in both formats reach the same rules."""
    for rows in rows_by_source(family).values():
        for row in rows:
            assert row.t.role is role_of(row.t.target.format(0)), row.t


@FAMILIES
def test_no_source_gives_the_same_target_twice(family: Family) -> None:
    for source, rows in rows_by_source(family).items():
        targets = [(row.t.target, row.t.order, row.t.where) for row in rows]
        assert len(set(targets)) == len(targets), source


def test_every_name_belongs_to_one_family_that_has_defaults() -> None:
    first = [family for family in known_families() if family.serves({})]  # of those that share a type, one heads it
    for names in (
        [n for f in known_families() if f.when is None for n in f.hf],
        [n for f in first for n in f.defaults],
    ):
        assert len(set(names)) == len(names)
    assert {n for f in known_families() for n in f.defaults} == {n for f in first for n in f.defaults}
    conditional = {n for f in known_families() if f.when for n in f.hf}
    assert not conditional & {n for f in known_families() if f.when is None for n in f.hf}
    assert all(family.defaults for family in known_families())


@FAMILIES
def test_a_family_is_found_by_its_name(family: Family) -> None:
    assert family_named(family.name) is family


@FAMILIES
def test_the_module_of_a_family_says_all_of_its_names(family: Family) -> None:
    """Else it would not be found: only modules that say a name are imported."""
    names = [family.name, *family.hf, *family.inside, *family.defaults, *([family.gguf] if family.drafts else [])]
    assert [name for name in names if family not in families_with(name)] == []


def test_only_what_says_a_name_is_imported() -> None:
    code = """
import sys
from quantkit.families.towers import text_family
named, tower = text_family({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"})
assert (named.family.name, tower) == ("qwen3", None)
print(*sorted(n for n in sys.modules if n.startswith(("quantkit.families.known.", "quantkit.families.towers."))))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "quantkit.families.known.qwen" in found
    assert len(found) < 12


def test_a_family_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the folder is all it takes: found by architecture, by model type, and without its head."""
    source = """
from dataclasses import replace
from quantkit.families.known.llama import LLAMA
FAMILIES = (replace(LLAMA, name="own", hf=("OwnForCausalLM",), defaults={"own": {**LLAMA.defaults["llama"]}}),)
"""
    (tmp_path / "own.py").write_text(source)
    monkeypatch.setattr(known, "__path__", [*known.__path__, str(tmp_path)])
    known.known_families.cache_clear()
    try:
        for config in ({"architectures": ["OwnForCausalLM"]}, {"model_type": "own"}, {"architectures": ["OwnModel"]}):
            assert find_family(config) == (family_named("own"), "OwnForCausalLM")
        assert family_of_type("own") is family_named("own")
    finally:
        monkeypatch.undo()
        known.known_families.cache_clear()


@pytest.mark.parametrize("model_type", sorted({name for family in known_families() for name in family.defaults}))
def test_the_size_of_a_vocabulary_is_what_config_json_says_or_the_default(model_type: str) -> None:
    [default] = {f.defaults[model_type]["vocab_size"] for f in known_families() if model_type in f.defaults}
    said = {"model_type": model_type}
    assert vocabulary_size(said) == default
    assert vocabulary_size({"model_type": "outer", "text_config": said}) == default
    assert vocabulary_size({**said, "vocab_size": 7, "text_config": {"vocab_size": 9}}) == 9
    assert vocabulary_size({**said, "vocab_size": "7"}) == "7"
    assert vocabulary_size({"model_type": "outer"}) is None


def test_a_name_that_no_family_has_is_refused() -> None:
    """Not taken for another family with rules of its own."""
    with pytest.raises(UnsupportedError, match='did you mean "llama"'):
        family_named("lama")


@pytest.mark.parametrize(("said", "lengths"), [({}, None), ({"head_dim": 16}, None), ({"head_dim": 24}, 24)])
def test_granite_says_how_large_heads_are_where_it_matters(said: dict[str, int], lengths: int | None) -> None:
    family = family_named("granite")
    numbers = {"hidden_size": 64, "num_attention_heads": 4, **said}
    found = {kv.key: kv.value for kv in architecture_metadata("granite", family.keys, family.hparams(numbers))}
    assert found.get("granite.attention.key_length") == found.get("granite.attention.value_length") == lengths
    assert found["granite.rope.dimension_count"] == (lengths or 16)


def test_a_scale_of_zero_has_no_key() -> None:
    family = family_named("granite")
    found = architecture_metadata("granite", family.keys, family.hparams({"residual_multiplier": 0.0}))
    names = {kv.key for kv in found}
    assert "granite.residual_scale" not in names
    assert {"granite.embedding_scale", "granite.logit_scale", "granite.attention.scale"} <= names


def fused(arrays: Arrays, module: str, names: tuple[str, str, str]) -> Arrays:
    """The checkpoint as transformers computes with it: gate and up of all experts in one stack, below `mlp`."""
    found = {name.replace(module, "mlp"): value for name, value in arrays.items() if ".experts." not in name}
    layers = {name.split(".")[2] for name in arrays if ".experts." in name}
    for layer in layers:
        block = f"model.layers.{layer}.{module}.experts"
        count = len({name.split(".")[5] for name in arrays if name.startswith(block)})
        gate, up, down = (np.stack([arrays[f"{block}.{e}.{name}.weight"][1] for e in range(count)]) for name in names)
        found[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = ("BF16", np.concatenate([gate, up], axis=1))
        found[f"model.layers.{layer}.mlp.experts.down_proj"] = ("BF16", down)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "module", "names"),
    [
        ("mixtral-4x1M", "block_sparse_moe", ("w1", "w3", "w2")),
        ("qwen3-moe", "mlp", ("gate_proj", "up_proj", "down_proj")),
        ("qwen2-moe", "mlp", ("gate_proj", "up_proj", "down_proj")),
    ],
)
def test_fused_experts_are_the_same_model(tmp_path: Path, name: str, module: str, names: tuple[str, str, str]) -> None:
    folder = Folder(checkpoints.build(name, tmp_path))
    arrays = folder.arrays()
    stacked = fused(arrays, module, names)
    one, other = folder.describe(), describe_arrays(stacked, folder.config, folder)
    assert other.metadata == one.metadata
    values = {t.name: evaluate(t, stacked) for t in other.tensors}
    assert set(values) == {t.name for t in one.tensors}
    for tensor in one.tensors:
        assert np.array_equal(values[tensor.name], evaluate(tensor, arrays)), tensor.name


GEMMA3 = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
        "vocab_size": 40, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4,
    },
}  # fmt: skip


def gemma3(prefix: str, head: str) -> dict[str, TensorInfo]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}embed_tokens.weight": (40, 8), f"{prefix}norm.weight": (8,), head: (40, 8),
        "model.vision_tower.x.weight": (1,), "multi_modal_projector.y": (2,),
    }  # fmt: skip
    for name, *shape in (
        ("self_attn.q_proj", 8, 8), ("self_attn.k_proj", 4, 8), ("self_attn.v_proj", 4, 8), ("self_attn.o_proj", 8, 8),
        ("self_attn.q_norm", 4), ("self_attn.k_norm", 4), ("mlp.gate_proj", 12, 8), ("mlp.up_proj", 12, 8),
        ("mlp.down_proj", 8, 12), ("input_layernorm", 8), ("post_attention_layernorm", 8),
        ("pre_feedforward_layernorm", 8), ("post_feedforward_layernorm", 8),
    ):  # fmt: skip
        shapes[f"{prefix}layers.0.{name}.weight"] = tuple(shape)
    return {name: TensorInfo(name, "BF16", shape, 0) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
        ("model.", "lm_head.weight"),
    ],
)
def test_the_text_part_is_found_under_every_prefix(prefix: str, head: str) -> None:
    model = describe_infos(gemma3(prefix, head), GEMMA3)
    assert len(model.tensors) == 16
    assert {t.name for t in model.tensors} >= {"output.weight", "token_embd.weight", "blk.0.post_ffw_norm.weight"}
    assert set(model.dropped) == {"model.vision_tower.x.weight", "multi_modal_projector.y"}


@pytest.mark.parametrize(("tokens", "rows"), [(39, 39), (40, 40), (41, 40)])
def test_embeddings_without_a_token_are_left_out(tokens: int, rows: int) -> None:
    tensors = describe_infos(gemma3("model.", "lm_head.weight"), GEMMA3, tokens=tokens).tensors
    embedding = next(t for t in tensors if t.name == "token_embd.weight")
    assert embedding.shape == (rows, 8)
    assert [(part.start, part.stop) for part in embedding.parts] == [(0, rows)]
