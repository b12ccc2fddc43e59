"""A GGUF file seen as the checkpoint that it was made of: config.json, tokenizer files, and tensors by their names.

The rows of the file's family are read backwards (`families.restore`), and what comes out is described as any checkpoint
is: only if that gives the file's own tensors and keys is it taken for its origin. So whatever takes a checkpoint takes
a GGUF file: convert for servers, calibrate, a plain checkpoint. Factors beside weights are worked into these.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.events import Sink, Warned, ignore
from quantkit.families.assumptions import CODE as ASSUMED
from quantkit.families.describe import POOLING, Named, describe, find_family
from quantkit.families.general import CARD, RELATED, RELATED_KEYS, SAMPLING
from quantkit.families.model import Constant, Model
from quantkit.families.model_card import CARD_FILE
from quantkit.families.parts import Mapped
from quantkit.families.restore import BEHIND_ENCODER, by_itself, families_of, plain, restored_config, restored_tensors
from quantkit.families.rows import Family
from quantkit.jsontext import dump_json
from quantkit.metadata import KeyValue
from quantkit.qtypes import base as qtypes
from quantkit.records import record
from quantkit.source.backwards import Piece, RestoredTensor, pieces_of, uncovered
from quantkit.source.base import Checkpoint, SourceFile
from quantkit.source.factored import factored
from quantkit.source.folder import CONFIG
from quantkit.tensors import FLOAT_DTYPES, TensorInfo, TensorRef
from quantkit.tokenizer.read import read_tokenizer
from quantkit.tokenizer.restored import restored_tokenizer
from quantkit.units import counted
from quantkit.untrusted import listed, shown

CLOSE = 1e-6  # of factors that other programs compute in another order
GENERATION, MODULES, POOLED = "generation_config.json", "modules.json", "1_Pooling/config.json"
WORDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Entries that say how text is split, or around it: what they say must come back as it is.
SPLITTING = ("model", "pre", "tokens", "token_type", "scores", "merges", "add_bos_token", "add_eos_token")
ADDED = {"add_bos_token": "bos", "add_eos_token": "eos", "add_sep_token": "sep"}
# What old files lack and engines fill in, or what nothing reads.
UNREAD = frozenset({"vocab_size", "tensor_data_layout", "rope.dimension_count"})
JUDGES, ALIKE = "cls.output.weight", 0.9  # rows of one token, however rounded; those of others are far from it
AGAIN = "start from the checkpoint that the file was made of"


@record
class RestoredCheckpoint:
    """See `quantkit.source.Checkpoint`. `source` is the file, `files_made` are side files with what they say."""

    source: Checkpoint
    config: Mapping[str, Any]
    infos: Mapping[str, TensorInfo]
    pieces: Mapping[str, tuple[Piece, ...]]
    made: Mapping[str, bytes]
    kind: str = "hf"
    metadata: tuple[KeyValue, ...] = ()

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def repo(self) -> str | None:
        return self.source.repo

    @property
    def commit(self) -> str | None:
        return self.source.commit

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.infos

    def ref(self, name: str) -> TensorRef:
        return self._refs[name]

    @cached_property
    def _refs(self) -> Mapping[str, RestoredTensor]:
        for piece in (piece for pieces in self.pieces.values() for piece in pieces):
            self.source.ref(piece.target.name)  # raises for a type that has no decoder
        return {name: RestoredTensor(self.infos[name], self.pieces[name], self.source.ref) for name in self.infos}

    def files(self) -> tuple[SourceFile, ...]:
        return self.source.files()

    def file_names(self) -> tuple[str, ...]:
        return tuple(self.made)

    def read_file(self, name: str) -> bytes | None:
        return self.made.get(name)

    def carried(self) -> tuple[str, ...]:
        return tuple(sorted(self.made))

    def unchanged(self) -> None:
        self.source.unchanged()

    def close(self) -> None:
        self.source.close()


def restored(source: Checkpoint, emit: Sink = ignore) -> RestoredCheckpoint:
    """The checkpoint of a GGUF file. Reads headers, and the few numbers of rope tensors.

    Raises UnsupportedError naming the tensor or key that no family gives back, InputError for a damaged vocabulary.
    """
    values = {kv.key: kv for kv in source.metadata}
    named = values.get("general.architecture")
    architecture = str(named.value) if named else ""
    families = families_of(architecture)
    if not families:
        what = f'files of the architecture "{shown(architecture)}" are not read backwards: no family gives them'
        raise UnsupportedError(what, key="general.architecture", hint=AGAIN)
    whole = factored(source)
    errors: list[QuantkitError] = []
    for family in families:
        language, entries, left = by_itself(family, values)
        try:
            found, warnings = _as(language, whole, entries)
        except (InputError, UnsupportedError) as error:
            errors.append(error)
            continue
        for code, message in warnings:
            emit(Warned(code, message))
        if left:
            what = f"the checkpoint is of the language model alone, which reads text alike: {listed(left)} are left out"
            emit(Warned("not-restored", what))
        if whole.dropped:
            what = f"{counted(len(whole.dropped), 'static scale')} of inputs (first {whole.dropped[0]})"
            emit(Warned("not-restored", f"files of the checkpoint do not say {what}"))
        return found
    others = ("tensor", "shape", "architecture", "architectures")  # of a family that the file is not of
    first = next((error for error in errors if error.key not in others), errors[0])
    what = f"{shown(source.name)} cannot be turned back into a checkpoint: {first.message}"
    raise UnsupportedError(what, key=first.key, tensor=first.tensor, hint=AGAIN) from first


Warnings = list[tuple[str, str]]


def _as(family: Family, source: Checkpoint, values: Mapping[str, KeyValue]) -> tuple[RestoredCheckpoint, Warnings]:
    """The file as a checkpoint of a family. Raises UnsupportedError where that would not give the file."""
    tensors, metadata = source.tensors(), tuple(values.values())
    constants = {name: _numbers(source, name) for name in tensors if name.startswith(("rope_freqs", "rope_factors"))}
    config = restored_config(family, metadata, tensors, constants)
    config["torch_dtype"] = WORDS[_most(tensors)]
    context = config.get("max_position_embeddings")
    made = dict(restored_tokenizer(metadata, context if isinstance(context, int) else None, phi=family.tokens.phi))
    made |= _sides(values)
    made[CONFIG] = (dump_json(config, indent=2, carried=True) + "\n").encode()
    _require_family(family, config)
    rest = {name: info for name, info in tensors.items() if name not in constants}
    infos = restored_tensors(family, family.hparams(config), metadata, rest)
    vocabulary = read_tokenizer(made.get, config, family.tokens, names=tuple(made))
    model = describe(infos, config, made.get, Named(family, family.hf[0]), vocabulary, name=source.name)
    _require_tensors(model, tensors, constants)
    pieces = pieces_of(model.tensors)
    lost = uncovered(pieces, infos)
    if lost:
        what = f"the file does not hold all of {listed(lost, 3)}"
        raise UnsupportedError(what, tensor=lost[0], hint=AGAIN)
    _require_tied(model, source)
    warnings = [*_require_keys(family, model, values), *(each for each in model.warnings if each[0] == ASSUMED)]
    warnings += _three_valued(pieces)
    infos = {name: _stored(info, pieces[name], tensors) for name, info in infos.items()}
    return RestoredCheckpoint(source, config, infos, pieces, made), warnings


def _three_valued(pieces: Mapping[str, Sequence[Piece]]) -> Warnings:
    """A word on matrices that whoever runs the checkpoint has to round to three values, as the model was trained."""
    parts = (piece.part for found in pieces.values() for piece in found)
    if not any(isinstance(part, Mapped) and part.what == "ternary" for part in parts):
        return []
    what = "linears come back as what rounds to the three values of the file: transformers does so for a"
    what += ' quantization_config of "bitnet" with linear_class "autobitlinear" and quantization_mode "online"'
    return [("not-restored", what)]


def _require_tied(model: Model, source: Checkpoint) -> None:
    """Raise UnsupportedError where the two rows of a reranker's head are not those of its embeddings, as they would be.

    They may be stored in another type than the embeddings, so that what is compared is where they point.
    """
    targets = {target.name: [p.source for p in target.parts if p.source is not None] for target in model.tensors}
    rows = [part.start for part in targets.get(JUDGES, ()) if part.tensor == targets["token_embd.weight"][0].tensor]
    if not rows:
        return
    given, embeddings = source.ref(JUDGES), source.ref("token_embd.weight")
    for one, row in zip(given.read(0, given.info.rows), rows, strict=True):
        other = embeddings.read(row, row + 1)[0]
        if not float(one @ other) >= ALIKE * float(np.linalg.norm(one) * np.linalg.norm(other)):
            what = f"of the output head the file holds {len(rows)} rows alone, and the embeddings have others"
            raise UnsupportedError(what, tensor=JUDGES, hint=AGAIN)


def _require_family(family: Family, config: Mapping[str, Any]) -> None:
    """Raise UnsupportedError where config.json would be read as that of another family, or asks for an encoder."""
    found = find_family(config).family
    if found is not family:
        what = f"its config.json would be that of family {found.name}, the file is of family {family.name}"
        raise UnsupportedError(what, key="architectures", hint=AGAIN)
    if str(config["architectures"][0]).endswith(BEHIND_ENCODER):
        what = "transformers has its language model only behind an encoder, which is not in the file"
        raise UnsupportedError(what, key="architectures", hint=AGAIN)


def _numbers(source: Checkpoint, name: str) -> list[float]:
    """The values of a small tensor."""
    ref = source.ref(name)
    if ref.info.elements > 1 << 16:
        raise InputError(f"{name} has {ref.info.elements:,} values", tensor=name, hint="the file is damaged")
    return [float(value) for value in ref.read(0, ref.info.rows).reshape(-1)]


def _most(tensors: Mapping[str, TensorInfo]) -> str:
    """The float type of most matrices; bfloat16 where they are quantized."""
    counts = Counter(info.dtype for info in tensors.values() if len(info.shape) > 1)
    most = counts.most_common(1)[0][0] if counts else "BF16"
    return most if most in WORDS else "BF16"


def _stored(info: TensorInfo, pieces: Sequence[Piece], tensors: Mapping[str, TensorInfo]) -> TensorInfo:
    """The tensor with its type: that of the file where it is a float as it is there, else float32; whole numbers as
    they are."""
    if info.dtype not in FLOAT_DTYPES:
        return info
    kinds = {tensors[piece.target.name].dtype for piece in pieces}
    changed = any(piece.target.add or piece.part.source is None for piece in pieces)
    quantized = sorted(kinds - FLOAT_DTYPES)
    if quantized:
        bits = min(int(qtypes.get(kind).bits_per_weight) for kind in quantized)
        return replace(info, stored_as=f"{listed(quantized)} of a GGUF file", stored_bits=bits)
    if len(kinds) == 1 and not changed:
        dtype = kinds.pop()
        return replace(info, dtype=dtype, nbytes=info.elements * (4 if dtype == "F32" else 2))
    return info


def _require_tensors(model: Model, tensors: Mapping[str, TensorInfo], constants: Mapping[str, Sequence[float]]) -> None:
    """Raise UnsupportedError unless the checkpoint's targets are the file's tensors."""
    targets = {target.name: target for target in model.tensors}
    strange = [name for name in (*tensors, *targets) if name not in targets or name not in tensors]
    if strange:
        where = "of the file has no origin" if strange[0] in tensors else "is not in the file"
        what = f'tensor "{shown(strange[0])}" {where} in family {model.family}'
        raise UnsupportedError(what, tensor=strange[0], hint=AGAIN)
    for name, target in targets.items():
        if target.shape != tensors[name].shape:
            what = f'tensor "{name}" is {list(tensors[name].shape)}, family {model.family} gives {list(target.shape)}'
            raise UnsupportedError(what, tensor=name, hint=AGAIN)
        ours = [part.values().reshape(-1) for part in target.parts if isinstance(part, Constant)]
        if ours and not np.allclose(np.concatenate(ours), constants[name], rtol=CLOSE, atol=0):
            what = f'the factors in "{name}" are of a rotation that config.json cannot say'
            raise UnsupportedError(what, tensor=name, hint=AGAIN)


def _require_keys(family: Family, model: Model, values: Mapping[str, KeyValue]) -> Warnings:
    """Raise UnsupportedError for a key that the checkpoint would give another value, or not at all; warnings of names
    and special tokens that change."""
    ours = {kv.key: kv for kv in model.metadata}
    prefix = f"{family.gguf}."
    for key in sorted(key for key in {*ours, *values} if key.startswith(prefix)):
        mine, theirs = ours.get(key), values.get(key)
        unread = key.removeprefix(prefix) in UNREAD
        if theirs is None or (mine is None and unread) or (mine is not None and _same(mine, theirs)):
            continue
        what = f"the file says {key} = {shown(repr(plain(theirs)), 60)}"
        said = f", the checkpoint {shown(repr(plain(mine)), 60)}" if mine is not None else ""
        raise UnsupportedError(f"{what}{said or ', which config.json cannot say'}", key=key, hint=AGAIN)
    for name in SPLITTING:
        key = f"tokenizer.ggml.{name}"
        if not _alike(name, ours.get(key), values.get(key), values):
            raise UnsupportedError(f"the vocabulary does not come back: {key} is another", key=key, hint=AGAIN)
    others = [
        key for key, kv in values.items()
        if key.startswith("tokenizer.") and key.rpartition(".")[2] not in SPLITTING
        and (key not in ours or not _same(ours[key], kv))
    ]  # fmt: skip
    return [("not-restored", f"files of the checkpoint do not say {listed(sorted(others), 4)}")] if others else []


def _alike(name: str, mine: KeyValue | None, theirs: KeyValue | None, values: Mapping[str, KeyValue]) -> bool:
    """Whether an entry comes back; of what is put around a text, whether it means the same."""
    if name in ADDED and (mine is None or theirs is None):
        return True  # what llama.cpp takes for granted is said now, or need not be said
    if mine is None or theirs is None:
        return mine is theirs
    return _same(mine, theirs)


def _same(mine: KeyValue, theirs: KeyValue) -> bool:
    a, b = mine.items(), theirs.items()
    if len(a) != len(b) or mine.array != theirs.array:
        return False
    if mine.kind == "f32":
        return [np.float32(x) for x in a] == [np.float32(x) for x in b]
    return [_text(x) for x in a] == [_text(x) for x in b]


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


# --- files beside -----------------------------------------------------------------------------------------------------


def _sides(values: Mapping[str, KeyValue]) -> Iterator[tuple[str, bytes]]:
    """generation_config.json, the model card, and how an embedding model pools, as far as the file speaks of them."""
    found: dict[str, Any] = {}
    for key, _, places in SAMPLING:
        entry = values.get(f"general.sampling.{key}")
        if entry is not None:
            found[places[-1] if key == "penalty_repeat" else places[0]] = plain(entry)
    for kind, name in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
        entry = values.get(f"tokenizer.ggml.{kind}_token_id")
        if entry is not None:
            found[f"{name}_token_id"] = entry.value
    if found:
        yield GENERATION, (dump_json(found, indent=2) + "\n").encode()
    card = dict(_card(values))
    if card:
        lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in card.items())
        yield CARD_FILE, ("---\n" + "\n".join(lines) + "\n---\n").encode("utf-8", "replace")
    pooling = next((kv.value for key, kv in values.items() if key.endswith(".pooling_type")), None)
    mode = next((name for name, number in POOLING.items() if number == pooling), None)
    if mode is not None:
        modules = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]
        yield MODULES, (json.dumps(modules, indent=2) + "\n").encode()
        flags = {name: POOLING[name] == pooling for name in POOLING if name.startswith("pooling_mode")}
        yield POOLED, (json.dumps(flags, indent=2) + "\n").encode()


def _card(values: Mapping[str, KeyValue]) -> Iterator[tuple[str, Any]]:
    """What the front matter of a model card says, by its own names."""
    for key, places in CARD.items():
        entry = values.get(f"general.{key}")
        if entry is not None and not entry.array:
            yield places[0], _text(entry.value)
    for kind, places in RELATED.items():
        count = values.get(f"general.{kind}.count")
        if count is not None and isinstance(count.value, int) and count.value <= 1000:
            yield places[0], [_related(values, f"general.{kind}.{number}.") for number in range(count.value)]
    for key, place in (("tags", "tags"), ("languages", "language")):
        entry = values.get(f"general.{key}")
        if entry is not None:
            yield place, [_text(one) for one in entry.items()]


def _related(values: Mapping[str, KeyValue], prefix: str) -> dict[str, Any]:
    return {key: _text(values[prefix + key].value) for key in RELATED_KEYS if prefix + key in values}
