"""What names of tensors and modules say: the block they lie in, and the expert they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

EXPERTS = ".experts."
EXPERT = r"\.experts\.([0-9]{1,6})\."
# the name that transformers has in memory
EXPERT_MATRIX = r"(.*\.experts)\.([0-9]{1,6})\.(gate|up|down)_proj\.(weight|bias)"

# Models saved without their head have no "model." or "transformer." before their blocks.
OLD_BLOCKS = r"(?:transformer\.)?(?:h|blocks)"  # of GPT-2 and those after it
ENCODER_BLOCKS = r"(?:\w+\.)?(?:encoder|transformer)\.layer"  # of BERT and its kin
STACKS = r"(?:\w+\.)?(?:encoder|decoder)\.block"  # of T5, each of which counts from 0
BLOCK = rf"(?:(?:^|\.)layers|^{OLD_BLOCKS}|^{ENCODER_BLOCKS}|^{STACKS})\.([0-9]{{1,6}})\."
TEXT_BLOCK = (
    rf"(?:(?:language_model\.)?(?:model\.)?(?:language_model\.)?layers|{OLD_BLOCKS}|{STACKS})\.([0-9]{{1,6}})\."
)


def block_of(name: str) -> tuple[int | None, str]:
    """The number of the block that a module or tensor lies in, None outside, and the rest of its name.

    A block of a vision tower counts as well.
    """
    found = re.search(BLOCK, name)
    return (int(found[1]), name[found.end() :]) if found else (None, "")


def first_of_stack(name: str, before: Mapping[str, int]) -> int:
    """How many blocks text goes through before the first of the stack that a tensor lies in: `before` says it of
    stacks that are not the first, by how their names begin."""
    return next((count for start, count in before.items() if name.startswith(start)), 0)


def text_block_of(name: str) -> tuple[int | None, str]:
    """The same, for blocks of the language model alone."""
    found = re.match(TEXT_BLOCK, name)
    return (int(found[1]), name[found.end() :]) if found else (None, "")


def layer_numbers(names: Iterable[str]) -> set[int]:
    """The numbers of the language model's blocks that these names speak of."""
    return {number for name in names if (number := text_block_of(name)[0]) is not None}


def expert_of(name: str) -> int | None:
    """The number of the expert that a module or tensor belongs to, None for one that is no expert's."""
    found = re.search(EXPERT, f"{name}.")
    return int(found[1]) if found else None


def any_expert(name: str) -> str:
    """The name with "*" for the number of the expert."""
    return re.sub(EXPERT, ".experts.*.", name)
