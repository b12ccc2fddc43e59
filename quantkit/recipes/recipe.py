"""What the user wants: one recipe for every container, and what the options of a run change in it.

`quantkit.recipes.read` finds recipes, `quantkit.recipes.parse` makes them of TOML, the planners apply them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, Literal

from quantkit.errors import UsageError, did_you_mean, require_choice
from quantkit.formats.containers.weights import Weights
from quantkit.methods import method_names, needs_hessian
from quantkit.patterns import PatternError, compile_search
from quantkit.qtypes import base
from quantkit.recipes.rules import Keep, Never, Rule
from quantkit.records import record
from quantkit.untrusted import shown

OnFallback = Literal["report", "error"]
OrderName = Literal["storage", "within", "activation", "permuted"]

GGUF = "gguf"
FLOAT_TYPES = ("bf16", "f16", "f32")


@record
class MethodChoice:
    """How values are chosen. None leaves a setting to the method; `alpha` is smoothquant's."""

    name: str = "rtn"
    transform: str | None = None
    alpha: float = 0.5
    damping: float | None = None
    order: OrderName | None = None
    passes: int | None = None


FEEDBACK = MethodChoice("gptq", order="within")
"""Rounds GGUF types with text. Spans stay together: their scales are searched for what feedback has made of them."""

SWITCHES = {
    "head": "feedback-head", "embedding": "feedback-embedding", "columns": "even-columns", "norms": "refit-norms",
}  # fmt: skip
"""The options of what a mixture with feedback may leave out, by its fields."""


@record
class Allotment:
    """Types that were chosen for a budget, tensor by tensor: `types` gives each its type and the reason in words.

    They come before what rules say, and after what options say. `facts` is what manifests and plans tell of it, as
    plain JSON, `warnings` are codes and messages.
    """

    types: Mapping[str, tuple[str, str]]
    facts: Mapping[str, Any]
    warnings: tuple[tuple[str, str], ...] = ()


@record
class GGUFMixture:
    """What only recipes for GGUF files say.

    `file_type` becomes general.file_type. `never` are tensors that are never quantized. `fallbacks` maps a type to the
    one that takes over where its block does not divide a row. `needs_imatrix` lists types that must not be written
    without importance weights. `output_type` and `embedding_type` replace whatever the rules say for the output and the
    token embedding; `pure` gives every tensor the default type. `head` and `embedding` say that a method with inputs
    rounds them, too, where they are quantized, `columns` that those far apart in length are evened before, `norms` that
    norms are then fitted to what it has rounded. `allotment` are types that a budget was spent on. With `preserve` a
    grid or zeros that are there stay there. The source of an `adapter` is one, and no model.
    """

    file_type: int
    never: tuple[Never, ...] = ()
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    needs_imatrix: tuple[str, ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    head: bool = True
    embedding: bool = True
    columns: bool = True
    norms: bool = False
    allotment: Allotment | None = None
    preserve: bool = False
    adapter: bool = False


@record
class Recipe:
    """A recipe as written, plus the overrides of this run.

    `name` is its file name without suffix, `title` what it is called in file names and reports (Q4_K_M). `weights` are
    the default, which `rules` change; in a GGUF file their `type` is a quantization type. `mixture` is None for
    checkpoints. `overrides` are the options that change the result besides --keep, as the command line has them; "" for
    one without a value.
    """

    name: str
    title: str
    summary: str
    container: str
    weights: Weights
    rules: tuple[Rule, ...] = ()
    method: MethodChoice = MethodChoice()
    kv_cache: bool = False
    mixture: GGUFMixture | None = None
    aliases: tuple[str, ...] = ()
    on_fallback: OnFallback = "report"
    keep: tuple[Keep, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name with the overrides that change the result, as on the command line."""
        options = (f"--{option} {value}".rstrip() for option, value in self.overrides.items())
        return " ".join([self.name, *(f"--keep {k}" for k in self.keep), *options])

    @property
    def default(self) -> str:
        """The recipe in one word: the default type of a GGUF file, or the container of a checkpoint."""
        return self.container if self.mixture is None else self.weights.type

    @property
    def needs_imatrix(self) -> bool:
        """Whether some of its types cannot be written without importance weights."""
        return self.mixture is not None and bool(self.mixture.needs_imatrix)

    @property
    def needs_calibration(self) -> bool:
        """Whether there must be text: for a Hessian, for scales that are moved, or for static scales."""
        weights = (self.weights, *(rule.weights for rule in self.rules if rule.weights))
        static = any(one.activations == "static" for one in weights)
        return needs_hessian(self.method.name) or self.method.transform is not None or static or self.kv_cache

    @property
    def reads_importance(self) -> bool:
        """Whether any type that it can give is chosen with weights of importance.

        Q8_0 and floats are not, nor is any type by a method that knows more of its inputs.
        """
        if needs_hessian(self.method.name):
            return False
        return any(base.get(name).uses_importance for name in self._types)

    @property
    def rounds(self) -> bool:
        """Whether it rounds weights to anything but floats."""
        return self.mixture is None or any(base.get(name).widen is None for name in self._types)

    @property
    def _types(self) -> frozenset[str]:
        """The quantization types that it can give."""
        if self.mixture is None:
            return frozenset()
        given = {self.weights.type}
        for rule in () if self.mixture.pure else self.rules:
            if rule.weights and (not rule.was or given.intersection(rule.was)):
                given.add(rule.weights.type)
        asked = (self.mixture.output_type, self.mixture.embedding_type, *(keep.qtype for keep in self.keep))
        if self.mixture.allotment:
            given |= {qtype for qtype, _ in self.mixture.allotment.types.values()}
        return frozenset(given.union(name for name in asked if name))

    def kept(self, name: str) -> tuple[Keep, ...]:
        """The --keep whose pattern is found in a name; the first one decides."""
        return tuple(keep for keep in self.keep if keep.matches(name))


@record
class Overrides:
    """What the options of a run change in a recipe.

    `keep` are PATTERN=TYPE texts (see `parse_keep`), `method` is the name of another one; types, `pure` and `preserve`
    are those of GGUFMixture, and so are `head`, `embedding`, `columns` and `norms`. None leaves what the recipe says.
    With `text` GGUF types are rounded with feedback by default.
    """

    keep: tuple[str, ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    preserve: bool = False
    method: str | None = None
    head: bool | None = None
    embedding: bool | None = None
    columns: bool | None = None
    norms: bool | None = None
    text: bool = False
    on_fallback: OnFallback | None = None


def override(recipe: Recipe, run: Overrides) -> Recipe:
    """The recipe with a run's options applied. The caller has refused those that the recipe does not use.

    Raises UsageError for a pattern that is malformed or wants a type that the container cannot keep, and for an unknown
    type or method.
    """
    kept = tuple(parse_keep(text) for text in run.keep)
    changed = dict(recipe.overrides)
    mixture = before = recipe.mixture
    if mixture is None:
        _require_floats(kept)
    else:
        mixture = replace(
            _switched(mixture, run),
            output_type=_option_type("--output-type", run.output_type) or mixture.output_type,
            embedding_type=_option_type("--embedding-type", run.embedding_type) or mixture.embedding_type,
            pure=run.pure or mixture.pure,
            preserve=run.preserve or mixture.preserve,
        )
        said = {"output-type": mixture.output_type, "embedding-type": mixture.embedding_type}
        changed |= {option: value for option, value in said.items() if value}
        changed |= {"pure": ""} if mixture.pure else {}
        changed |= {"preserve": ""} if mixture.preserve else {}
    recipe = replace(recipe, mixture=mixture, keep=recipe.keep + kept)
    method = _method(recipe, run)
    if method != recipe.method:
        changed["method"] = method.name
    if before is not None and mixture is not None and needs_hessian(method.name):
        changed |= _switches(before, mixture)
    if mixture is not None and mixture.preserve and needs_hessian(method.name):
        what = f"--preserve keeps the grid of the source, and {method.name} rounds to another one"
        raise UsageError(what, hint="leave out --calib, or give --method rtn")
    return replace(
        recipe,
        method=method,
        overrides=changed,
        on_fallback=run.on_fallback or recipe.on_fallback,
    )


def _switched(mixture: GGUFMixture, run: Overrides) -> GGUFMixture:
    """With what options switch on or off."""
    return replace(
        mixture,
        head=mixture.head if run.head is None else run.head,
        embedding=mixture.embedding if run.embedding is None else run.embedding,
        columns=mixture.columns if run.columns is None else run.columns,
        norms=mixture.norms if run.norms is None else run.norms,
    )


def _switches(before: GGUFMixture, after: GGUFMixture) -> dict[str, str]:
    """The options that make of one mixture the other."""
    turned = [name for name in SWITCHES if getattr(before, name) != getattr(after, name)]
    return {f"{'' if getattr(after, name) else 'no-'}{SWITCHES[name]}": "" for name in turned}


def _require_floats(kept: tuple[Keep, ...]) -> None:
    for one in kept:
        if one.qtype not in FLOAT_TYPES:
            hint = f"{one.pattern}=bf16 leaves layers as they are; for other bits write a rule in a recipe"
            raise UsageError(f'--keep "{one}": checkpoints for servers keep layers only as floats', hint=hint)


def _method(recipe: Recipe, run: Overrides) -> MethodChoice:
    known, name = method_names(), run.method
    if name is not None:
        require_choice("--method", name, known)
    if recipe.mixture is not None and recipe.rounds and recipe.method == MethodChoice():
        return FEEDBACK if name == FEEDBACK.name or (name is None and run.text) else recipe.method
    return recipe.method if name is None else replace(recipe.method, name=name)


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
    return Keep(pattern, _option_type(f'--keep "{shown(text)}"', qtype) or "")


def _option_type(option: str, qtype: str | None) -> str | None:
    """The type that an option names, None where it is not given."""
    if not qtype:
        return None
    if qtype.lower() in base.names():
        return qtype.lower()
    suggestion = did_you_mean(qtype.lower(), base.names())
    raise UsageError(f'{option}: unknown type "{shown(qtype)}"{suggestion}', hint=f"types: {', '.join(base.names())}")
