"""Recipe files as tables of TOML: the keys that are read, and the words that are known."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from quantkit.families.linears import LINEAR
from quantkit.families.roles import Role
from quantkit.formats.containers import table
from quantkit.formats.containers.weights import Granularity, WeightType
from quantkit.methods import method_names
from quantkit.methods.transforms import transform_names
from quantkit.qtypes import base
from quantkit.qtypes.schemes.base import Activations as InputActivations
from quantkit.qtypes.schemes.integers import Symmetry
from quantkit.recipes.recipe import OrderName


def _one_of(words: tuple[str, ...]) -> Any:
    return Literal[words]


QType = _one_of(tuple(base.names()))
Roles = list[_one_of(tuple(role.value for role in Role))]  # type: ignore[misc, valid-type]
LinearRoles = list[_one_of(tuple(sorted(role.value for role in LINEAR)))]  # type: ignore[misc, valid-type]
Layers = Annotated[
    str, Meta(pattern="^(more_bits|first_eighth|counted_eighth|first_sixteenth|middle|first:[0-9]{1,6})$")
]
Title = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Container = _one_of(tuple(table.names()))
MethodName = _one_of(method_names())
TransformName = _one_of(transform_names())
OnFallback = Literal["report", "error"]


class When(TypedDict, total=False):
    """What a model must be for a rule to apply."""

    architectures: list[str]
    blocks: int
    gqa_min: int
    experts: int
    experts_min: int
    imatrix: bool


class Default(TypedDict):
    qtype: QType  # type: ignore[valid-type]


class Rule(TypedDict):
    """A type for the tensors that every selector admits; or `use`, a shared group of rules, alone."""

    use: NotRequired[str]
    qtype: NotRequired[QType]  # type: ignore[valid-type]
    roles: NotRequired[Roles]  # type: ignore[valid-type]
    names: NotRequired[list[str]]
    layers: NotRequired[Layers]
    stacked: NotRequired[bool]
    rows_fit: NotRequired[bool]
    was: NotRequired[list[QType]]  # type: ignore[valid-type]
    when: NotRequired[When]
    why: NotRequired[str]


class GGUFMethod(TypedDict, total=False):
    """How values are chosen with text, and what of it is done: the head and the embedding rounded so, too, columns
    evened, norms fitted."""

    name: MethodName  # type: ignore[valid-type]
    damping: float
    order: Literal["storage", "within", "activation"]
    passes: int
    head: bool
    embedding: bool
    columns: bool
    norms: bool


class GGUFRecipe(TypedDict):
    """A recipe for GGUF files."""

    schema: Literal[1]
    default: Default
    title: NotRequired[Title]
    summary: NotRequired[str]
    aliases: NotRequired[list[str]]
    file_type: NotRequired[int]
    strict: NotRequired[bool]
    on_fallback: NotRequired[OnFallback]
    needs_imatrix: NotRequired[list[QType]]  # type: ignore[valid-type]
    method: NotRequired[GGUFMethod]
    adapter: NotRequired[bool]
    rule: NotRequired[list[Rule]]


class Weights(TypedDict, total=False):
    """How the weight of a layer is stored."""

    type: WeightType
    bits: int
    group: int
    fallback: list[int]
    symmetry: Symmetry
    granularity: Granularity
    double: bool
    version: Literal[1, 2]
    act_order: bool
    activations: InputActivations


class Method(TypedDict, total=False):
    """How values are chosen."""

    name: MethodName  # type: ignore[valid-type]
    transform: TransformName  # type: ignore[valid-type]
    alpha: float
    damping: float
    order: OrderName
    passes: int


class ServerRule(TypedDict, total=False):
    """Other weights for some layers, or `keep`: left as they are."""

    roles: LinearRoles  # type: ignore[valid-type]
    names: list[str]
    layers: Layers
    keep: bool
    weights: Weights
    why: str


class ServerRecipe(TypedDict):
    """A recipe for checkpoints."""

    schema: Literal[1]
    container: Container  # type: ignore[valid-type]
    title: NotRequired[Title]
    summary: NotRequired[str]
    aliases: NotRequired[list[str]]
    kv_cache: NotRequired[bool]
    weights: NotRequired[Weights]
    method: NotRequired[Method]
    rule: NotRequired[list[ServerRule]]
    strict: NotRequired[bool]
    on_fallback: NotRequired[OnFallback]
