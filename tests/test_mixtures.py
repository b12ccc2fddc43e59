"""The type of every tensor, for every preset, as llama-quantize chooses it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from reference import REFERENCE

from quantkit.families.model import Model, ModelTensor, Rows, Shape
from quantkit.families.roles import role_of
from quantkit.mixture import choose_types
from quantkit.recipe import load_recipe, recipe_names
from quantkit.rules import Recipe

SNAPSHOTS = REFERENCE / "tests" / "snapshots"


@dataclass(frozen=True)
class Published:
    """Facts of a model that its snapshot leaves out, from its config.json: row lengths of tensors by name part
    (the first that fits; else n_embd), and the architecture where one matters."""

    rows: Mapping[str, int]
    architecture: str = "other"


PUBLISHED = {
    "deepseek-v3.1": Published({"attn_q_b": 1536, "attn_k_b": 128, "attn_v_b": 512, "attn_output": 128 * 128,
                                "ffn_down_exps": 2048, "ffn_down_shexp": 2048, "ffn_down": 18432}),
    "gemma-3-4b-it": Published({"attn_output": 8 * 256, "ffn_down": 10240}),
    "glm-4.6v": Published({"attn_output": 96 * 128, "ffn_down_exps": 1408, "ffn_down_shexp": 1408,
                           "ffn_down": 10944}),
    "gpt-oss-120b": Published({"attn_output": 64 * 64, "ffn_down": 2880}),
    "meta-llama-3.1-70b-instruct": Published({"attn_output": 64 * 128, "ffn_down": 28672}, "llama"),
    "nvidia-nemotron-3-nano-30b-a3b": Published({"attn_output": 32 * 128, "ffn_down_exps": 1856,
                                                 "ffn_down_shexp": 3712, "ssm_out": 4096}),
    "qwen3-0.6b": Published({"attn_output": 16 * 128, "ffn_down": 3072}),
    "qwen3-14b": Published({"attn_output": 40 * 128, "ffn_down": 17408}),
    "qwen3-coder-next": Published({"attn_output": 16 * 256, "ffn_down": 512, "ssm_out": 4096}),
    "qwen3.5-397b-a17b": Published({"attn_output": 32 * 256, "ffn_down": 1024, "ssm_out": 8192}),
    "qwen3.6-27b": Published({"attn_output": 24 * 256, "ffn_down": 17408, "ssm_out": 6144}),
    "step-3.5-flash": Published({"attn_output": 64 * 128, "ffn_down_exps": 1280, "ffn_down_shexp": 1280,
                                 "ffn_down": 11264}),
}  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """One file of the reference: the model's numbers, and per preset the tensors whose type is not the default."""

    numbers: Mapping[str, int]
    sections: Mapping[str, Mapping[str, str]]


@cache
def read_snapshot(path: Path) -> Snapshot:
    lines = path.read_text().splitlines()
    numbers = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", lines[1])}
    sections: dict[str, dict[str, str]] = {}
    for line in lines[2:]:
        if line.startswith("["):
            current = sections.setdefault(line[1 : line.index("]")].lower(), {})
        elif line:
            name, _, qtype = line.rpartition(" ")
            current[name] = qtype.lower()
    return Snapshot(numbers, sections)


def snapshot_model(name: str) -> Model:
    """The model of a snapshot. MXFP4_MOE lists every matrix, other presets mention stacked experts."""
    snapshot, published = read_snapshot(SNAPSHOTS / f"{name}.schema"), PUBLISHED[name]
    numbers = snapshot.numbers
    matrices = set(snapshot.sections["mxfp4_moe"])
    mentioned = {tensor for section in snapshot.sections.values() for tensor in section}
    stacked = {t for t in mentioned if t not in matrices}
    layers_of = {t.partition(".ffn_")[0] for t in stacked if ".ffn_" in t}
    kinds = {re.sub(r"^blk\.\d+", "", t) for t in stacked}
    stacked |= {layer + kind for layer in layers_of for kind in kinds if ".ffn_" in kind}
    shape = Shape(
        layers=numbers["n_layer"],
        hidden=numbers["n_embd"],
        heads=numbers["n_head"],
        kv_heads=numbers["n_head_kv"],
        head_dim=0,
        experts=numbers.get("n_expert", 0),
    )

    def cols(tensor: str) -> int:
        return next((n for part, n in published.rows.items() if part in tensor), shape.hidden)

    tensors = [tensor_of(t, (8, cols(t))) for t in matrices] + [tensor_of(t, (4, 8, cols(t))) for t in stacked]
    return model_of(published.architecture, shape, tensors)


def tensor_of(name: str, shape: tuple[int, ...]) -> ModelTensor:
    rows = Rows(name, 0, 1)
    layer = re.match(r"blk\.(\d+)\.", name)
    return ModelTensor(name, role_of(name), shape, (rows,), int(layer[1]) if layer else None)


def model_of(architecture: str, shape: Shape, tensors: list[ModelTensor]) -> Model:
    return Model("test", "Test", architecture, shape, tuple(tensors), (), None, {})


def types(model: Model, recipe: Recipe | str, *, imatrix: bool = False) -> dict[str, str]:
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    unquantized = {t.name: "bf16" for t in model.tensors}
    return {name: c.qtype for name, c in choose_types(model, recipe, unquantized, imatrix=imatrix).items()}


def cases() -> list[tuple[str, str]]:
    return [(model, recipe) for model in PUBLISHED for recipe in recipe_names()]


@pytest.mark.reference
@pytest.mark.parametrize(("name", "recipe"), cases())
def test_types_equal_the_upstream_snapshot(name: str, recipe: str) -> None:
    model = snapshot_model(name)
    wanted = read_snapshot(SNAPSHOTS / f"{name}.schema").sections[recipe]
    default = load_recipe(recipe).qtype
    expected = {t.name: default for t in model.tensors} | wanted
    assert len(expected) == len(model.tensors), "the snapshot names tensors that the model lacks"
    assert types(model, recipe) == expected


@pytest.mark.reference
def test_every_snapshot_is_compared() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.schema")} == set(PUBLISHED)
