"""The type of every tensor, for every preset, as llama-quantize chooses it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from reference import REFERENCE

from quantkit.families.model import Model, ModelTensor, Rows, Shape
from quantkit.families.roles import role_of
from quantkit.plan.mixture import choose_types, visiting_order
from quantkit.recipes.read import gguf_recipe_names, load_recipe
from quantkit.recipes.recipe import Overrides, Recipe, override

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


NEWER = {"q1_0", "q2_0"}  # presets of llama-quantize that the snapshots do not list


def cases() -> list[tuple[str, str]]:
    recipes = [recipe for recipe in gguf_recipe_names() if recipe not in NEWER]
    return [(model, recipe) for model in PUBLISHED for recipe in recipes]


@pytest.mark.reference
@pytest.mark.parametrize(("name", "recipe"), cases())
def test_types_equal_the_upstream_snapshot(name: str, recipe: str) -> None:
    model = snapshot_model(name)
    wanted = read_snapshot(SNAPSHOTS / f"{name}.schema").sections[recipe]
    default = load_recipe(recipe).weights.type
    expected = {t.name: default for t in model.tensors} | wanted
    assert len(expected) == len(model.tensors), "the snapshot names tensors that the model lacks"
    assert types(model, recipe) == expected


@pytest.mark.reference
def test_every_snapshot_is_compared() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.schema")} == set(PUBLISHED)


# What follows covers branches that the snapshots do not: falcon, eight experts, importance weights, 70 B models,
# overrides. Expected types are one character per layer, worked out by hand from llama-quant.cpp.
LETTERS = {"q2_k": "2", "q3_k": "3", "q4_k": "4", "q5_k": "5", "q6_k": "6", "q8_0": "8", "q4_0": "o", "q4_1": "a",
           "q5_0": "O", "q5_1": "A", "iq4_nl": "n", "iq4_xs": "x", "iq3_s": "s", "iq3_xxs": "t", "iq2_s": "u",
           "iq2_xs": "v", "iq2_xxs": "w", "iq1_s": "y", "iq1_m": "z"}  # fmt: skip


def dense(
    architecture: str, layers: int, *, heads: tuple[int, int] = (8, 4), experts: int = 0, tied: bool = False
) -> Model:
    """A model with every kind of tensor that mixtures speak of; rows of 256."""
    tensors = [tensor_of("token_embd.weight", (8, 256)), tensor_of("output_norm.weight", (256,))]
    if not tied:
        tensors.append(tensor_of("output.weight", (8, 256)))
    ffn = (experts, 8, 256) if experts else (8, 256)
    suffix = "_exps" if experts else ""
    for layer in range(layers):
        block = f"blk.{layer}."
        tensors += [tensor_of(f"{block}attn_{part}.weight", (8, 256)) for part in ("q", "k", "v", "output")]
        tensors += [tensor_of(f"{block}ffn_{part}{suffix}.weight", ffn) for part in ("gate", "up", "down")]
    return model_of(architecture, Shape(layers, 256, heads[0], heads[1], 32, experts), tensors)


def letters(chosen: Mapping[str, str], part: str) -> str:
    """The types of one kind of tensor by layer."""
    found = {int(name.split(".")[1]): qtype for name, qtype in chosen.items() if f".{part}" in name}
    return "".join(LETTERS[found[layer]] for layer in sorted(found))


@pytest.mark.parametrize(
    ("recipe", "part", "expected"),
    [
        ("q2_k", "attn_output", "2222222222222222"),
        ("q3_k_m", "attn_output", "3333333333333333"),
        ("q3_k_l", "attn_output", "4444444444444444"),
        ("q3_k_m", "ffn_down", "5433433433433444"),
        ("q3_k_l", "ffn_down", "4444444444444444"),
        ("q4_k_s", "ffn_down", "4444444444444444"),
        ("q4_k_m", "ffn_down", "6544544544544555"),
        ("q5_k_m", "ffn_down", "6655655655655666"),
        ("q4_k_m", "attn_v", "6644644644644666"),
        ("iq2_m", "attn_output", "ssssssssssssssss"),
        ("iq3_xxs", "attn_output", "tttttttttttttttt"),
        ("iq3_m", "attn_output", "ssssssssssssssss"),
    ],
)
def test_falcon(recipe: str, part: str, expected: str) -> None:
    assert letters(types(dense("falcon", 16), recipe), part) == expected


@pytest.mark.parametrize("recipe", [r for r in gguf_recipe_names() if r not in {"f32", "f16", "bf16"}])
def test_output_of_falcon_is_q8_0(recipe: str) -> None:
    assert types(dense("falcon", 2), recipe)["output.weight"] == "q8_0"


@pytest.mark.parametrize(
    ("recipe", "attn_output"),
    [
        ("q2_k", "5"), ("q3_k_s", "5"), ("q3_k_m", "5"), ("q4_k_s", "5"), ("q4_k_m", "5"), ("iq4_nl", "5"),
        ("iq4_xs", "5"), ("q2_k_s", "2"), ("q3_k_l", "3"), ("q4_0", "o"), ("q4_1", "a"), ("q5_0", "O"),
        ("q5_1", "A"), ("q5_k_s", "5"), ("q5_k_m", "5"), ("q6_k", "6"), ("q8_0", "8"),
    ],
)  # fmt: skip
def test_eight_experts(recipe: str, attn_output: str) -> None:
    chosen = types(dense("llama", 4, experts=8), recipe)
    assert letters(chosen, "attn_v") == letters(chosen, "attn_k") == "8888"
    assert letters(chosen, "attn_output") == 4 * attn_output


@pytest.mark.parametrize(("recipe", "embedding", "block"), [("q1_0", "q1_0", 128), ("q2_0", "q4_k", 64)])
def test_presets_newer_than_the_snapshots(recipe: str, embedding: str, block: int) -> None:
    """By hand from llama-quant.cpp: the output has 6 bits, Q2_0's embedding 4."""
    chosen = types(dense("llama", 2), recipe)
    assert (chosen.pop("output.weight"), chosen.pop("token_embd.weight")) == ("q6_k", embedding)
    assert set(chosen.values()) == {recipe, "bf16"}
    assert types(dense("llama", 2, tied=True), recipe)["token_embd.weight"] == "q6_k"
    narrow = model_of(
        "llama", Shape(1, 32, 8, 8, 4), [tensor_of(n, (8, 32)) for n in ("output.weight", "blk.0.ffn_up.weight")]
    )
    fallback = {"q1_0": "f16", "q2_0": "q4_0"}[recipe]  # llama-quantize stops at such rows of Q1_0
    assert types(narrow, recipe) == {"output.weight": "q8_0", "blk.0.ffn_up.weight": fallback}
    fitting = model_of("llama", Shape(1, block, 8, 8, 4), [tensor_of("output.weight", (8, block))])
    choice = choose_types(fitting, load_recipe(recipe), {"output.weight": "bf16"}, imatrix=False)["output.weight"]
    assert (choice.qtype, choice.fallback_from) == ("q8_0", "q6_k")


@pytest.mark.parametrize(
    ("recipe", "attn_v", "attn_k", "attn_output"),
    [
        ("iq1_s", "4444", "4444", "5555"), ("iq2_xs", "4444", "4444", "5555"), ("iq2_s", "4444", "4444", "5555"),
        ("iq3_xxs", "8888", "8888", "5555"), ("iq3_xs", "8888", "8888", "5555"), ("iq3_m", "8888", "8888", "5555"),
    ],
)  # fmt: skip
def test_eight_experts_of_lattice_mixtures(recipe: str, attn_v: str, attn_k: str, attn_output: str) -> None:
    chosen = types(dense("llama", 4, experts=8), recipe)
    assert [letters(chosen, f"attn_{part}") for part in ("v", "k", "output")] == [attn_v, attn_k, attn_output]


@pytest.mark.parametrize(
    ("experts", "recipe", "part", "expected"),
    [
        (0, "iq2_s", "attn_v", "s" * 16), (3, "iq2_s", "attn_v", "s" * 16), (4, "iq2_s", "attn_v", "4" * 16),
        (0, "iq1_m", "attn_v", "2" * 16), (0, "iq1_m", "attn_output", "w" * 16),
        (0, "iq1_m", "ffn_down", "22" + "z" * 14),
        (8, "iq2_m", "ffn_down", "ss" + "u" * 14), (8, "iq3_m", "ffn_down", "44ss4ss4ss4ss444"),
        (0, "iq3_m", "ffn_down", "44" + "s" * 14), (0, "iq3_xs", "ffn_up", "ss" + "t" * 12 + "ss"),
        (8, "iq3_xs", "ffn_gate", "ss" + "t" * 12 + "ss"),
    ],
)  # fmt: skip
def test_lattice_mixtures_by_hand(experts: int, recipe: str, part: str, expected: str) -> None:
    assert letters(types(dense("llama", 16, experts=experts), recipe), part) == expected


def test_seven_experts_are_not_eight() -> None:
    chosen = types(dense("llama", 4, experts=7), "q3_k_l")
    assert (letters(chosen, "attn_v"), letters(chosen, "attn_k"), letters(chosen, "attn_output")) == (
        "5555", "3333", "5555",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "without", "with_imatrix"),
    [("q4_0", "o" * 16, "aa" + "o" * 14), ("q5_0", "O" * 16, "AA" + "O" * 14), ("q4_1", "a" * 16, "a" * 16),
     ("iq4_nl", "55" + "n" * 14, "n" * 16), ("iq4_xs", "55" + "x" * 14, "x" * 16),
     ("q4_k_s", "55" + "4" * 14, "55" + "4" * 14), ("iq3_xxs", "44" + "3" * 14, "t" * 16)],
)  # fmt: skip
def test_importance_weights_change_early_ffn_down(recipe: str, without: str, with_imatrix: str) -> None:
    model = dense("llama", 16)
    assert letters(types(model, recipe), "ffn_down") == without
    assert letters(types(model, recipe, imatrix=True), "ffn_down") == with_imatrix


@pytest.mark.parametrize(
    ("architecture", "layers", "heads", "bumped"),
    [
        ("llama", 80, (8, 1), True),
        ("llama", 80, (8, 8), False),  # the 65 B model
        ("llama", 79, (8, 1), False),
        ("qwen2", 80, (8, 8), True),
        ("deci", 80, (8, 1), True),
        ("olmo", 80, (8, 8), True),
        ("jais2", 68, (8, 8), True),
        ("qwen3", 80, (8, 1), False),
    ],
)
def test_70b_models_get_five_bits_in_attn_v(
    architecture: str, layers: int, heads: tuple[int, int], bumped: bool
) -> None:
    attn_v = letters(types(dense(architecture, layers, heads=heads), "q4_k_m"), "attn_v")
    assert set(attn_v) == ({"5", "6"} if bumped else {"4", "6"})


@pytest.mark.parametrize(("heads", "expected"), [((8, 2), "4"), ((8, 3), "3"), ((8, 0), "3")])
def test_q2_k_asks_for_four_queries_per_key(heads: tuple[int, int], expected: str) -> None:
    assert letters(types(dense("llama", 2, heads=heads), "q2_k"), "attn_v") == 2 * expected


def test_mxfp4_keeps_three_dimensional_attention_of_bailingmoe3_at_q8_0() -> None:
    model = dense("bailingmoe3", 2, experts=4)
    model = replace(model, tensors=(*model.tensors, tensor_of("blk.0.attn_k_b.weight", (4, 8, 256))))
    chosen = types(model, "mxfp4_moe")
    assert chosen["blk.0.attn_k_b.weight"] == "q8_0"
    assert chosen["blk.1.ffn_up_exps.weight"] == "mxfp4"
    assert types(replace(model, gguf_architecture="other"), "mxfp4_moe")["blk.0.attn_k_b.weight"] == "mxfp4"


def test_glm5_next_has_its_own_exceptions() -> None:
    names = ["blk.0.attn_q_a.weight", "blk.0.ssm_f_a.weight", "blk.0.indexer.proj.weight"]
    shape = Shape(1, 256, 8, 8, 32)
    tensors = [tensor_of(name, (8, 256)) for name in names]
    assert list(types(model_of("glm5-next", shape, tensors), "q4_k_m").values()) == ["q8_0", "bf16", "bf16"]
    assert list(types(model_of("other", shape, tensors), "q4_k_m").values()) == ["q4_k", "q4_k", "q4_k"]


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_q_norm.weight", "blk.0.ffn_gate_inp.weight", "blk.0.attn_v.bias", "blk.0.ssm_a",
        "blk.0.ssm_conv1d.weight", "blk.0.time_mix_w1.weight", "blk.0.time_mix_decay_w2.weight",
        "position_embd.weight", "token_types.weight", "v.patch_embd.weight", "blk.0.shortconv.conv.weight",
        "enc.blk.0.attn_rel_b.weight", "per_layer_model_proj.weight", "blk.0.altup_router.weight",
        "blk.0.laurel_l.weight", "blk.0.indexer.k_proj.weight", "blk.0.ffn_gate_tid2eid.weight",
    ],
)  # fmt: skip
def test_never_quantized(name: str) -> None:
    model = model_of("other", Shape(1, 256, 8, 8, 32), [tensor_of(name, (8, 256))])
    assert types(model, "q4_k_m") == {name: "bf16"}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((256,), "bf16"), ((1, 256), "bf16"), ((1, 1, 256), "bf16"), ((2, 256), "q4_k"), ((2, 1, 256), "q4_k")],
)
def test_only_matrices_are_quantized(shape: tuple[int, ...], expected: str) -> None:
    model = model_of("other", Shape(1, 256, 8, 8, 32), [tensor_of("blk.0.odd.weight", shape)])
    assert types(model, "q4_k_m") == {"blk.0.odd.weight": expected}


@pytest.mark.parametrize(
    ("asked", "at_32", "at_48"),
    [
        ("q2_k", "q4_0", "f16"), ("q3_k", "q4_0", "f16"), ("q4_k", "q5_0", "f16"), ("q5_k", "q5_1", "f16"),
        ("q6_k", "q8_0", "f16"), ("iq4_xs", "iq4_nl", "f16"), ("iq3_s", "iq4_nl", "f16"), ("iq2_xxs", "iq4_nl", "f16"),
        ("iq1_m", "iq4_nl", "f16"), ("tq1_0", "q4_0", "f16"), ("tq2_0", "q4_0", "f16"),
        ("q4_0", "q4_0", "f16"), ("q8_0", "q8_0", "f16"),
        ("q2_0", "q4_0", "f16"), ("q1_0", "f16", "f16"), ("iq4_nl", "iq4_nl", "f16"), ("mxfp4", "mxfp4", "f16"),
        ("bf16", "bf16", "bf16"),
    ],
)  # fmt: skip
def test_fallbacks(asked: str, at_32: str, at_48: str) -> None:
    names = ("blk.0.a.weight", "blk.0.b.weight")
    tensors = [tensor_of(name, (8, cols)) for name, cols in zip(names, (32, 48), strict=True)]
    model = model_of("other", Shape(1, 32, 8, 8, 4), tensors)
    recipe = override(load_recipe("q8_0"), Overrides(keep=(f"weight={asked}",)))
    choices = choose_types(model, recipe, dict.fromkeys(names, "bf16"), imatrix=False)
    assert [c.qtype for c in choices.values()] == [at_32, at_48]
    assert [c.fallback_from for c in choices.values()] == [None if t == asked else asked for t in (at_32, at_48)]


def test_the_output_with_odd_rows_asks_for_q8_0_at_once() -> None:
    """q6_k would fall back to q8_0 too, but then it would be counted as a fallback."""
    model = model_of("other", Shape(1, 64, 8, 8, 8), [tensor_of("output.weight", (8, 64))])
    choices = choose_types(model, load_recipe("q4_k_m"), {"output.weight": "bf16"}, imatrix=False)
    assert (choices["output.weight"].qtype, choices["output.weight"].fallback_from) == ("q8_0", None)


def test_visiting_order_is_by_layer_then_bytes() -> None:
    names = ["blk.10.a", "blk.9.b", "token_embd.weight", "blk.9.B", "output.weight", "blk.9.é", "blk.x.weight"]
    order = [t.name for t in visiting_order(tensor_of(name, (2, 2)) for name in names)]
    assert order == ["blk.x.weight", "output.weight", "token_embd.weight", "blk.9.B", "blk.9.b", "blk.9.é", "blk.10.a"]


def test_a_tensor_taken_by_an_override_does_not_count() -> None:
    model = dense("llama", 8)
    assert letters(types(model, "q4_k_s"), "attn_v") == "55554444"
    kept = override(load_recipe("q4_k_s"), Overrides(keep=(r"blk\.1\.attn_v=q8_0",)))
    assert letters(types(model, kept), "attn_v") == "58555444"


def test_experts_take_their_layer_from_the_name() -> None:
    """With a dense model the second ffn_down is number 1 wherever it lies; with experts it is of layer 15."""
    for experts, expected in ((0, "55"), (4, "54")):
        ffn = (experts, 8, 256) if experts else (8, 256)
        tensors = [tensor_of(f"blk.{layer}.ffn_down.weight", ffn) for layer in (0, 15)]
        model = model_of("other", Shape(16, 256, 8, 8, 32, experts), tensors)
        assert letters(types(model, "q4_k_s"), "ffn_down") == expected


def test_first_override_wins_and_case_does_not_matter() -> None:
    chosen = types(dense("llama", 2), override(load_recipe("q4_k_m"), Overrides(keep=("BLK.0.*ffn=q8_0", "ffn=q2_k"))))
    assert (chosen["blk.0.ffn_up.weight"], chosen["blk.1.ffn_up.weight"]) == ("q8_0", "q2_k")


def test_pure_ignores_the_mixture_but_not_overrides() -> None:
    model = dense("llama", 4)
    assert set(types(model, override(load_recipe("q4_k_m"), Overrides(pure=True))).values()) == {"q4_k", "bf16"}
    chosen = types(
        model, override(load_recipe("q4_k_m"), Overrides(pure=True, keep=("attn_v=q8_0",), output_type="q5_0"))
    )
    assert (letters(chosen, "attn_v"), chosen["output.weight"], chosen["token_embd.weight"]) == ("8888", "q5_0", "q4_k")


@pytest.mark.parametrize(
    ("tied", "options", "embedding", "output"),
    [
        (False, {}, "q4_k", "q6_k"),
        (True, {}, "q6_k", None),
        (False, {"output_type": "bf16"}, "q4_k", "bf16"),
        (True, {"output_type": "bf16"}, "bf16", None),
        (True, {"output_type": "bf16", "pure": True}, "q4_k", None),
        (True, {"output_type": "bf16", "embedding_type": "q8_0"}, "q8_0", None),
        (False, {"embedding_type": "q8_0", "keep": ["token_embd=q2_k"]}, "q8_0", "q6_k"),
        (False, {"output_type": "q8_0", "keep": ["output=q2_k"]}, "q4_k", "q8_0"),
        (True, {"output_type": "bf16", "keep": ["token_embd=q2_k"]}, "q2_k", None),
    ],
)
def test_output_and_embedding(tied: bool, options: dict[str, Any], embedding: str, output: str | None) -> None:
    chosen = types(dense("llama", 2, tied=tied), override(load_recipe("q4_k_m"), Overrides(**options)))
    assert (chosen["token_embd.weight"], chosen.get("output.weight")) == (embedding, output)


def test_per_layer_embeddings_follow_the_embedding_type_unless_named() -> None:
    name = "per_layer_token_embd.weight"
    model = model_of("gemma3n", Shape(1, 256, 8, 8, 32), [tensor_of(name, (8, 256))])
    assert types(model, override(load_recipe("q4_k_m"), Overrides(embedding_type="q8_0")))[name] == "q8_0"
    named = override(load_recipe("q4_k_m"), Overrides(embedding_type="q8_0", keep=("per_layer=q5_k",)))
    assert types(model, named)[name] == "q5_k"


def test_overrides_also_act_on_float_recipes() -> None:
    """Differs from llama-quantize, which ignores --tensor-type for F16, BF16 and F32 without a word."""
    chosen = types(dense("llama", 1), override(load_recipe("bf16"), Overrides(keep=("ffn_down=q8_0",))))
    assert (chosen["blk.0.ffn_down.weight"], chosen["blk.0.ffn_up.weight"]) == ("q8_0", "bf16")


def test_what_the_family_stores_in_f32_stays() -> None:
    router = replace(tensor_of("blk.0.router.weight", (4, 256)), stored="f32")
    model = model_of("other", Shape(1, 256, 8, 8, 32), [router])
    choices = choose_types(model, load_recipe("q4_k_m"), {"blk.0.router.weight": "f32"}, imatrix=False)
    assert choices["blk.0.router.weight"].qtype == "f32"


def test_every_choice_says_why() -> None:
    model = dense("llama", 8)
    recipe = override(load_recipe("q4_k_m"), Overrides(keep=("ffn_up=q8_0",)))
    choices = choose_types(model, recipe, {t.name: "bf16" for t in model.tensors}, imatrix=False)
    assert choices["blk.0.ffn_up.weight"].reason == "--keep ffn_up=q8_0"
    assert choices["blk.0.ffn_gate.weight"].reason == "default"
    assert choices["blk.0.attn_v.weight"].reason == "outer layers and every third between"
    assert choices["output_norm.weight"].reason == "never quantized"
