"""Every recipe for servers, written by the command line, in the library that its users load it with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from artifacts import RECIPES
from cases import Case
from comparisons import require_same_logits, require_same_text, require_same_weights

# All tests of a recipe in one process: they share its artifact.
each_recipe = pytest.mark.parametrize("recipe", [pytest.param(r, marks=pytest.mark.xdist_group(r)) for r in RECIPES])
LINEAR_LAYERS = 7 * 4


@each_recipe
def test_weights_are_those_that_quantkit_decodes(recipe: str, case: Callable[[str], Case]) -> None:
    found = case(recipe)
    assert len(found.loaded.weights) == LINEAR_LAYERS
    require_same_weights(found.loaded.weights, found.decoded, found.folder)


@each_recipe
def test_logits_are_those_of_the_decoded_weights(recipe: str, case: Callable[[str], Case]) -> None:
    found = case(recipe)
    require_same_logits(found.loaded, found.decoded, found.folder)


@each_recipe
def test_text_is_what_the_decoded_weights_write(recipe: str, case: Callable[[str], Case]) -> None:
    found = case(recipe)
    require_same_text(found.loaded, found.decoded, found.folder)
