"""Recipes from their TOML tables.

A file with a `container` is for checkpoints: its rules give tables of weights. Without, it is for GGUF files, and its
rules give quantization types. Names are matched with globs (no regular expressions, so no catastrophic backtracking),
and shared rules are found by name inside the package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from quantkit.families.linears import LINEAR
from quantkit.families.roles import Role
from quantkit.formats.containers.weights import Granularity, Weights, WeightType
from quantkit.methods import method_names
from quantkit.methods.transforms import transform_names
from quantkit.qtypes import base
from quantkit.recipes.recipe import FEEDBACK, GGUF, GGUFMixture, MethodChoice, OnFallback, OrderName, Recipe
from quantkit.recipes.rules import LAYER_SELECTORS, Layers, Never, Rule, When, is_layer_selector
from quantkit.recipes.shipped import by_alias, read_shipped, recipe_names, shared_names
from quantkit.recipes.table import Table
from quantkit.untrusted import shown

MAX_RULES = 512
MAX_GROUP = 1 << 20
MAX_FALLBACKS = 8

KEYS = ("schema", "title", "summary", "aliases", "rule", "strict", "on_fallback")
GGUF_KEYS = (*KEYS, "file_type", "needs_imatrix", "default", "method", "adapter")
GGUF_RULE_KEYS = ("qtype", "roles", "names", "layers", "stacked", "rows_fit", "was", "when", "why")
GROUP_KEYS = ("schema", "strict", "rule")
CHECKPOINT_KEYS = (*KEYS, "container", "kv_cache", "weights", "method")
CHECKPOINT_RULE_KEYS = ("roles", "names", "layers", "keep", "weights", "why")
WEIGHT_KEYS = (
    "type", "bits", "group", "fallback", "symmetry", "granularity", "double", "version", "act_order", "activations",
)  # fmt: skip
METHOD_KEYS = ("name", "transform", "alpha", "damping", "order", "passes")
GGUF_METHOD_KEYS = ("name", "damping", "order", "passes", "head", "embedding", "columns", "norms")


def parse_recipe(table: Table, name: str) -> Recipe:
    """A recipe from the table of its file. Raises RecipeError naming the key."""
    title = table.get("title", str) or name.upper()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", title):
        raise table.error("title", f'"{shown(title)}" cannot be part of a file name', "use letters, digits, _ - and .")
    checkpoint = "container" in table.values
    table.only(*(CHECKPOINT_KEYS if checkpoint else GGUF_KEYS))
    on_fallback: OnFallback = "error" if table.one_of("on_fallback", get_args(OnFallback)) == "error" else "report"
    empty = Recipe(
        name=name,
        title=title,
        summary=table.text("summary"),
        container=GGUF,
        weights=Weights(),
        aliases=table.strings("aliases"),
        on_fallback=on_fallback,
    )
    return (_checkpoint_recipe if checkpoint else _gguf_recipe)(table, empty)


def _gguf_recipe(table: Table, empty: Recipe) -> Recipe:
    """`empty` with what a file for GGUF files says."""
    default = table.table("default")
    default.only("qtype")
    qtype = default.one_of("qtype", base.names())
    if qtype is None:
        raise default.error("qtype", "is missing", hint='for example [default] qtype = "q4_k"')
    common = read_shipped("limits/llama_quantize.toml")
    method = table.table("method")
    mixture = GGUFMixture(
        file_type=_file_type(table, qtype),
        never=tuple(_never(entry) for entry in common.tables("never")),
        fallbacks={kind: str(to) for kind, to in common.table("fallback").values.items()},
        needs_imatrix=table.some_of("needs_imatrix", base.names()),
        head=method.get("head", bool) is not False,
        embedding=method.get("embedding", bool) is not False,
        columns=method.get("columns", bool) is not False,
        norms=method.get("norms", bool) is True,
        adapter=table.get("adapter", bool) or False,
    )
    chosen = _gguf_method(method, empty.method)
    rules = _gguf_rules(table, groups=True)
    return replace(empty, weights=Weights(qtype), rules=rules, method=chosen, mixture=mixture)


def _gguf_method(table: Table, default: MethodChoice) -> MethodChoice:
    """Feedback with other settings, or another method even where there is text. Where only what feedback may leave out
    is said, text decides whether there is any: the `default`."""
    table.only(*GGUF_METHOD_KEYS)
    said = {k: v for k, v in table.values.items() if k in METHOD_KEYS}
    if not said:
        return default
    method = _method(replace(table, values=said), FEEDBACK)
    if method.order == "permuted":
        raise table.error("order", "blocks of GGUF files keep their columns", 'use "within", "storage" or "activation"')
    return method


def _checkpoint_recipe(table: Table, empty: Recipe) -> Recipe:
    """`empty` with what a file for checkpoints says."""
    from quantkit.formats.containers import table as containers  # for checkpoints alone, here and below

    container = table.one_of("container", containers.names())
    assert container is not None
    weights = _weights(table.table("weights"), Weights())
    strict = table.get("strict", bool)
    return replace(
        empty,
        container=container,
        weights=weights,
        method=_method(table.table("method"), empty.method),
        rules=tuple(_checkpoint_rule(entry, weights, optional=strict is False) for entry in table.tables("rule")),
        kv_cache=table.get("kv_cache", bool) or False,
    )


def _file_type(table: Table, qtype: str) -> int:
    """general.file_type as stated, or that of the shipped recipe of the same default type (enum llama_ftype)."""
    number = table.get("file_type", int)
    if number is None:
        for name in (qtype, by_alias().get(qtype)):
            if name in recipe_names():
                return read_shipped(f"{name}.toml").need("file_type", int)
        raise table.error("file_type", f"is missing, and no shipped recipe is named {qtype}")
    if not 0 <= number < 1 << 32:
        raise table.error("file_type", f"{shown(str(number), 20)} is not an unsigned 32-bit number")
    return number


def _gguf_rules(table: Table, *, groups: bool) -> tuple[Rule, ...]:
    """The rules of a file in order, shared groups expanded in place (groups themselves cannot use groups)."""
    if not groups:
        table.only(*GROUP_KEYS)
    strict = table.get("strict", bool)
    rules: list[Rule] = []
    for entry in table.tables("rule"):
        if groups and "use" in entry.values:
            entry.only("use")
            group = entry.one_of("use", shared_names())
            rules += _gguf_rules(read_shipped(f"shared/{group}.toml"), groups=False)
        else:
            rules.append(_gguf_rule(entry, optional=strict is False))
        if len(rules) > MAX_RULES:
            raise table.error("rule", f"more than {MAX_RULES} rules, those of shared groups counted")
    return tuple(rules)


def _gguf_rule(table: Table, *, optional: bool) -> Rule:
    table.only(*GGUF_RULE_KEYS)
    qtype = table.one_of("qtype", base.names())
    if qtype is None:
        raise table.error("qtype", "is missing")
    return replace(
        _selectors(table, list(Role)),
        weights=Weights(qtype),
        stacked=table.get("stacked", bool),
        rows_fit=table.get("rows_fit", bool),
        was=table.some_of("was", base.names()),
        when=_when(table.table("when")),
        optional=optional,
    )


def _checkpoint_rule(table: Table, default: Weights, *, optional: bool) -> Rule:
    table.only(*CHECKPOINT_RULE_KEYS)
    keep = table.get("keep", bool) or False
    if keep == ("weights" in table.values):
        raise table.error("keep", "a rule has either keep = true or a table of weights")
    weights = None if keep else _weights(table.table("weights"), default)
    return replace(_selectors(table, sorted(LINEAR)), weights=weights, optional=optional)


def _selectors(table: Table, roles: Sequence[str]) -> Rule:
    """A rule that says which tensors, of the known `roles`, it is about, and not yet what they get."""
    layers = table.get("layers", str)
    if layers is not None and not is_layer_selector(layers):
        raise table.unknown("layers", layers, LAYER_SELECTORS)
    return Rule(
        weights=None,
        where=f"{table.file}: {table.path}",
        roles=tuple(Role(word) for word in table.some_of("roles", roles)),
        names=table.globs("names"),
        layers=None if layers is None else Layers(layers),
        why=table.text("why"),
    )


def _never(table: Table) -> Never:
    table.only("names", "when")
    return Never(table.globs("names"), _when(table.table("when")))


def _when(table: Table) -> When:
    table.only("architectures", "blocks", "gqa_min", "experts", "experts_min", "imatrix")
    return When(
        architectures=table.strings("architectures"),
        blocks=table.get("blocks", int),
        gqa_min=table.get("gqa_min", int),
        experts=table.get("experts", int),
        experts_min=table.get("experts_min", int),
        imatrix=table.get("imatrix", bool),
    )


def _weights(table: Table, default: Weights) -> Weights:
    """A table of weights; what it does not say is as in `default`."""
    from quantkit.qtypes.schemes.base import Activations
    from quantkit.qtypes.schemes.integers import Symmetry

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


def _method(table: Table, default: MethodChoice) -> MethodChoice:
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
    method = replace(default, **given)  # type: ignore[arg-type]  # every value was checked against its field
    if not 0 <= method.alpha <= 1:
        raise table.error("alpha", f"{method.alpha} is not between 0 and 1")
    if method.damping is not None and not 0 < method.damping < 1:
        raise table.error("damping", f"{method.damping} is not between 0 and 1")
    if method.passes is not None and not 0 <= method.passes <= 100:
        raise table.error("passes", f"{shown(str(method.passes), 20)} is not between 0 and 100")
    return method
