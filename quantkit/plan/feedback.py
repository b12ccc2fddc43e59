"""Which tensors of a GGUF file are rounded with what their inputs say, and how that is written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from quantkit.families.known import gives_no_text
from quantkit.families.linears import LINEAR
from quantkit.families.model import Model, ModelTensor, Part
from quantkit.families.parts import columns_of
from quantkit.families.roles import Role
from quantkit.metadata import KeyValue
from quantkit.methods import needs_hessian
from quantkit.plan.base import Unit
from quantkit.plan.mixture import PER_LAYER_EMBEDDING
from quantkit.qtypes import base
from quantkit.recipes.recipe import MethodChoice, Recipe

METHOD_KEY = "quantkit.method"
OUTPUT_OF_T5 = "attn_o.weight"  # counted among no kind by llama-quantize
REFIT_KEY = "quantkit.refit"  # of a file whose norms may differ from the source's


def with_layouts(model: Model, drafts: Sequence[Unit], recipe: Recipe) -> list[Unit]:
    """The tensors of a model, those that a method with inputs rounds with their layout.

    What errors of an embedding cost is seen in what the model predicts: one of a model that gives no text has none.
    """
    mixture = recipe.mixture
    if mixture is None or not needs_hessian(recipe.method.name):
        return list(drafts)
    from quantkit.formats.gguf.layout import TypeLayout  # for files made with text alone

    spared = {Role.OUTPUT: not mixture.head, Role.TOKEN_EMBD: not mixture.embedding or gives_no_text(model.family)}

    def chosen(draft: Unit) -> bool:
        return not draft.copy and not spared.get(draft.tensor.role, False) and _has_inputs(draft)

    return [replace(draft, layout=TypeLayout(draft.word)) if chosen(draft) else draft for draft in drafts]


def _has_inputs(draft: Unit) -> bool:
    """Whether a tensor is quantized and made of rows of linears of the blocks, or is the head or the embedding."""
    tensor = draft.tensor
    inside = tensor.layer is not None and (tensor.role in LINEAR or tensor.name.endswith(OUTPUT_OF_T5))
    place = inside or tensor.role is Role.OUTPUT or is_embedding(tensor)
    return place and _is_linear(tensor) and base.get(draft.word).widen is None


def is_embedding(tensor: ModelTensor) -> bool:
    """Whether it is looked up by token alone, row by row as the source has it."""
    whole = len(tensor.parts) == 1 and tensor.row_order is None
    return tensor.role is Role.TOKEN_EMBD and tensor.name != PER_LAYER_EMBEDDING and whole


def _is_linear(tensor: ModelTensor) -> bool:
    return len(tensor.shape) > 1 and not tensor.add and all(map(_of_linear, tensor.parts))


def _of_linear(part: Part) -> bool:
    return part.source is not None or columns_of(part) is not None


def refits(units: Sequence[Unit], recipe: Recipe, family: str) -> tuple[str, ...]:
    """The norms whose values may move when all else is rounded: vectors in float32, each of one tensor of the source,
    of which nothing else is made. None where the family predicts no text that they could be fitted to."""
    mixture = recipe.mixture
    if mixture is None or not mixture.norms or gives_no_text(family) or all(unit.layout is None for unit in units):
        return ()
    uses = Counter(rows.tensor for unit in units for part in unit.tensor.parts for rows in part.sources)
    return tuple(unit.name for unit in units if _moves(unit) and uses[unit.source.tensor] == 1)


def _moves(unit: Unit) -> bool:
    tensor = unit.tensor
    whole = len(tensor.parts) == 1 and tensor.parts[0].source is not None and tensor.parts[0].rows == tensor.rows
    vector = len(tensor.shape) == 1 and tensor.name.endswith(".weight") and unit.word == "f32"
    return tensor.role is Role.NORM and vector and whole


def metadata_of(method: MethodChoice | None, refitted: Sequence[str] = ()) -> list[KeyValue]:
    """What the file says of its method, and of norms that may be `refitted`."""
    if method is None:
        return []
    norms = [KeyValue(REFIT_KEY, "string", "norms")] if refitted else []
    return [KeyValue(METHOD_KEY, "string", method.name), *norms]


def identity(units: Sequence[Unit], recipe: Recipe, inputs: str, refitted: Sequence[str] = ()) -> dict[str, Any]:
    """What decides the bytes besides types and places; nothing where no method with inputs does."""
    if not recipe.needs_calibration:
        return {}
    rounded = [unit.name for unit in units if unit.layout is not None]
    columns = {} if recipe.mixture is None or recipe.mixture.columns else {"evens": False}
    norms = {"refits": list(refitted)} if refitted else {}
    return {"method": asdict(recipe.method), "rounded": rounded, "calibration": inputs, **columns, **norms}
