"""What a checkpoint says of itself where layers stay as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from quantkit.formats.containers import base
from quantkit.formats.containers.base import Written
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.table import containers, writing
from quantkit.qtypes.schemes.integers import Integers

LAYOUT = GPTQLayout(Integers(4, 128))
IN_BLOCK = ("attn.q", "mlp.down")


def gptq_config(plain: set[str]) -> dict[str, Any]:
    """Of two blocks with two linear layers each, of which `plain` ones are not rounded."""
    names = [f"model.layers.{layer}.{name}" for layer in range(2) for name in IN_BLOCK]
    rounded = {name: LAYOUT for name in names if name not in plain}
    block = tuple((name,) for name in IN_BLOCK if any(full.endswith(name) for full in rounded))
    return writing("gptq").config(Written(rounded, (*sorted(plain), "lm_head"), block, "quantkit:1"))[
        "quantization_config"
    ]


def test_containers_are_found_by_the_names_of_their_files() -> None:
    """A file that defines CONTAINER is one, and no other file of the package is."""
    folder = Path(base.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if re.search(r"^CONTAINER = ", path.read_text(), re.MULTILINE)}
    assert {name.replace("-", "_") for name in containers()} == files
    assert list(containers()) == sorted(containers())
    for name, container in containers().items():
        assert container.name == name
        assert container.writing or container.reading


def is_replaced(name: str, config: dict[str, Any]) -> bool:
    """What transformers does: through optimum it compares the ends of names."""
    listed = config.get("modules_in_block_to_quantize")
    return listed is None or any(name.endswith(end) for group in listed for end in group)


@pytest.mark.parametrize(
    "plain",
    [
        set(),
        {"model.layers.0.mlp.down", "model.layers.1.mlp.down"},
        {"model.layers.1.mlp.down"},
        {"model.layers.0.attn.q", "model.layers.1.mlp.down"},
    ],
    ids=["none", "in every block", "in one block", "another in each block"],
)
def test_gptq_readers_replace_the_rounded_layers_and_no_other(plain: set[str]) -> None:
    config = gptq_config(plain)
    for layer in range(2):
        for name in (f"model.layers.{layer}.{short}" for short in IN_BLOCK):
            assert is_replaced(name, config) == (name not in plain), name


def test_gptq_names_nothing_where_all_layers_are_rounded() -> None:
    assert "modules_in_block_to_quantize" not in gptq_config(set())
