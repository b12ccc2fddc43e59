"""Checkpoints of which some layers stay as they are, and checkpoints in several files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from artifacts import ROUND_TO_NEAREST
from cases import Case
from comparisons import require_same_logits, require_same_weights

# One recipe for each container, and what makes it quick to write.
PLAIN_AWQ = str(Path(__file__).with_name("plain-awq.toml"))
CONTAINERS = {
    "gptq-w4g128": ROUND_TO_NEAREST, PLAIN_AWQ: (), "w4a16": ROUND_TO_NEAREST, "w8a8": (), "nf4-double": (),
    "int8": (), "fp8-native": (),
}  # fmt: skip
each_container = pytest.mark.parametrize(
    ("recipe", "options"),
    [pytest.param(name, options, id=Path(name).stem) for name, options in CONTAINERS.items()],
)

KEPT = {"in every block": (r"mlp\.down_proj", 4), "in one block": (r"layers\.1\.mlp\.down_proj", 1)}


@each_container
@pytest.mark.parametrize(("pattern", "count"), KEPT.values(), ids=KEPT)
def test_layers_that_stay_as_they_are(
    recipe: str, options: tuple[str, ...], pattern: str, count: int, case: Callable[..., Case]
) -> None:
    found = case(recipe, *options, "--keep", f"{pattern}=bf16")
    assert len(found.loaded.weights) == 28 - count
    require_same_weights(found.loaded.weights, found.decoded, found.folder)
    require_same_logits(found.loaded, found.decoded, found.folder)


@each_container
def test_several_files(recipe: str, options: tuple[str, ...], case: Callable[..., Case]) -> None:
    found = case(recipe, *options, "--max-shard-size", "700K")
    assert len(list(found.folder.glob("model-*-of-*.safetensors"))) > 3
    require_same_weights(found.loaded.weights, found.decoded, found.folder)
    require_same_logits(found.loaded, found.decoded, found.folder)
