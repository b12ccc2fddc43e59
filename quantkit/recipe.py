"""What the user wants: which tensors get which type, read from TOML into frozen data.

A recipe is a default type and rules; later rules win. Rules speak of roles, names, layers and facts of the model,
never of one model's tensors, so that a recipe fits every architecture. `quantkit.mixture` applies them.

Recipes may come from strangers: they are data only. Names are matched with globs (no regular expressions, so no
catastrophic backtracking), files are bounded, and shared rules are found by name inside the package.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar, get_args

from quantkit.errors import InputError, RecipeError, UsageError
from quantkit.families.roles import Role
from quantkit.qtypes import base
from quantkit.rules import LAYER_SELECTORS, Layers, Never, Rule, When, is_layer_selector
from quantkit.suggest import did_you_mean
from quantkit.untrusted import read_bounded

SCHEMA = 1
MAX_RECIPE_BYTES = 1 << 18
MAX_RULES = 1000
MAX_GLOBS = 100
MAX_GLOB_LENGTH = 200

RECIPE_KEYS = (
    "schema", "title", "summary", "aliases", "file_type", "strict", "on_fallback", "needs_imatrix", "default", "rule",
)  # fmt: skip
RULE_KEYS = ("qtype", "roles", "names", "layers", "stacked", "rows_fit", "was", "when", "why")
GROUP_KEYS = ("schema", "strict", "rule")

OnFallback = Literal["report", "error"]
T = TypeVar("T")


@dataclass(frozen=True)
class Keep:
    """A user's override: tensors in whose name the regular expression `pattern` is found get `qtype`."""

    pattern: str
    qtype: str

    def matches(self, name: str) -> bool:
        return re.search(self.pattern, name, re.IGNORECASE) is not None

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
            f'--keep "{text}" is not PATTERN=TYPE', hint="for example --keep attn_v=q8_0 or --keep ffn_down=bf16"
        )
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f'--keep "{text}": {error}', hint="the pattern is a regular expression: escape . [ ( * + ? with a backslash"
        ) from error
    return Keep(pattern, _option_type(f'--keep "{text}"', qtype))


def _option_type(option: str, qtype: str) -> str:
    if qtype.lower() in base.names():
        return qtype.lower()
    suggestion = did_you_mean(qtype.lower(), base.names())
    raise UsageError(f'{option}: unknown type "{qtype}"{suggestion}', hint=f"types: {', '.join(base.names())}")


def recipes_folder() -> Path:
    """Where the shipped recipes lie: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes, in alphabetical order."""
    return tuple(sorted(p.stem for p in recipes_folder().glob("*.toml")))


def load_recipe(name_or_path: str) -> Recipe:
    """Read a shipped recipe by name or alias (any case), or a recipe file by a path that ends in .toml.

    Raises RecipeError for an unknown name, with the nearest one, and for anything wrong in the file, with its key.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        return _recipe(_read(path, str(path)), path.stem)
    wanted = name_or_path.lower()
    if wanted not in recipe_names():
        wanted = _by_alias().get(wanted, wanted)
    if wanted not in recipe_names():
        suggestion = did_you_mean(wanted, [*recipe_names(), *_by_alias()])
        hint = f"recipes: {', '.join(recipe_names())}; or a path to a .toml file"
        raise RecipeError(f'unknown recipe "{name_or_path}"{suggestion}', hint=hint, key=name_or_path)
    return _recipe(_read_shipped(f"{wanted}.toml"), wanted)


def recipe_text(name: str) -> str:
    """The TOML of a shipped recipe, by name or alias. Raises RecipeError for an unknown name."""
    return (recipes_folder() / f"{load_recipe(name).name}.toml").read_text(encoding="utf-8")


def _by_alias() -> dict[str, str]:
    return {alias: name for name in recipe_names() for alias in _read_shipped(f"{name}.toml").strings("aliases")}


@dataclass(frozen=True)
class _Table:
    """A table of a recipe file with what error messages need: the file, and the key path that leads here."""

    file: str
    path: str
    values: Mapping[str, object]

    def error(self, key: str, problem: str, hint: str | None = None) -> RecipeError:
        where = ".".join(word for word in (self.path, key) if word)
        return RecipeError(f"{self.file}: {where}: {problem}", path=self.file, key=where, hint=hint)

    def unknown(self, key: str, value: str, known: Sequence[str]) -> RecipeError:
        return self.error(key, f'unknown "{value}"{did_you_mean(value, known)}', f"known: {', '.join(known)}")

    def only(self, *known: str) -> None:
        """Reject keys that nobody reads: they are typing errors."""
        for key in self.values:
            if key not in known:
                raise self.error(key, f"unknown key{did_you_mean(key, known)}", f"known keys: {', '.join(known)}")

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value of `key`, which must be of exactly that type; None when absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) is not kind:
            names = {str: "a string", int: "an integer", bool: "true or false", list: "an array", dict: "a table"}
            raise self.error(key, f"expected {names[kind]}, found {value!r:.80}")
        assert isinstance(value, kind)
        return value

    def need(self, key: str, kind: type[T]) -> T:
        value = self.get(key, kind)
        if value is None:
            raise self.error(key, "is missing")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        found: list[object] = self.get(key, list) or []
        if not all(isinstance(word, str) for word in found):
            raise self.error(key, "expected an array of strings")
        return tuple(str(word) for word in found)

    def globs(self, key: str) -> tuple[str, ...]:
        globs = self.strings(key)
        if len(globs) > MAX_GLOBS or any(len(g) > MAX_GLOB_LENGTH for g in globs):
            raise self.error(key, f"more than {MAX_GLOBS} globs, or one of more than {MAX_GLOB_LENGTH} characters")
        return globs

    def one_of(self, key: str, known: Sequence[str]) -> str | None:
        value = self.get(key, str)
        if value is not None and value not in known:
            raise self.unknown(key, value, known)
        return value

    def some_of(self, key: str, known: Sequence[str]) -> tuple[str, ...]:
        values = self.strings(key)
        for value in values:
            if value not in known:
                raise self.unknown(key, value, known)
        return values

    def table(self, key: str) -> _Table:
        found: dict[str, object] = self.get(key, dict) or {}
        return _Table(self.file, ".".join(word for word in (self.path, key) if word), found)

    def tables(self, key: str) -> tuple[_Table, ...]:
        found: list[object] = self.get(key, list) or []
        if len(found) > MAX_RULES:
            raise self.error(key, f"{len(found)} entries, more than {MAX_RULES}")
        tables = []
        for number, entry in enumerate(found):
            if not isinstance(entry, dict):
                raise self.error(f"{key}[{number}]", "expected a table")
            tables.append(_Table(self.file, f"{key}[{number}]", entry))
        return tuple(tables)


def _read_shipped(name: str) -> _Table:
    return _read(recipes_folder() / name, f"recipes/{name}")


def _read(path: Path, label: str) -> _Table:
    """Parse a recipe file, bounded. `label` is what messages call it."""
    try:
        raw = read_bounded(path, MAX_RECIPE_BYTES)
    except InputError as error:
        raise RecipeError(f"recipe: {error.message}", path=label, hint=error.hint) from error
    try:
        table = _Table(label, "", tomllib.loads(raw.decode()))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{label}: not valid TOML: {error}", path=label) from error
    if table.need("schema", int) != SCHEMA:
        raise table.error("schema", f"is {table.values['schema']}, this version reads {SCHEMA}")
    return table


def _recipe(table: _Table, name: str) -> Recipe:
    table.only(*RECIPE_KEYS)
    default = table.table("default")
    default.only("qtype")
    qtype = default.one_of("qtype", base.names())
    if qtype is None:
        raise default.error("qtype", "is missing", hint='for example [default] qtype = "q4_k"')
    title = table.get("title", str) or name.upper()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", title):
        raise table.error("title", f"{title!r:.80} cannot be part of a file name", "use letters, digits, _ - and .")
    on_fallback: OnFallback = "error" if table.one_of("on_fallback", get_args(OnFallback)) == "error" else "report"
    common = _read_shipped("limits/llama_quantize.toml")
    return Recipe(
        name=name,
        title=title,
        summary=table.get("summary", str) or "",
        file_type=_file_type(table, qtype),
        qtype=qtype,
        rules=_rules(table, groups=True),
        never=tuple(_never(entry) for entry in common.tables("never")),
        fallbacks={kind: str(to) for kind, to in common.table("fallback").values.items()},
        needs_imatrix=table.some_of("needs_imatrix", base.names()),
        aliases=table.strings("aliases"),
        on_fallback=on_fallback,
    )


def _file_type(table: _Table, qtype: str) -> int:
    """general.file_type as stated, or that of the shipped recipe of the same default type (enum llama_ftype)."""
    number = table.get("file_type", int)
    if number is None:
        for name in (qtype, _by_alias().get(qtype)):
            if name in recipe_names():
                return _read_shipped(f"{name}.toml").need("file_type", int)
        raise table.error("file_type", f"is missing, and no shipped recipe is named {qtype}")
    if not 0 <= number < 1 << 32:
        raise table.error("file_type", f"{number} is not an unsigned 32-bit number")
    return number


def _rules(table: _Table, *, groups: bool) -> tuple[Rule, ...]:
    """The rules of a file in order, shared groups expanded in place (groups themselves cannot use groups)."""
    strict = table.get("strict", bool)
    rules: list[Rule] = []
    for entry in table.tables("rule"):
        if groups and "use" in entry.values:
            entry.only("use")
            shared = sorted(p.stem for p in (recipes_folder() / "shared").glob("*.toml"))
            group = entry.one_of("use", shared)
            rules += _rules(_read_shipped(f"shared/{group}.toml"), groups=False)
        else:
            rules.append(_rule(entry, optional=strict is False))
    return tuple(rules)


def _rule(table: _Table, *, optional: bool) -> Rule:
    table.only(*RULE_KEYS)
    qtype = table.one_of("qtype", base.names())
    if qtype is None:
        raise table.error("qtype", "is missing")
    layers = table.get("layers", str)
    if layers is not None and not is_layer_selector(layers):
        raise table.unknown("layers", layers, LAYER_SELECTORS)
    return Rule(
        qtype=qtype,
        where=f"{table.file}: {table.path}",
        roles=tuple(Role(word) for word in table.some_of("roles", list(Role))),
        names=table.globs("names"),
        layers=None if layers is None else Layers(layers),
        stacked=table.get("stacked", bool),
        rows_fit=table.get("rows_fit", bool),
        was=table.some_of("was", base.names()),
        when=_when(table.table("when")),
        why=table.get("why", str) or "",
        optional=optional,
    )


def _never(table: _Table) -> Never:
    table.only("names", "when")
    return Never(table.globs("names"), _when(table.table("when")))


def _when(table: _Table) -> When:
    table.only("architectures", "blocks", "gqa_min", "experts", "imatrix")
    return When(
        architectures=table.strings("architectures"),
        blocks=table.get("blocks", int),
        gqa_min=table.get("gqa_min", int),
        experts=table.get("experts", int),
        imatrix=table.get("imatrix", bool),
    )
