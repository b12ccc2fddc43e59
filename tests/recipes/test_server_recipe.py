"""Recipes for servers: every shipped one, and every mistake in a file with the key that holds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantkit.errors import RecipeError, UnsupportedError, UsageError
from quantkit.families.roles import Role
from quantkit.formats.containers.table import layout_of, names, writing
from quantkit.methods import method_names
from quantkit.recipes.read import gguf_recipe_names, load_recipe, recipe_names
from quantkit.recipes.recipe import MethodChoice, Overrides, Recipe, Weights, override

GGUF = gguf_recipe_names()
SERVER = tuple(name for name in recipe_names() if name not in GGUF)
HEAD = 'schema = 1\ncontainer = "gptq"\n'


def recipe(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_recipe(str(path))


@pytest.mark.parametrize("name", SERVER)
def test_shipped_recipes_have_layouts(name: str) -> None:
    found = load_recipe(name)
    layout = layout_of(found.container, found.weights, "BF16")
    assert layout.traits.word.replace("-", "").isalnum()
    assert found.summary
    assert found.method.name in method_names()


def test_short_types_tell_shipped_recipes_apart() -> None:
    kinds = {}
    for name in SERVER:
        found = load_recipe(name)
        layout = layout_of(found.container, found.weights, "BF16")
        kinds.setdefault(layout.traits.word, set()).add(repr(layout.scheme).replace("'BF16'", "'F16'"))
    assert {kind: schemes for kind, schemes in kinds.items() if len(schemes) > 2} == {}


def test_what_a_file_says(tmp_path: Path) -> None:
    found = recipe(
        tmp_path,
        """
schema = 1
title = "Mixed"
container = "compressed-tensors"
kv_cache = true
[weights]
bits = 4
group = 64
symmetry = "asymmetric"
[method]
name = "gptq"
transform = "smoothquant"
alpha = 0.8
damping = 0.05
order = "activation"
passes = 2
[[rule]]
roles = ["ffn_down"]
layers = "first:1"
weights = { bits = 8, symmetry = "symmetric" }
[[rule]]
names = ["*.o_proj"]
keep = true
""",
    )
    assert found.title == "Mixed"
    assert found.weights == Weights(bits=4, group=64, symmetry="asymmetric")
    assert found.method == MethodChoice("gptq", "smoothquant", 0.8, 0.05, "activation", 2)
    down, kept = found.rules
    assert down.weights == Weights(bits=8, group=64, symmetry="symmetric")
    assert down.roles == (Role.FFN_DOWN,)
    assert kept.weights is None
    assert found.kv_cache
    assert found.needs_calibration


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('schema = 1\ncontainer = "gptk"', "container"),
        (HEAD + "[weights]\nbits = 9", "weights.bits"),
        (HEAD + "[weights]\nbits = true", "weights.bits"),
        (HEAD + "[weights]\ngroup = 0", "weights.group"),
        (HEAD + '[weights]\ntype = "int4"', "weights.type"),
        (HEAD + "[weights]\nversion = 3", "weights.version"),
        (HEAD + "[weights]\nbit = 4", "weights.bit"),
        (HEAD + '[method]\nname = "gptk"', "method.name"),
        (HEAD + "[method]\nalpha = 2.0", "method.alpha"),
        (HEAD + "[method]\ndamping = 1.5", "method.damping"),
        (HEAD + "[method]\npasses = -1", "method.passes"),
        (HEAD + '[method]\norder = "desc"', "method.order"),
        (HEAD + "[default]\nqtype = 'q4_k'", "default"),
        (HEAD + '[[rule]]\nroles = ["norm"]\nkeep = true', "rule[0].roles"),
        (HEAD + '[[rule]]\nlayers = "firts:1"\nkeep = true', "rule[0].layers"),
        (HEAD + "[[rule]]\nkeep = true\nweights = {bits = 8}", "rule[0].keep"),
        (HEAD + '[[rule]]\nroles = ["attn_q"]', "rule[0].keep"),
        (HEAD + "[[rule]]\nweights = {bits = 1}", "rule[0].weights.bits"),
    ],
)
def test_mistakes_name_their_key(text: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, text)
    assert caught.value.key == key
    assert caught.value.hint


@pytest.mark.parametrize("container", names())
def test_containers_refuse_what_they_do_not_hold(container: str) -> None:
    held, activations = writing(container).types, writing(container).activations
    for kind in ("int", "fp8", "nf4", "fp4", "int8-rows", "nvfp4", "mxfp4"):
        if kind not in held:
            with pytest.raises(UnsupportedError, match=kind) as caught:
                layout_of(container, Weights(type=kind), "F16")
            others = [name for name in names() if kind in writing(name).types]
            assert all(f'"{name}"' in str(caught.value.hint) for name in others)
    if "static" not in activations:
        with pytest.raises(UnsupportedError, match="activations"):
            layout_of(container, Weights(type=held[0], activations="static"), "F16")


def test_overrides() -> None:
    found = load_recipe("w4a16")
    changed = override(found, Overrides(keep=("mlp=bf16",), method="rtn"))
    assert changed.label == "w4a16 --keep mlp=bf16 --method rtn"
    assert not changed.needs_calibration
    assert override(found, Overrides(method="gptq")) == found
    with pytest.raises(UsageError, match="did you mean"):
        override(found, Overrides(method="gtpq"))
    with pytest.raises(UsageError, match="only as floats"):
        override(found, Overrides(keep=("mlp=q4_k",)))
