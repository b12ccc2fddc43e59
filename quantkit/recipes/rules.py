"""Rules: which tensors are stored how, in words that fit every model.

Later rules win. They speak of roles, names, layers and facts of the model, never of one model's tensors.
"""

from __future__ import annotations

import re

from quantkit.families.roles import Role
from quantkit.formats.containers.weights import Weights
from quantkit.patterns import compile_glob, compile_search
from quantkit.records import record


@record
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


@record
class When:
    """A condition on the whole model; every field that is set must hold."""

    architectures: tuple[str, ...] = ()
    blocks: int | None = None
    gqa_min: int | None = None
    experts: int | None = None
    experts_min: int | None = None
    imatrix: bool | None = None

    def holds(self, facts: Facts) -> bool:
        return (
            (not self.architectures or facts.architecture in self.architectures)
            and self.blocks in (None, facts.blocks)
            and (self.gqa_min is None or facts.gqa >= self.gqa_min)
            and self.experts in (None, facts.experts)
            and (self.experts_min is None or facts.experts >= self.experts_min)
            and self.imatrix in (None, facts.imatrix)
        )


@record
class Layers:
    """A named choice of layers, after llama.cpp's mixtures (llama-quant.cpp, llama_tensor_get_type_impl).

    "more_bits" is its use_more_bits: the first and last eighth and every third between. "first_eighth" and
    "first_sixteenth" are its i < n/8 and i < n/16, "middle" what is in neither the first nor the last eighth, "first:N"
    its i < N. "counted_eighth" is i < n/8 with i the number among tensors of its kind, whatever their layers. All
    divisions round down.
    """

    selector: str

    def contains(self, index: int | None, count: int) -> bool:
        """Whether the tensor number `index` of `count` is chosen; never one outside blocks (None)."""
        if index is None:
            return False
        if self.selector == "more_bits":
            return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2
        if self.selector in {"first_eighth", "counted_eighth"}:
            return index < count // 8
        if self.selector == "middle":
            return count // 8 <= index < 7 * count // 8
        if self.selector == "first_sixteenth":
            return index < count // 16
        return index < int(self.selector.removeprefix("first:"))


LAYER_SELECTORS = ("more_bits", "first_eighth", "counted_eighth", "first_sixteenth", "middle", "first:N")


def is_layer_selector(selector: str) -> bool:
    return selector in LAYER_SELECTORS[:-1] or re.fullmatch(r"first:[0-9]{1,6}", selector) is not None


@record
class Subject:
    """A tensor as rules see it.

    `name` is what its container calls it: a tensor of a GGUF file, a layer of a checkpoint. `role` is the part it plays
    (a tied token embedding plays the output). It is number `index` of `count` of its kind; `index` is None outside
    blocks. In models with experts that is its layer; `counted` is the number in any model, None where nothing counts
    it. `stacked` means more than one matrix (experts), `rows_fit` that the block of the recipe's default type
    divides its rows.
    """

    name: str
    role: Role
    index: int | None
    count: int
    stacked: bool = False
    rows_fit: bool = True
    counted: int | None = None

    def place(self, layers: Layers) -> int | None:
        """The number that a choice of layers looks at."""
        return self.counted if layers.selector == "counted_eighth" else self.index


@record
class Rule:
    """Give `weights` to the tensors that every selector admits, or leave them as they are (None); an empty selector
    admits all.

    `names` are globs, `was` the types that earlier rules may have given, the others are fields of Subject. `where`
    locates the rule for messages, `why` is its reason in words. A rule that is not `optional` must match at least one
    tensor when its condition `when` holds.
    """

    weights: Weights | None
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

    def admits(self, subject: Subject, given: str = "") -> bool:
        """Whether this rule applies to `subject`, to which earlier rules have `given` a type."""
        return (
            (not self.roles or subject.role in self.roles)
            and (not self.names or any(compile_glob(name)(subject.name) for name in self.names))
            and (self.layers is None or self.layers.contains(subject.place(self.layers), subject.count))
            and self.stacked in (None, subject.stacked)
            and self.rows_fit in (None, subject.rows_fit)
            and (not self.was or given in self.was)
        )


@record
class Never:
    """Tensors that are never quantized: names by glob, in the models where `when` holds."""

    names: tuple[str, ...]
    when: When = When()

    def admits(self, name: str) -> bool:
        return any(compile_glob(pattern)(name) for pattern in self.names)


@record
class Keep:
    """A user's override: tensors in whose name the regular expression `pattern` is found get `qtype`."""

    pattern: str
    qtype: str

    def matches(self, name: str) -> bool:
        """Raises PatternError for a pattern that `parse_keep` would have refused."""
        return compile_search(self.pattern)(name)

    def __str__(self) -> str:
        return f"{self.pattern}={self.qtype}"
