"""The rules of a recipe: which tensors they speak of, and under which condition."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from quantkit.families.roles import Role


@dataclass(frozen=True)
class Facts:
    """What a condition may ask about the model and the run.

    `architecture` is the target's name ("llama"). `gqa` is query heads per key-value head of the first layer (0
    where that layer has none), `blocks` the number of layers, `experts` 0 for dense models.
    """

    architecture: str
    blocks: int
    gqa: int
    experts: int
    imatrix: bool


@dataclass(frozen=True)
class When:
    """A condition on the whole model; every field that is set must hold."""

    architectures: tuple[str, ...] = ()
    blocks: int | None = None
    gqa_min: int | None = None
    experts: int | None = None
    imatrix: bool | None = None

    def holds(self, facts: Facts) -> bool:
        return (
            (not self.architectures or facts.architecture in self.architectures)
            and self.blocks in (None, facts.blocks)
            and (self.gqa_min is None or facts.gqa >= self.gqa_min)
            and self.experts in (None, facts.experts)
            and self.imatrix in (None, facts.imatrix)
        )


@dataclass(frozen=True)
class Layers:
    """A named choice of layers, after llama.cpp's mixtures (llama-quant.cpp, llama_tensor_get_type_impl).

    "more_bits" is its use_more_bits: the first and last eighth and every third between. "first_eighth" and
    "first_sixteenth" are its i < n/8 and i < n/16, "first:N" its i < N. All divisions round down.
    """

    selector: str

    def contains(self, index: int | None, count: int) -> bool:
        """Whether the tensor number `index` of `count` is chosen; never one outside blocks (None)."""
        if index is None:
            return False
        if self.selector == "more_bits":
            return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2
        if self.selector == "first_eighth":
            return index < count // 8
        if self.selector == "first_sixteenth":
            return index < count // 16
        return index < int(self.selector.removeprefix("first:"))


LAYER_SELECTORS = ("more_bits", "first_eighth", "first_sixteenth", "first:N")


def is_layer_selector(selector: str) -> bool:
    return selector in LAYER_SELECTORS[:-1] or re.fullmatch(r"first:[0-9]{1,6}", selector) is not None


@dataclass(frozen=True)
class Subject:
    """A tensor as rules see it.

    `role` is the part it plays (a tied token embedding plays the output). It is number `index` of `count` of its
    kind; `index` is None outside blocks. `stacked` means more than one matrix (experts), `rows_fit` that the block
    of the recipe's default type divides its rows.
    """

    name: str
    role: Role
    index: int | None
    count: int
    stacked: bool
    rows_fit: bool


@dataclass(frozen=True)
class Rule:
    """Give `qtype` to the tensors that every selector admits; an empty selector admits all.

    `names` are globs on the target name, `was` the types that earlier rules may have given, the others are fields
    of Subject. `where` locates the rule for messages, `why` is its reason in words. A rule that is not `optional`
    must match at least one tensor when its condition `when` holds.
    """

    qtype: str
    where: str
    roles: tuple[Role, ...] = ()
    names: tuple[str, ...] = ()
    layers: Layers | None = None
    stacked: bool | None = None
    rows_fit: bool | None = None
    was: tuple[str, ...] = ()
    when: When = When()
    why: str = ""
    optional: bool = False

    def admits(self, subject: Subject, qtype: str) -> bool:
        """Whether this rule applies to `subject`, which earlier rules gave `qtype`."""
        return (
            (not self.roles or subject.role in self.roles)
            and (not self.names or any(fnmatchcase(subject.name, name) for name in self.names))
            and (self.layers is None or self.layers.contains(subject.index, subject.count))
            and self.stacked in (None, subject.stacked)
            and self.rows_fit in (None, subject.rows_fit)
            and (not self.was or qtype in self.was)
        )


@dataclass(frozen=True)
class Never:
    """Tensors that are never quantized: names by glob, in the models where `when` holds."""

    names: tuple[str, ...]
    when: When = When()

    def admits(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.names)
