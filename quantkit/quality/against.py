"""What an artifact should hold, by the source that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families.linears import outline, source_of
from quantkit.families.model import ModelTensor, Rows
from quantkit.families.names import EXPERTS
from quantkit.families.roles import Role
from quantkit.families.turned import turned_in
from quantkit.plan.base import Plan
from quantkit.plan.carried import carried_names
from quantkit.quality.made import Held
from quantkit.quality.made_gguf import tokenizer_keys
from quantkit.quality.reference import Reference
from quantkit.records import record
from quantkit.source import Checkpoint

WEIGHT = ".weight"
SAMPLED_LAYERS = 24
REWRITTEN = frozenset({"generation_config.json"})


@record
class Against:
    """The source, and what of it an artifact holds.

    `weights` are to be there, under the names that the artifact has for them; `carried` is what it takes over as it
    is. `rewritten` of these other writers than quantkit save anew: a note. `moved` says that scales were moved between
    layers, so that weights differ on purpose, `partly` that `weights` are some of many. `noted` is what methods noted
    of each layer. `reference` is the source with what was found out about it for all files that are made of it.
    """

    source: Checkpoint
    weights: Sequence[ModelTensor]
    carried: Mapping[str, object]
    rewritten: frozenset[str] = frozenset()
    moved: bool = False
    partly: bool = False
    noted: Sequence[Mapping[str, Any]] = field(default=())
    reference: Reference | None = None


def of_gguf(reference: Reference, noted: Sequence[Mapping[str, Any]] = ()) -> Against:
    """What a GGUF file of this model should hold."""
    model, source = reference.model, reference.checkpoint
    return Against(source, model.tensors, tokenizer_keys(model.metadata), noted=noted, reference=reference)


def of_plan(source: Checkpoint, plan: Plan, noted: Sequence[Mapping[str, Any]] = ()) -> Against:
    """What a checkpoint that was made by this plan should hold: of its rounded layers some, evenly spread."""
    some = plan.rounded[:: max(len(plan.rounded) // SAMPLED_LAYERS, 1)]
    moved = plan.method is not None and bool(plan.method.transform)
    layers = [_weight(unit.tensor) for unit in some]
    if not plan.rounded:  # a plain checkpoint: tensors are what they are
        copies = [unit for unit in plan.units if unit.copy]
        layers = [unit.tensor for unit in copies[:: max(len(copies) // SAMPLED_LAYERS, 1)]]
    return Against(source, layers, carried_from(source), moved=moved, partly=True, noted=noted)


def of_source(source: Checkpoint, held: Mapping[str, Held]) -> Against:
    """What any checkpoint of this source should hold: all of its weights. `held` says how it has them.

    Stacks of experts may lie in it one by one, and matrices as linear layers have them where they are rounded.
    """
    infos = source.tensors()
    weights: list[ModelTensor] = []
    stacks = [name for name in infos if name not in held and EXPERTS in name and not name.endswith(WEIGHT)]
    turned = turned_in(source.config, infos)
    for name, info in infos.items():
        if name.removesuffix(WEIGHT) in turned and name in held and held[name].plain is None:
            columns = Rows(name, 0, info.rows, range(info.cols))
            weights.append(ModelTensor(name, Role.OTHER, (info.cols, info.rows), (columns,)))
        elif name not in stacks:
            weights.append(ModelTensor(name, Role.OTHER, info.shape, (Rows(name, 0, info.rows),)))
    if stacks:
        try:
            linears = outline(infos, source.config).tensors
        except UnsupportedError:
            linears = ()  # nobody says how to take them apart
        weights += [_weight(linear) for linear in linears if source_of(linear).tensor in stacks]
    return Against(source, weights, carried_from(source))


def carried_from(source: Checkpoint) -> Mapping[str, object]:
    """The files of a source that a checkpoint takes over, with their contents."""
    return {name: source.read_file(name) for name in carried_names(source)}


def _weight(linear: ModelTensor) -> ModelTensor:
    """A layer under the name of its weight."""
    return replace(linear, name=f"{linear.name}{WEIGHT}")
