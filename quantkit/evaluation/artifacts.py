"""An artifact on the disk as a side: opened, decoded, and refused where it is not of the model beside it.

What differs in the weights is what is measured. What differs elsewhere makes a comparison meaningless, and is an error
before any weight is read: another architecture, another vocabulary, other tokens, other numbers in a GGUF header, a
manifest that names another source.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, VerificationError
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.sides import Rounding, Side
from quantkit.families.model import Model
from quantkit.formats.gguf.file import read_gguf, shard_paths
from quantkit.metadata import KeyValue
from quantkit.plan.describe import describe_source
from quantkit.quality.decoded import DecodedCheckpoint, open_decoded
from quantkit.quality.headers import differing_numbers
from quantkit.quality.made_gguf import tokenizer_keys
from quantkit.records import record
from quantkit.report.manifest import CHECKPOINT_MANIFEST, Manifest, find_manifest, read_manifest
from quantkit.source import Checkpoint, open_source
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.tensors import TensorInfo
from quantkit.tokenizer.check import check_tokenizer
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.vocabulary import SPACE
from quantkit.units import counted
from quantkit.untrusted import require_path, shown

OTHER_MODEL = "give the source that it was made from with --against"
TOKENS, PRE_TOKENIZER = "tokenizer.ggml.tokens", "tokenizer.ggml.pre"
SPLITS = ("model", "tokens", "pre", "merges", "scores", "token_type", "add_bos_token", "add_space_prefix")
EMBEDDING = "token_embd.weight"
SHARD = ".safetensors"


@record
class Artifact:
    """An artifact that is open: its side, its files with weights and their bytes, its manifest where there is one."""

    side: Side
    paths: tuple[Path, ...]
    nbytes: int
    manifest: Manifest | None


@contextmanager
def opened_artifact(
    path: Path, source: Checkpoint, *, pre: str | None = None, threads: int | None = None
) -> Iterator[Artifact]:
    """A GGUF file (of a split one the first shard) or the folder of a checkpoint, beside the source that it was made
    from; `pre` is the pre-tokenizer that convert was told, `threads` look for columns that were evened.

    Raises InputError for what does not exist, does not parse or is of another model, UnsupportedError for a type or
    container that is not decoded.
    """
    require_path(path)
    if not path.exists():
        raise InputError(f"{shown(path)} does not exist", path=str(path), hint="check the path")
    folder = path.parent if path.suffix == SHARD else path
    opened = _checkpoint(folder, source, pre) if folder.is_dir() else _gguf(folder, source, pre, threads)
    with opened as artifact:
        yield artifact


@contextmanager
def _gguf(path: Path, source: Checkpoint, pre: str | None, threads: int | None) -> Iterator[Artifact]:
    paths = shard_paths(path)
    model = describe_source(source, pre)
    _require_header(path, read_gguf(paths[0]).metadata, source, model)
    try:
        decoded = open_decoded(paths, source, model)
    except VerificationError as error:
        what = f"{shown(path.name)} is no file of {shown(source.name)}: {error.message}"
        raise InputError(what, path=str(path), tensor=error.tensor, hint=OTHER_MODEL) from error
    with closing(decoded):
        rows = next(t.shape[0] for t in model.tensors if t.name == EMBEDDING)
        side = Side(path.name, decoded, vocabulary=rows, moved=decoded.as_made(threads) is not source)
        yield Artifact(side, paths, _bytes(paths), _manifest(find_manifest(path)))


def _require_header(path: Path, metadata: tuple[KeyValue, ...], source: Checkpoint, model: Model) -> None:
    """Raise InputError for a header that is not of this model."""
    name, values = shown(path.name), {kv.key: kv.value for kv in metadata}
    found = values.get("general.architecture")
    if found != model.gguf_architecture:
        what = f"{name} is of architecture {shown(str(found))}, {shown(source.name)} is {model.gguf_architecture}"
        raise InputError(what, path=str(path), key="general.architecture", hint=OTHER_MODEL)
    there, here = tokenizer_keys(metadata), tokenizer_keys(model.metadata)
    _require_tokens(name, path, there.get(TOKENS), here.get(TOKENS))
    other = [key for key in SPLITS if there.get(f"tokenizer.ggml.{key}") != here.get(f"tokenizer.ggml.{key}")]
    if other:
        compared = check_tokenizer(metadata, source.read_file, source.config)
        if not compared.ok:
            why = compared.difference or next(iter(compared.problems), other[0])
            what = f"{name} splits text otherwise than {shown(source.name)}: {why}"
            raise InputError(what, path=str(path), key=f"tokenizer.ggml.{other[0]}", hint=OTHER_MODEL)
    wrong = differing_numbers(path, model)
    if wrong:
        raise InputError(f"{name} is not of {shown(source.name)}: {wrong}", path=str(path), hint=OTHER_MODEL)


def _require_tokens(name: str, path: Path, there: object, here: object) -> None:
    """Raise InputError for vocabularies that differ: by their sizes, or the first token that is another."""
    if there == here:
        return
    ours, theirs = (list(each) if isinstance(each, list | tuple) else [] for each in (here, there))
    if len(ours) != len(theirs):
        what = f"{name} has {counted(len(theirs), 'token')}, the source has {len(ours):,}"
        raise InputError(what, path=str(path), key="vocab_size", hint=OTHER_MODEL)
    at = next(n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    raise _other_token(name, path, at, str(theirs[at]), str(ours[at]))


def _other_token(name: str, path: Path, at: int, there: str, here: str) -> InputError:
    what = f'{name} has another tokenizer: token {at:,} is "{shown(there, 40)}", in the source "{shown(here, 40)}"'
    return InputError(what, path=str(path), key="tokenizer", hint=OTHER_MODEL)


@contextmanager
def _checkpoint(folder: Path, source: Checkpoint, pre: str | None) -> Iterator[Artifact]:
    with closing(open_source(str(folder))) as made:
        _require_config(folder, made, source)
        _require_tokenizer(folder, made, source)
        paths = tuple(sorted(Path(file.path) for file in made.files() if file.weights))
        manifest = _manifest(folder / CHECKPOINT_MANIFEST)
        yield Artifact(served_side(folder.resolve().name, made, _moved(manifest)), paths, _bytes(paths), manifest)


def served_side(name: str, made: Checkpoint, moved: bool | None) -> Side:
    """A checkpoint for servers as a side: its decoded weights, and inputs rounded as it asks loaders to."""
    rounding = served_rounding(made)
    return Side(name, made, rounding, served_inputs(made, rounding), moved=moved)


def _require_config(folder: Path, made: Checkpoint, source: Checkpoint) -> None:
    """Raise InputError for tensors that the source has in another shape, or not at all."""
    ours, theirs = source.config.get("model_type"), made.config.get("model_type")
    if ours != theirs:
        what = f"{shown(folder.name)} is of model_type {shown(str(theirs))}, {shown(source.name)} is {shown(str(ours))}"
        raise InputError(what, path=str(folder), key="model_type", hint=OTHER_MODEL)
    known = source.tensors()
    for name, info in made.tensors().items():
        if name in known and known[name].shape != info.shape:
            what = f"{name} is {list(info.shape)} in {shown(folder.name)}, {list(known[name].shape)} in the source"
            raise InputError(what, path=str(folder), tensor=name, hint=OTHER_MODEL)


def _require_tokenizer(folder: Path, made: Checkpoint, source: Checkpoint) -> None:
    """Raise InputError for tokenizer files that give other ids."""
    names = [name for name in source.file_names() if "token" in name or name.endswith((".model", "merges.txt"))]
    if all(made.read_file(name) == source.read_file(name) for name in names):
        return
    name = shown(folder.name)
    here = open_source_tokenizer(source.read_file, source.config)
    there = open_source_tokenizer(made.read_file, made.config)
    for at in sorted({*here.vocabulary, *there.vocabulary}):
        if here.vocabulary.get(at) != there.vocabulary.get(at):
            raise _other_token(name, folder, at, there.vocabulary.get(at, ""), here.vocabulary.get(at, ""))
    texts = probes()
    for text, ours, theirs in zip(texts, here.encode(texts), there.encode(texts), strict=True):
        if ours != theirs:
            shorter = min(len(ours), len(theirs))
            at = next((n for n in range(shorter) if ours[n] != theirs[n]), shorter)
            what = f'{name} has another tokenizer: token {at} of "{shown(text, 40)}" is {theirs[at : at + 1]}, '
            raise InputError(f"{what}in the source {ours[at : at + 1]}", path=str(folder), hint=OTHER_MODEL)


def served_rounding(made: Checkpoint) -> Callable[[str], Rounding | None]:
    """How loaders of a checkpoint round the inputs of its layers: as its configuration asks them to."""
    from quantkit.quality.inputs import server_rounding

    def of(tensor: str) -> Rounding | None:
        if not isinstance(made, QuantizedCheckpoint) or tensor not in made.modules:
            return None
        return server_rounding(made.modules[tensor], made.quantization, made.input_scale(tensor))

    return of


def served_inputs(made: Checkpoint, rounding: Callable[[str], Rounding | None]) -> str:
    """What becomes of the inputs of layers, in words."""
    modules = made.modules if isinstance(made, QuantizedCheckpoint) else {}
    rounded = sum(rounding(name) is not None for name in modules)
    return f"rounded in {counted(rounded, 'layer')} as config.json asks loaders to" if rounded else "float32"


def require_made_from(artifact: Artifact, source_sha256: frozenset[str], name: str) -> None:
    """Raise InputError where the manifest of an artifact says that it was made from other weights.

    `source_sha256` are the hashes of the source's files with weights.
    """
    if artifact.manifest is None or not source_sha256:
        return
    said = {file.sha256 for file in artifact.manifest.source_files}
    if said and not source_sha256 <= said:
        other = artifact.manifest.source.get("repo") or artifact.manifest.source.get("name")
        what = (
            f"{shown(artifact.side.name)} was made from {shown(str(other))} with other weights than {shown(name)} has"
        )
        raise InputError(f"its manifest says: {what}", path=str(artifact.paths[0]), key="source", hint=OTHER_MODEL)


@record
class Calibrated:
    """Text that an artifact was calibrated on, as its manifest says, beside the text at hand: whether that is part of
    it as a whole, or how many of its documents are. `sha256` is one hash over all files that were calibrated on."""

    name: str
    sha256: str | None
    token_sha256: str | None
    same: bool
    documents: int

    @property
    def overlaps(self) -> bool:
        return self.same or self.documents > 0

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "sha256": self.sha256,
            "token_sha256": self.token_sha256,
            "same_text": self.same,
            "seen_documents": self.documents,
        }


def calibrated_on(artifact: Artifact, corpus: Corpus, names: frozenset[str]) -> list[Calibrated]:
    """What an artifact's manifest says that it was calibrated on, in one run or several. `names` are those that the
    text at hand has wherever it is: the shipped one's."""
    facts = artifact.manifest.facts if artifact.manifest else {}
    return [_calibrated(record, corpus, names) for record in _text_records(facts)]


def _text_records(facts: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The records of text in a manifest: of a calibration, of the statistics that stood for one, of an imatrix, and of
    the shipped text that widens what is rounded with feedback."""
    for text in (facts.get("calibration"), facts.get("imatrix")):
        if not isinstance(text, Mapping):
            continue
        data = text.get("data")
        yield from (one for one in data if isinstance(one, Mapping)) if isinstance(data, list) else (text,)
        if text.get("shipped_windows"):
            yield {"name": "the shipped text", "sha256": text.get("shipped_sha256")}


def _calibrated(record: Mapping[str, Any], corpus: Corpus, names: frozenset[str]) -> Calibrated:
    name = str(record.get("name", record.get("dataset", "")))
    said = {record.get("sha256"), *_texts(record.get("parts"))}
    same = bool(corpus.hashes & said) or bool(names & set(name.split(", ")))
    seen = len(corpus.fingerprints.intersection(_texts(record.get("seen"))))
    whole, tokens = (record[key] if isinstance(record.get(key), str) else None for key in ("sha256", "token_sha256"))
    return Calibrated(name, whole, tokens, same, seen)


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list | tuple) else []


def text_of(source: Checkpoint) -> Callable[[list[int]], str]:
    """What tokens stand for, as text; bytes that are no UTF-8 show as U+FFFD."""
    tokenizer = open_source_tokenizer(source.read_file, source.config)
    library = tokenizer.library
    if library is not None:
        return lambda ids: str(library.decode(ids, skip_special_tokens=False))

    def joined(ids: list[int]) -> str:
        out = bytearray()
        for index in ids:
            text = tokenizer.vocabulary.get(index, "")
            byte = len(text) == 6 and text.startswith("<0x") and text.endswith(">")
            out += bytes([int(text[3:5], 16)]) if byte else text.replace(SPACE, " ").encode("utf-8", "replace")
        return out.decode("utf-8", "replace")

    return joined


def stored_tensors(checkpoint: Checkpoint) -> tuple[TensorInfo, ...]:
    """The tensors of an artifact under their own names, with the types and bytes in which they are stored."""
    if isinstance(checkpoint, DecodedCheckpoint):
        return tuple(TensorInfo(t.name, t.qtype, t.shape, t.nbytes) for _, t in checkpoint.stored.values())
    return tuple(replace(info, dtype=info.stored_as or info.dtype) for info in checkpoint.tensors().values())


def _bytes(paths: tuple[Path, ...]) -> int:
    return sum(path.stat().st_size for path in paths)


def _moved(manifest: Manifest | None) -> bool | None:
    """Whether a checkpoint was made with scales moved between layers; None where nobody says."""
    if manifest is None:
        return None
    method = manifest.facts.get("method")
    return isinstance(method, Mapping) and bool(method.get("transform"))


def _manifest(path: Path) -> Manifest | None:
    return read_manifest(path) if os.path.lexists(path) else None
