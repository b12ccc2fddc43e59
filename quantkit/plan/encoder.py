"""The second file of a model that sees or hears: whether it is made, of which type, and its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quantkit.errors import QuantkitError, UnsupportedError
from quantkit.families.describe_tower import PREFIX, describe_tower, has_processor
from quantkit.families.mapping import find_pieces, loss_warnings
from quantkit.families.mapping import left_out as reason_for
from quantkit.families.model import Model
from quantkit.families.tower import PREPROCESSOR, TARGET, Tower
from quantkit.families.towers import find_tower, known_towers, text_family, uncarried, unknown_part
from quantkit.filenames import file_stem
from quantkit.plan.base import Plan, PlanOptions
from quantkit.plan.gguf import plan_gguf
from quantkit.recipes.read import load_recipe
from quantkit.recipes.recipe import Recipe
from quantkit.source import Checkpoint
from quantkit.tensors import TensorInfo
from quantkit.units import counted

AUTO, NONE = "auto", "none"
ENCODER_CHOICES = (AUTO, NONE, "f16", "bf16", "f32", "q8_0")


def describe_encoder(checkpoint: Checkpoint, qtype: str) -> Model | None:
    """The encoder of images or sound in a checkpoint, for a file whose weights are of type `qtype`.

    None where there is none that quantkit knows. Raises InputError for what is missing or contradicts itself,
    UnsupportedError for a tensor of the encoder that no row describes.
    """
    tower = _tower(checkpoint)
    if tower is None:
        return None
    tensors, config = checkpoint.tensors(), checkpoint.config
    return describe_tower(tensors, config, checkpoint.read_file, tower, name=checkpoint.name, qtype=qtype)


def encoder_type(checkpoint: Checkpoint, asked: str) -> str | None:
    """The type of the encoder's file, None where none is made or it is left out (see `left_out`).

    Raises UnsupportedError where one was asked for by its type and there is none that quantkit knows.
    """
    tower = _tower(checkpoint)
    if asked != AUTO:
        if asked != NONE and tower is None:
            why = uncarried(checkpoint.config)
            known = ", ".join(sorted({tower.name for tower in known_towers()}))
            what = f"{checkpoint.name} has no encoder of images or sound that is known"
            hint = f"leave --mmproj out; known projectors: {known}"
            if why is not None:
                what, hint = f"the encoder of {checkpoint.name} is not written: {why.reason}", why.instead
            raise UnsupportedError(what, key=PREFIX, hint=hint)
        return None if asked == NONE else asked
    if tower is None or left_out(checkpoint) or not any(map(tower.is_own, checkpoint.tensors())):
        return None
    return first_type(checkpoint.tensors(), tower)


def plan_encoder(model: Model, checkpoint: Checkpoint, qtype: str, options: PlanOptions) -> tuple[Recipe, Plan]:
    """The file of an encoder, which is one, and the recipe that it is made by."""
    plain = load_recipe(qtype)
    recipe = replace(plain, name=f"{PREFIX}-{plain.name}", title=f"{PREFIX}-{plain.title}")
    stem = f"{PREFIX}-{file_stem(checkpoint.name)}-{plain.title}"
    return recipe, plan_gguf(model, checkpoint, recipe, replace(options, stem=stem, split_bytes=None))


def left_out(checkpoint: Checkpoint) -> str | None:
    """Why an encoder that is there is not written unless it is asked for; None where it is, or there is none."""
    if checkpoint.kind == "gguf":
        return None
    tower, part = find_tower(checkpoint.config), unknown_part(checkpoint.config)
    if part is not None:
        why = uncarried(checkpoint.config)
        if why is not None:
            return f"its encoder is left out, since {why.reason} ({why.instead})"
        return f"config.json has an encoder ({part}) that none of the known projectors describes"
    own = sum(map(tower.is_own, checkpoint.tensors())) if tower else 0
    if tower and own and tower.sees and not tower.expects and not has_processor(checkpoint.read_file):
        what = f"{tower.name}, {counted(own, 'tensor')}"
        return f"{PREPROCESSOR} is missing, without which its encoder ({what}) cannot be written"
    return None


def parts_beside(checkpoint: Checkpoint) -> tuple[tuple[str, str], ...]:
    """What the GGUF file of a language model would lack of a checkpoint, as plans warn of it, and an encoder that gets
    a file of its own: codes and sentences, from headers alone. () for what is no model that is known."""
    try:
        named, tower = text_family(checkpoint.config)
        tensors = checkpoint.tensors()
        text = {name: info for name, info in tensors.items() if tower is None or not tower.is_own(name)}
        hparams = named.family.numbers(checkpoint.config, text)
        _, unknown = find_pieces(named.family, hparams, text)
        reasons = {name: why for name in unknown if (why := reason_for(named.family, hparams, name)) is not None}
        found = loss_warnings(named.family, reasons)
        why = left_out(checkpoint)
    except QuantkitError:
        return ()
    if why is not None:
        return (*found, ("no-mmproj", f"{why}: the text model alone is written"))
    own = 0 if tower is None else len(tensors) - len(text)
    beside = f"the encoder ({tower.name}, {counted(own, 'tensor')}) gets a file of its own" if tower and own else ""
    return (*found, ("encoder", beside)) if beside else found


def first_type(tensors: Mapping[str, TensorInfo], tower: Tower) -> str:
    """What the reference takes by itself: the first half-precision type of a matrix of the encoder, else f16."""
    for name, info in tensors.items():
        if tower.is_own(name) and len(info.shape) > 1 and info.dtype in {"BF16", "F16"}:
            return info.dtype.lower()
    return "f16"


def _tower(checkpoint: Checkpoint) -> Tower | None:
    return None if checkpoint.kind == "gguf" else find_tower(checkpoint.config)


FILE_TYPES = {0: "f32", 1: "f16", 7: "q8_0", 32: "bf16"}  # enum llama_ftype


def is_encoder(metadata: Mapping[str, object]) -> bool:
    """Whether the entries of a GGUF file are of an encoder's."""
    return _text(metadata.get("general.type")) == PREFIX or _text(metadata.get("general.architecture")) == TARGET


def type_of_file(metadata: Mapping[str, object]) -> str:
    """The type that an encoder's file says it is of; f16 where it says none that is known."""
    said = metadata.get("general.file_type")
    return FILE_TYPES.get(said, "f16") if isinstance(said, int) else "f16"


def _text(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
