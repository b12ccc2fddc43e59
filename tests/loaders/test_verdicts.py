"""The table of consumers says of every recipe what loading it shows, for dense models and for mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from artifacts import CALIBRATION, RECIPES, SOURCE
from cases import Case
from comparisons import require_same_weights, same
from expected import decoded
from loaders import loaded_weights, open_model
from mixtures import MIXTURES, build, experts_of, stacked

import quantkit
from quantkit.consumers import Verdict
from quantkit.recipes.read import load_recipe
from quantkit.recipes.recipe import Overrides, override

CALIBRATED = {"calib": (CALIBRATION[1],), "samples": 4, "seqlen": 32}
in_one_process = [pytest.param(r, marks=pytest.mark.xdist_group(f"verdict-{n % 2}")) for n, r in enumerate(RECIPES)]


def verdict(source: Path, recipe: str, keep: tuple[str, ...] = ()) -> Verdict:
    """What the table says to this recipe of this model."""
    prepared = quantkit.prepare(quantkit.Request(str(source), (recipe,), keep=keep))
    try:
        found = quantkit.consumer_verdicts(prepared.plans[0])
    finally:
        prepared.checkpoint.close()
    return next(v for v in found if v.consumer == "transformers")


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A mixture's checkpoint, written when it is first asked for."""
    return cache(lambda family: build(family, tmp_path_factory.mktemp("mixture")))


def as_fast_as_can_be(recipe: str) -> dict[str, Any]:
    """Options that leave the container as it is: rounding to nearest, little text, or none."""
    found = load_recipe(recipe)
    text = CALIBRATED if override(found, Overrides(method="rtn")).needs_calibration else {}
    return {**text, **({"method": "rtn"} if found.method.name != "rtn" else {})}


def loads(folder: Path) -> bool:
    """Whether transformers gets every weight that quantkit decodes, the experts' above all."""
    expected = decoded(folder)
    try:
        model = open_model(folder)
    except (RuntimeError, ValueError):
        return False
    experts, stacks = experts_of(model), stacked(expected)
    assert experts.keys() == stacks.keys()
    if not all(stacks[name].shape == w.shape and same(w, stacks[name], exact=True) for name, w in experts.items()):
        return False
    require_same_weights(loaded_weights(model, folder), expected, folder)
    return True


def require_verdict(source: Path, recipe: str, out: Path, keep: tuple[str, ...] = ()) -> None:
    """Load the recipe's artifact and compare with what the table says."""
    said = verdict(source, recipe, keep)
    request = quantkit.Request(str(source), (recipe,), keep=keep, **as_fast_as_can_be(recipe))
    quantkit.convert(request, quantkit.Output(out, threads=1))
    assert loads(out) == said.ok, said


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("recipe", in_one_process)
def test_mixtures_load_where_the_table_says_so(
    recipe: str, family: str, mixture: Callable[[str], Path], tmp_path: Path
) -> None:
    require_verdict(mixture(family), recipe, tmp_path / "out")


@pytest.mark.xdist_group("verdict-0")
@pytest.mark.parametrize(
    "recipe", ["gptq-w4g128", "awq-w4g128", "nf4", "w4a16", "w8a8", "mxfp4a16", "fp8", "fp8-block"]
)
def test_kept_experts_load_where_the_table_says_so(recipe: str, mixture: Callable[[str], Path], tmp_path: Path) -> None:
    require_verdict(mixture("qwen3-moe"), recipe, tmp_path / "out", keep=("experts=bf16",))


@pytest.mark.parametrize("recipe", [pytest.param(r, marks=pytest.mark.xdist_group(r)) for r in RECIPES])
def test_dense_models_load_where_the_table_says_so(recipe: str, case: Callable[[str], Case]) -> None:
    said = verdict(SOURCE, recipe)
    found = case(recipe)
    require_same_weights(found.loaded.weights, found.decoded, found.folder)
    assert said.ok


def test_a_mixture_whose_experts_are_not_those_decoded_is_seen(mixture: Callable[[str], Path], tmp_path: Path) -> None:
    quantkit.convert(quantkit.Request(str(mixture("mixtral")), ("fp8",)), quantkit.Output(tmp_path / "out", threads=1))
    model, expected = open_model(tmp_path / "out"), stacked(decoded(tmp_path / "out"))
    name = next(iter(expected))
    assert same(experts_of(model)[name], expected[name], exact=True)
    assert not same(experts_of(model)[name], torch.roll(expected[name], 1, dims=0), exact=True)
