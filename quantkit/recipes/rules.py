"""What the user wants: which tensors get which type, as frozen data.

A recipe is a default type and rules; later rules win. Rules speak of roles, names, layers and facts of the model,
never of one model's tensors, so that a recipe fits every architecture. `quantkit.recipes.read` reads recipes from TOML,
`quantkit.plan.mixture` applies them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from quantkit.errors import UsageError, did_you_mean
from quantkit.families.roles import Role
from quantkit.patterns import PatternError, compile_glob, compile_search
from quantkit.qtypes import base
from quantkit.untrusted import shown

OnFallback = Literal["report", "error"]


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
            and (not self.names or any(compile_glob(name)(subject.name) for name in self.names))
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
        return any(compile_glob(pattern)(name) for pattern in self.names)


@dataclass(frozen=True)
class Keep:
    """A user's override: tensors in whose name the regular expression `pattern` is found get `qtype`."""

    pattern: str
    qtype: str

    def matches(self, name: str) -> bool:
        """Raises PatternError for a pattern that `parse_keep` would have refused."""
        return compile_search(self.pattern)(name)

    def __str__(self) -> str:
        return f"{self.pattern}={self.qtype}"


@dataclass(frozen=True)
class Recipe:
    """A recipe as written, plus the overrides of this run.

    `name` is its file name without suffix, `title` what it is called in file names and reports (Q4_K_M).
    `file_type` becomes general.file_type. `fallbacks` maps a type to the one that takes over where its block does
    not divide a row. `needs_imatrix` lists types that must not be written without importance weights.
    """

    name: str
    title: str
    summary: str
    file_type: int
    qtype: str
    rules: tuple[Rule, ...] = ()
    never: tuple[Never, ...] = ()
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    needs_imatrix: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    on_fallback: OnFallback = "report"
    keep: tuple[Keep, ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False

    @property
    def label(self) -> str:
        """The name with the overrides that change the result, as on the command line."""
        words = [self.name, *(f"--keep {k}" for k in self.keep)]
        if self.output_type:
            words.append(f"--output-type {self.output_type}")
        if self.embedding_type:
            words.append(f"--embedding-type {self.embedding_type}")
        if self.pure:
            words.append("--pure")
        return " ".join(words)


def override(
    recipe: Recipe,
    *,
    keep: Sequence[str] = (),
    output_type: str | None = None,
    embedding_type: str | None = None,
    pure: bool = False,
    on_fallback: OnFallback | None = None,
) -> Recipe:
    """The recipe with a run's options applied.

    `keep` are PATTERN=TYPE texts, first match wins (see `parse_keep`); the two types replace whatever the rules say
    for the output and the token embedding; `pure` gives every tensor the default type and ignores the rules.
    Raises UsageError for a malformed pattern or an unknown type.
    """
    return replace(
        recipe,
        keep=recipe.keep + tuple(parse_keep(text) for text in keep),
        output_type=_option_type("--output-type", output_type) if output_type else recipe.output_type,
        embedding_type=_option_type("--embedding-type", embedding_type) if embedding_type else recipe.embedding_type,
        pure=pure or recipe.pure,
        on_fallback=on_fallback or recipe.on_fallback,
    )


def parse_keep(text: str) -> Keep:
    """Parse PATTERN=TYPE: a regular expression searched in target tensor names, and a type.

    As llama-quantize's --tensor-type, with two differences: the last "=" separates, so that a pattern may contain
    one, and case is ignored instead of lowering the pattern, which would turn \\S into \\s. Raises UsageError.
    """
    pattern, _, qtype = text.rpartition("=")
    if not pattern or not qtype:
        raise UsageError(
            f'--keep "{shown(text)}" is not PATTERN=TYPE', hint="for example --keep attn_v=q8_0 or --keep ffn_down=bf16"
        )
    try:
        compile_search(pattern)
    except PatternError as error:
        hint = "the pattern is a regular expression of RE2: escape . [ ( * + ? with a backslash, do not look around"
        raise UsageError(f'--keep "{shown(text)}": {shown(str(error))}', hint=hint) from error
    return Keep(pattern, _option_type(f'--keep "{shown(text)}"', qtype))


def _option_type(option: str, qtype: str) -> str:
    if qtype.lower() in base.names():
        return qtype.lower()
    suggestion = did_you_mean(qtype.lower(), base.names())
    raise UsageError(f'{option}: unknown type "{shown(qtype)}"{suggestion}', hint=f"types: {', '.join(base.names())}")
