"""Recipes for checkpoints that servers load: what becomes of the linear layers, and how their values are chosen.

A recipe with a `container` is one of these; without, it describes a GGUF file (`quantkit.recipes.rules`). As there,
later rules win and speak of roles, names and layers. `quantkit.recipes.read` finds the files, this module reads their
tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from quantkit.errors import UsageError, did_you_mean
from quantkit.families.linears import LINEAR
from quantkit.families.model import ModelTensor
from quantkit.families.roles import Role
from quantkit.formats.containers import table as containers
from quantkit.formats.containers.weights import Granularity, Weights, WeightType
from quantkit.methods import method_names, needs_hessian
from quantkit.methods.transforms import transform_names
from quantkit.patterns import compile_glob
from quantkit.qtypes.schemes.base import Activations
from quantkit.qtypes.schemes.integers import Symmetry
from quantkit.recipes.rules import LAYER_SELECTORS, Keep, Layers, OnFallback, is_layer_selector, parse_keep
from quantkit.recipes.table import Table
from quantkit.untrusted import shown

OrderName = Literal["storage", "within", "activation", "permuted"]

MAX_GROUP = 1 << 20
MAX_FALLBACKS = 8
FLOAT_TYPES = ("bf16", "f16", "f32")
WEIGHT_KEYS = (
    "type", "bits", "group", "fallback", "symmetry", "granularity", "double", "version", "act_order", "activations",
)  # fmt: skip
METHOD_KEYS = ("name", "transform", "alpha", "damping", "order", "passes")
RECIPE_KEYS = ("schema", "title", "summary", "aliases", "container", "kv_cache", "weights", "method", "rule", "strict",
               "on_fallback")  # fmt: skip
RULE_KEYS = ("roles", "names", "layers", "keep", "weights", "why")


@dataclass(frozen=True)
class MethodChoice:
    """How values are chosen. None leaves a setting to the method; `alpha` is smoothquant's."""

    name: str = "rtn"
    transform: str | None = None
    alpha: float = 0.5
    damping: float | None = None
    order: OrderName | None = None
    passes: int | None = None


@dataclass(frozen=True)
class ServerRule:
    """Give other `weights` to the layers that every selector admits, or leave them as they are (None)."""

    weights: Weights | None
    where: str
    roles: tuple[Role, ...] = ()
    names: tuple[str, ...] = ()
    layers: Layers | None = None
    why: str = ""
    optional: bool = False

    def admits(self, module: ModelTensor, layer_count: int) -> bool:
        """Names are globs on the module's name."""
        return (
            (not self.roles or module.role in self.roles)
            and (not self.names or any(compile_glob(name)(module.name) for name in self.names))
            and (self.layers is None or self.layers.contains(module.layer, layer_count))
        )


@dataclass(frozen=True)
class ServerRecipe:
    """A recipe as written, plus the overrides of this run."""

    name: str
    title: str
    summary: str
    container: str
    weights: Weights
    method: MethodChoice = MethodChoice()
    rules: tuple[ServerRule, ...] = ()
    kv_cache: bool = False
    aliases: tuple[str, ...] = ()
    keep: tuple[Keep, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    on_fallback: OnFallback = "report"

    @property
    def label(self) -> str:
        """The name with the overrides that change the result, as on the command line."""
        return " ".join(
            [self.name, *(f"--keep {k}" for k in self.keep), *(f"--{k} {v}" for k, v in self.overrides.items())]
        )

    @property
    def needs_calibration(self) -> bool:
        """Whether there must be text: for a Hessian, for scales that are moved, or for static scales."""
        weights = (self.weights, *(rule.weights for rule in self.rules if rule.weights))
        static = any(one.activations == "static" for one in weights)
        return needs_hessian(self.method.name) or self.method.transform is not None or static or self.kv_cache


def override_server(
    recipe: ServerRecipe,
    *,
    keep: Sequence[str] = (),
    method: str | None = None,
    on_fallback: OnFallback | None = None,
) -> ServerRecipe:
    """The recipe with a run's options applied: PATTERN=TYPE texts that leave layers as they are, another method, and
    whether groups of another size are taken where those of the recipe do not divide.

    Raises UsageError for a pattern that is malformed or wants a type that no layer can keep, and an unknown method.
    """
    recipe = replace(recipe, on_fallback=on_fallback or recipe.on_fallback)
    kept = tuple(parse_keep(text) for text in keep)
    for one in kept:
        if one.qtype not in FLOAT_TYPES:
            hint = f"{one.pattern}=bf16 leaves layers as they are; for other bits write a rule in a recipe"
            raise UsageError(f'--keep "{one}": checkpoints for servers keep layers only as floats', hint=hint)
    if method is None:
        return replace(recipe, keep=recipe.keep + kept)
    known = method_names()
    if method not in known:
        raise UsageError(
            f'--method: unknown "{shown(method)}"{did_you_mean(method, known)}', hint=f"known: {', '.join(known)}"
        )
    chosen = replace(recipe.method, name=method)
    changed = {} if chosen == recipe.method else {"method": method}
    return replace(recipe, keep=recipe.keep + kept, method=chosen, overrides={**recipe.overrides, **changed})


def read_server_recipe(table: Table, name: str, title: str) -> ServerRecipe:
    """A recipe from its TOML table. Raises RecipeError naming the key."""
    table.only(*RECIPE_KEYS)
    container = table.one_of("container", containers.names())
    assert container is not None
    weights = _weights(table.table("weights"), Weights())
    strict = table.get("strict", bool)
    return ServerRecipe(
        name=name,
        title=title,
        summary=table.text("summary"),
        container=container,
        weights=weights,
        method=_method(table.table("method")),
        rules=tuple(_rule(entry, weights, optional=strict is False) for entry in table.tables("rule")),
        kv_cache=table.get("kv_cache", bool) or False,
        aliases=table.strings("aliases"),
        on_fallback="error" if table.one_of("on_fallback", get_args(OnFallback)) == "error" else "report",
    )


def _weights(table: Table, default: Weights) -> Weights:
    """A table of weights; what it does not say is as in `default`."""
    table.only(*WEIGHT_KEYS)
    words: dict[str, tuple[str, ...]] = {
        "type": get_args(WeightType), "symmetry": get_args(Symmetry), "granularity": get_args(Granularity),
        "activations": get_args(Activations),
    }  # fmt: skip
    found: dict[str, object] = {key: table.one_of(key, known) for key, known in words.items()}
    found |= {key: table.get(key, int) for key in ("bits", "group", "version")}
    found |= {key: table.get(key, bool) for key in ("double", "act_order")}
    found["fallback"] = _fallback(table)
    given = {key: value for key, value in found.items() if value is not None}
    weights = replace(default, **given)  # type: ignore[arg-type]  # every value was checked against its field
    if given.get("fallback") and (weights.type != "int" or weights.group == -1):
        hint = "leave it out: other types have groups of one size, and a row always divides"
        raise table.error("fallback", "is for integers in groups", hint)
    if not 2 <= weights.bits <= 8:
        raise table.error("bits", f"{weights.bits} is not between 2 and 8")
    if weights.group != -1 and not 1 <= weights.group <= MAX_GROUP:
        raise table.error("group", f"{weights.group} is no size of a group", "for example 128, or -1 for a whole row")
    if weights.version not in (1, 2):
        raise table.error("version", f"{shown(str(weights.version), 20)} is neither 1 nor 2")
    return weights


def _fallback(table: Table) -> tuple[int, ...] | None:
    """Sizes of groups to try after `group`, None where the table does not say."""
    found = table.get("fallback", list)
    if found is None:
        return None
    if len(found) > MAX_FALLBACKS or not all(type(size) is int and 1 <= size <= MAX_GROUP for size in found):
        hint = "for example fallback = [64, 32]"
        raise table.error("fallback", f"expected at most {MAX_FALLBACKS} sizes of groups", hint)
    return tuple(found)


def _method(table: Table) -> MethodChoice:
    table.only(*METHOD_KEYS)
    found: dict[str, object] = {
        "name": table.one_of("name", method_names()),
        "transform": table.one_of("transform", transform_names()),
        "alpha": table.number("alpha"),
        "damping": table.number("damping"),
        "order": table.one_of("order", get_args(OrderName)),
        "passes": table.get("passes", int),
    }
    given = {key: value for key, value in found.items() if value is not None}
    method = replace(MethodChoice(), **given)  # type: ignore[arg-type]  # every value was checked against its field
    if not 0 <= method.alpha <= 1:
        raise table.error("alpha", f"{method.alpha} is not between 0 and 1")
    if method.damping is not None and not 0 < method.damping < 1:
        raise table.error("damping", f"{method.damping} is not between 0 and 1")
    if method.passes is not None and not 0 <= method.passes <= 100:
        raise table.error("passes", f"{shown(str(method.passes), 20)} is not between 0 and 100")
    return method


def _rule(table: Table, default: Weights, *, optional: bool) -> ServerRule:
    table.only(*RULE_KEYS)
    keep = table.get("keep", bool) or False
    if keep == ("weights" in table.values):
        raise table.error("keep", "a rule has either keep = true or a table of weights")
    layers = table.get("layers", str)
    if layers is not None and not is_layer_selector(layers):
        raise table.unknown("layers", layers, LAYER_SELECTORS)
    return ServerRule(
        weights=None if keep else _weights(table.table("weights"), default),
        where=f"{table.file}: {table.path}",
        roles=tuple(Role(word) for word in table.some_of("roles", sorted(LINEAR))),
        names=table.globs("names"),
        layers=None if layers is None else Layers(layers),
        why=table.text("why"),
        optional=optional,
    )


def kept_by(recipe: ServerRecipe, module: ModelTensor) -> Keep | None:
    """The --keep that leaves a layer as it is, None where no pattern is found in its name."""
    return next((one for one in recipe.keep if one.matches(module.name)), None)
