"""The encoder of a checkpoint as its row sees it: every tensor and key of the second GGUF file, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, QuantkitError
from quantkit.families.assumptions import engine_warnings
from quantkit.families.describe import inner_family
from quantkit.families.general import ReadFile, general_metadata
from quantkit.families.hparams import merged
from quantkit.families.keys import architecture_metadata
from quantkit.families.mapping import loss_warnings, map_tensors
from quantkit.families.model import Model, ModelTensor, Shape
from quantkit.families.tower import HALF, PREPROCESSOR, PROCESSOR, TARGET, Standing, Tower
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo
from quantkit.untrusted import parse_json_object

PREFIX = "mmproj"
LEFT_OUT = "the text model alone: --mmproj none"
NESTED = {PREPROCESSOR: "media_proc_cfg", PROCESSOR: "image_processor"}  # part of the file that belongs to its root
SPELLED = {"norm_mean": "image_mean", "norm_std": "image_std"}  # as files of Nemotron have it
HALVED = (".patch_embd.weight", ".patch_merger.weight")


def describe_tower(
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    read_file: ReadFile,
    tower: Tower,
    *,
    name: str,
    qtype: str,
) -> Model:
    """Describe the file of a tower whose weights are stored as `qtype`. Reads side files through `read_file`.

    Raises InputError for what is missing or contradicts itself, UnsupportedError for a tensor of the tower that no row
    describes.
    """
    processor = {**tower.expects, **read_processor(read_file)}
    if tower.sees:
        _require_values(processor, read_file)
    hparams = tower.numbers(config, _width(config), processor)
    own = {key: info for key, info in tensors.items() if tower.is_own(key)}
    if tower.seen:
        named = {tower.spelled(key): info for key, info in own.items()}
        hparams = replace(hparams, values={**hparams.values, **tower.seen(hparams, named)})
    standing = Standing(tower, hparams)
    mapped, dropped = map_tensors(standing, hparams, own)
    also = tower.also(hparams, tensors, read_file) if tower.also else ()
    everything = tuple(_stored(tensor, qtype) for tensor in (*mapped, *also))
    general = general_metadata(name, config, read_file, everything, PREFIX)
    return Model(
        family=tower.name,
        architecture=_architecture(config),
        gguf_architecture=TARGET,
        shape=Shape(hparams.count("num_hidden_layers"), hparams.count("hidden_size"), 0, 0, 0),
        tensors=everything,
        metadata=(
            KeyValue("general.architecture", "string", TARGET),
            *general.metadata,
            *architecture_metadata(TARGET, tower.keys, hparams),
        ),
        dropped=dropped,
        warnings=(*general.warnings, *loss_warnings(standing, dropped), *engine_warnings(tower.assumes, hparams)),
        kind="mmproj",
    )


def read_processor(read_file: ReadFile) -> Mapping[str, Any]:
    """What the processor files say, processor_config.json over preprocessor_config.json; {} without either.

    Raises InputError for one that does not parse.
    """
    found: dict[str, Any] = {}
    for file, part in NESTED.items():
        data = read_file(file)
        if data is not None:
            said = parse_json_object(data, Path(file))
            inner = said.get(part)
            found |= {**said, **(inner if isinstance(inner, Mapping) else {})}
    return {**{SPELLED[key]: value for key, value in found.items() if key in SPELLED}, **found}


def has_processor(read_file: ReadFile) -> bool:
    """Whether there is any processor file."""
    return any(read_file(file) is not None for file in NESTED)


def _require_values(processor: Mapping[str, Any], read_file: ReadFile) -> None:
    """Raise InputError where nothing says what values of images the tower expects."""
    for key in ("image_mean", "image_std"):
        value = processor.get(key)
        if isinstance(value, list) and len(value) > 0:
            continue
        there = [file for file in NESTED if read_file(file) is not None]
        if not there:
            what = f"the checkpoint has no {PREPROCESSOR}, which says what values of images its encoder expects"
        else:
            what = f"{' and '.join(there)}: {key} is {'missing' if value is None else 'no list of numbers'}"
        hint = f"copy {there[-1] if there else PREPROCESSOR} from where the model was published; or {LEFT_OUT}"
        raise InputError(what, path=there[-1] if there else PREPROCESSOR, key=key, hint=hint)


def _width(config: Mapping[str, Any]) -> int:
    """The width of the text model. Raises InputError where nothing says it."""
    try:
        family = inner_family(config).family
    except QuantkitError:
        family = None
    value = (family.hparams(config).values if family else merged(config)).get("hidden_size")
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        what = f"config.json: hidden_size of the text model is {'missing' if value is None else 'no count'}"
        raise InputError(what, key="hidden_size", path="config.json", hint="is config.json whole?")
    return value


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else str(config.get("model_type"))


def _stored(tensor: ModelTensor, qtype: str) -> ModelTensor:
    """The tensor with the type that it has in a file of `qtype`, where that is not `qtype`."""
    half = tensor.stored == HALF or (tensor.stored is None and any(part in tensor.name for part in HALVED))
    if len(tensor.shape) == 1 or not half:
        return tensor
    return replace(tensor, stored="f16" if qtype == "f16" else "f32")
