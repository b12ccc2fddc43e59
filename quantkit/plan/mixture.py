"""Which tensor gets which type: a recipe applied to a model, as llama-quantize applies its mixtures.

The order of tensors is part of the rules. Tensors are visited by layer, then by name in bytes, and "the first
eighth of attn_v" counts only the attn_v tensors that reach the rules: one that an override takes does not count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from quantkit.errors import RecipeError
from quantkit.families.model import Model, ModelTensor
from quantkit.families.roles import Role, is_rounded
from quantkit.patterns import PatternError, require_work
from quantkit.qtypes import base
from quantkit.recipes.recipe import FLOAT_TYPES, Recipe
from quantkit.recipes.rules import Facts, Keep, Subject
from quantkit.records import record

PER_LAYER_EMBEDDING = "per_layer_token_embd.weight"

# Roles that llama.cpp counts together (llama-quant.cpp: category_is_attn_v, i_attention_wv, i_ffn_*).
_COUNTED = {
    Role.ATTN_V: "attn_v", Role.ATTN_QKV: "attn_v", Role.ATTN_KV_B: "attn_v",
    Role.FFN_DOWN: "ffn_down", Role.FFN_UP: "ffn_up", Role.FFN_GATE: "ffn_gate", Role.FFN_GATE_UP: "ffn_gate",
}  # fmt: skip


@record
class Choice:
    """The type of one tensor and what gave it. `fallback_from` is the type its rows turned out not to fit. `free` says
    that the recipe chose it, by its rules or for a budget: no option and no family did."""

    qtype: str
    reason: str
    fallback_from: str | None = None
    free: bool = False


def facts_of(model: Model, *, imatrix: bool) -> Facts:
    """What the conditions of rules ask: layer 0 decides the grouping of attention heads, as in llama.cpp."""
    shape = model.shape
    gqa = shape.heads // shape.kv_heads if shape.kv_heads else 0
    return Facts(model.gguf_architecture, shape.layers, gqa, shape.experts, imatrix)


def visiting_order(tensors: Iterable[ModelTensor]) -> list[ModelTensor]:
    """Tensors by layer (outside blocks first), then by name: llama_model_loader's weight_name_comparer.

    It compares bytes; UTF-8 sorts as Unicode does.
    """
    return sorted(tensors, key=lambda tensor: (_block_number(tensor.name), tensor.name))


def _block_number(name: str) -> int:
    match = re.match(r"blk\.([0-9]{1,9})\.", name)
    return int(match[1]) if match else -1


def choose_types(model: Model, recipe: Recipe, unquantized: Mapping[str, str], *, imatrix: bool) -> dict[str, Choice]:
    """The type of every tensor, by name, in visiting order.

    `unquantized` gives the type a tensor has when it is left alone. `imatrix` says whether importance weights will
    be used. Raises RecipeError when a rule or a --keep pattern finds no tensor, and when rows do not fit a type and
    nothing can take over.
    """
    if recipe.mixture is not None and recipe.mixture.adapter:
        return _adapter_types(model, recipe, unquantized)
    choose = _Chooser(model, recipe, facts_of(model, imatrix=imatrix))
    choices = {
        tensor.name: choose.quantized(tensor)
        if choose.quantizable(tensor)
        else Choice(unquantized[tensor.name], "never quantized" if tensor.stored is None else f"stays {tensor.stored}")
        for tensor in visiting_order(model.tensors)
    }
    choose.require_matches()
    return choices


def _adapter_types(model: Model, recipe: Recipe, unquantized: Mapping[str, str]) -> dict[str, Choice]:
    """The types of an adapter's matrices: the recipe's, or f16 where its block does not divide a row."""
    qtype = recipe.weights.type

    def choice(tensor: ModelTensor) -> Choice:
        if tensor.stored is not None:
            return Choice(unquantized[tensor.name], f"stays {tensor.stored}")
        if tensor.cols % base.get(qtype).block:
            return Choice("f16", "rows do not divide by the block", qtype)
        return Choice(qtype, "default")

    return {tensor.name: choice(tensor) for tensor in visiting_order(model.tensors)}


class _Chooser:
    """The state of one walk: how many tensors of each kind reached the rules, and what has matched so far."""

    def __init__(self, model: Model, recipe: Recipe, facts: Facts) -> None:
        self._model = model
        assert recipe.mixture is not None, recipe.container
        self._recipe = recipe
        self._mixture = recipe.mixture
        self._facts = facts
        self._rules = [rule for rule in recipe.rules if rule.when.holds(facts)]
        try:
            require_work((name for rule in self._rules for name in rule.names), len(model.tensors))
        except PatternError as error:
            raise RecipeError(f"{recipe.name}: {error}", hint="choose by roles and layers, too") from error
        self._never = [never for never in recipe.mixture.never if never.when.holds(facts)]
        self._tied = all(t.role is not Role.OUTPUT for t in model.tensors)
        self._total = Counter(_COUNTED.get(t.role) for t in model.tensors)
        self._reached: Counter[str] = Counter()
        self._matched: set[object] = set()

    def quantizable(self, tensor: ModelTensor) -> bool:
        """llama-quant.cpp, tensor_allows_quantization; and the family has not fixed a type.

        The file of an encoder is the converter's, which rounds whatever has no type of its own.
        """
        if self._model.kind == "mmproj":
            return tensor.stored is None
        matrix = len(_without_leading_ones(tensor.shape)) >= 2
        return (
            matrix
            and (tensor.stored is None or (is_rounded(tensor.name) and self._recipe.weights.type not in FLOAT_TYPES))
            and tensor.name.endswith("weight")
            and not any(never.admits(tensor.name) for never in self._never)
        )

    def quantized(self, tensor: ModelTensor) -> Choice:
        kept = self._kept(tensor)
        mixture = self._mixture
        if mixture.embedding_type and tensor.role is Role.TOKEN_EMBD and not (kept and _named_apart(tensor)):
            return self._fitting(tensor, mixture.embedding_type, "--embedding-type")
        if mixture.output_type and tensor.role is Role.OUTPUT:
            return self._fitting(tensor, mixture.output_type, "--output-type")
        if kept:
            return self._fitting(tensor, kept.qtype, f"--keep {kept}")
        if mixture.pure:
            return self._fitting(tensor, self._recipe.weights.type, "--pure")
        qtype, reason = self._by_rules(tensor)  # counts the tensor, also where its type was allotted
        if mixture.allotment and tensor.name in mixture.allotment.types:
            qtype, reason = mixture.allotment.types[tensor.name]
        given_by_option = reason == "--output-type"  # of a tied embedding
        return replace(self._fitting(tensor, qtype, reason), free=not given_by_option)

    def _kept(self, tensor: ModelTensor) -> Keep | None:
        """The first --keep whose pattern is found in the name."""
        matching = self._recipe.kept(tensor.name)
        self._matched.update(matching)
        return matching[0] if matching else None

    def _by_rules(self, tensor: ModelTensor) -> tuple[str, str]:
        subject = self._subject(tensor)
        if subject.role is Role.OUTPUT and self._mixture.output_type:  # a tied embedding
            return self._mixture.output_type, "--output-type"
        qtype, reason = self._recipe.weights.type, "default"
        for rule in self._rules:
            if rule.weights and rule.admits(subject, qtype):
                self._matched.add(rule.where)
                qtype, reason = rule.weights.type, rule.why or rule.where
        return qtype, reason

    def _subject(self, tensor: ModelTensor) -> Subject:
        """Count the tensor and place it among its kind. With experts the layer is the place: blocks may mix."""
        kind = _COUNTED.get(tensor.role)
        index, count, counted = tensor.layer, self._model.shape.blocks, None
        if kind is not None:
            if kind == "attn_v" or self._facts.experts <= 1 or tensor.layer is None:
                index = self._reached[kind]
            counted = self._reached[kind]
            self._reached[kind] += 1
            count = self._total[kind] if kind == "attn_v" else self._facts.blocks
        return Subject(
            name=tensor.name,
            role=Role.OUTPUT if self._tied and tensor.role is Role.TOKEN_EMBD else tensor.role,
            index=index,
            count=count,
            stacked=len(tensor.shape) > 2 and tensor.shape[-3] > 1,
            counted=counted,
            rows_fit=tensor.shape[-1] % base.get(self._recipe.weights.type).block == 0,
        )

    def _fitting(self, tensor: ModelTensor, qtype: str, reason: str) -> Choice:
        """The type itself, or what takes over where its block does not divide a row (tensor_type_fallback)."""
        cols = tensor.shape[-1]
        if cols % base.get(qtype).block == 0:
            return Choice(qtype, reason)
        smaller = self._mixture.fallbacks.get(qtype, qtype)
        if cols % base.get(smaller).block:
            smaller = "f16"
        return Choice(smaller, reason, fallback_from=qtype)

    def require_matches(self) -> None:
        """Raise RecipeError for a --keep or a strict rule that found nothing: it is a typing error."""
        for keep in self._recipe.keep:
            if keep not in self._matched:
                raise RecipeError(f"--keep {keep} matches no tensor that can be quantized", hint=self._hint(keep))
        if self._mixture.pure:
            return
        for rule in self._rules:
            if not rule.optional and rule.where not in self._matched:
                raise RecipeError(
                    f"{rule.where}: matches no tensor of this {self._facts.architecture} model",
                    hint='`quantkit inspect --tensors` lists names; "strict = false" in the recipe allows idle rules',
                    key=rule.where,
                )

    def _hint(self, keep: Keep) -> str:
        """Where a pattern was meant for the checkpoint's names, say what the tensor is called here."""
        for tensor in self._model.tensors:
            for part in tensor.parts:
                source = getattr(part, "tensor", "")
                if source and keep.matches(source):
                    return f"{source} is called {tensor.name} in the target"
        return "patterns are searched in target names such as blk.0.attn_v.weight"


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape as ggml counts dimensions: outer dimensions of one do not count."""
    first = next((axis for axis, size in enumerate(shape[:-1]) if size != 1), len(shape) - 1)
    return shape[first:]


def _named_apart(tensor: ModelTensor) -> bool:
    """Gemma 3n's per-layer embeddings follow --embedding-type unless a --keep names them."""
    return tensor.name == PER_LAYER_EMBEDDING
