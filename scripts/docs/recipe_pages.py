"""The page of the shipped recipes: sizes on one shape for all of them, then each with its rules and its file."""

from __future__ import annotations

from planned import GGUF, bits, recipes, sizes, tensor_bytes
from words import MADE, block, cell, code, table

from quantkit.recipes.read import Recipe, recipe_text
from quantkit.recipes.rules import Rule
from quantkit.report.text import size as as_size

HEAD = (
    "# Shipped recipes\n\n"
    "Every recipe that `--to` knows by name. [Recipes](../recipes.md) says how to write one of your own, "
    "[schemas/recipe-gguf.json](../schemas/recipe-gguf.json) and "
    "[schemas/recipe-checkpoint.json](../schemas/recipe-checkpoint.json) are the JSON Schemas of the files, and "
    "[what engines load](../consumers.md) says who takes the result.\n\n"
    "Sizes are those of the planner for a model of the shape of Llama 3.1 8B (8,030,261,248 weights, 16.06 GB in "
    "BF16): all tensors, without the header of the file, which holds the tokenizer. `quantkit plan` says it for your "
    "model, to the byte.\n\n"
)


def recipe_pages() -> dict[str, str]:
    """One page for all recipes."""
    known = list(recipes().values())
    files = sorted((r for r in known if r.mixture and not r.mixture.adapter), key=_size_of)
    servers = sorted((r for r in known if r.mixture is None), key=_size_of)
    adapters = [r for r in known if r.mixture and r.mixture.adapter]
    text = HEAD
    groups = {"GGUF files": files, "Checkpoints for servers": servers, "Files of adapters": adapters}
    text += "".join(f"## {title}\n\n{_overview(listed)}" for title, listed in groups.items())
    text += "## One by one\n\n" + "".join(_section(recipe) for recipe in (*files, *servers, *adapters))
    return {"reference/recipe-list.md": text + MADE}


def _size_of(recipe: Recipe) -> int:
    return tensor_bytes(sizes()[recipe.name])


def _overview(listed: list[Recipe]) -> str:
    rows = []
    for recipe in listed:
        found = sizes().get(recipe.name)
        figures = (as_size(tensor_bytes(found)), f"{bits(found):.2f}") if found else ("", "")
        rows.append((f"[`{recipe.name}`](#{recipe.name})", cell(recipe.summary), _needs(recipe), *figures))
    return table(("recipe", "what it is", "needs", "size", "bits per weight"), rows, numbers=2)


def _needs(recipe: Recipe) -> str:
    if recipe.needs_calibration:
        return "[`--calib`](../cli.md#calibrate)"
    return "`--imatrix` or `--calib`" if recipe.needs_imatrix else ""


def _section(recipe: Recipe) -> str:
    said = recipe.summary[:1].upper() + recipe.summary[1:]
    text = f"### {recipe.name}\n\n{said}.\n\n{_facts(recipe)}"
    if recipe.rules:
        head = ("tensors", "get", "why")
        text += table(head, [(_which(rule), code(_given(rule)), cell(rule.why)) for rule in recipe.rules])
    found = sizes().get(recipe.name)
    if found:
        rows = [(code(one.qtype), str(one.tensors), f"{one.weights:,}", f"{one.nbytes:,}") for one in found.types]
        rows.append(("all", str(sum(t.tensors for t in found.types)), f"{found.weights:,}", f"{tensor_bytes(found):,}"))
        text += table(("type", "tensors", "weights", "bytes"), rows, numbers=3)
    toml = block(recipe_text(recipe.name), "toml")
    return (
        text + '??? note "The file"\n\n' + "".join(f"    {line}".rstrip() + "\n" for line in toml.splitlines()) + "\n"
    )


def _facts(recipe: Recipe) -> str:
    """What is said of it in a line: default, container, method, aliases."""
    facts = [f"default type `{recipe.default}`" if recipe.container == GGUF else f"container `{recipe.container}`"]
    if recipe.mixture is None and recipe.method.name != "rtn":
        facts.append(f"method `{recipe.method.name}`")
    if recipe.method.transform:
        facts.append(f"transform `{recipe.method.transform}`")
    if recipe.kv_cache:
        facts.append("key/value cache in FP8")
    if recipe.aliases:
        facts.append(f"also called {', '.join(f'`{alias}`' for alias in recipe.aliases)}")
    needs = _needs(recipe)
    return "; ".join([*facts, *([f"needs {needs}"] if needs else [])]).capitalize() + ".\n\n"


def _which(rule: Rule) -> str:
    """The selectors of a rule, all of which must hold."""
    when = rule.when
    parts = [
        *(f"architecture {code(name)}" for name in when.architectures),
        *(f"{name.replace('_', ' ')} {value}" for name, value in _numbers(rule)),
        ", ".join(code(role.value) for role in rule.roles),
        ", ".join(code(name) for name in rule.names),
        f"layers {code(rule.layers.selector)}" if rule.layers else "",
        {True: "stacked", False: "not stacked", None: ""}[rule.stacked],
        {True: "rows fit", False: "rows do not fit", None: ""}[rule.rows_fit],
        f"given {', '.join(map(code, rule.was))} before" if rule.was else "",
    ]
    return "; ".join(part for part in parts if part) or "all"


def _numbers(rule: Rule) -> list[tuple[str, object]]:
    names = ("blocks", "gqa_min", "experts", "experts_min")
    found: list[tuple[str, object]] = [(n, getattr(rule.when, n)) for n in names if getattr(rule.when, n) is not None]
    if rule.when.imatrix is not None:
        found.append(("imatrix", "given" if rule.when.imatrix else "not given"))
    return found


def _given(rule: Rule) -> str:
    if rule.weights is None:
        return "as they are"
    weights = rule.weights
    return f"{weights.type}{weights.bits} g{weights.group}" if weights.type == "int" else weights.type
