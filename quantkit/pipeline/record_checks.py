"""Is a manifest true? Everything in it that can be computed again is; the rest is named as what somebody claims.

A hash over a file that whoever changed the file can compute anew proves nothing against that person; it proves that
nothing changed by accident, and that the parts of an artifact belong together. Against a person help what the artifact
itself says, the source (`--against`), and a hash that came another way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

from quantkit import qtypes
from quantkit.families.model import Model
from quantkit.formats.gguf.types import GGUFFile
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.jsontext import utf8
from quantkit.machine import worker_pool
from quantkit.pipeline.outputs import is_behind_link, strangers
from quantkit.plan.feedback import METHOD_KEY
from quantkit.plan.gguf import Placed, digest_of
from quantkit.plan.grids import PRESERVE_KEY
from quantkit.quality.checks.base import Check
from quantkit.recipes.read import load_recipe, recipe_names
from quantkit.records import record
from quantkit.report.manifest import Manifest
from quantkit.source import Checkpoint
from quantkit.storage import hash_file, read_sums
from quantkit.untrusted import InputFile, listed, open_input, shown
from quantkit.version import __version__

READ_BYTES = 8 << 20
CLAIMS = ("tool", "model", "checks", "warnings", "versions", "platform", "timings")
MORE_CLAIMS = ("method", "calibration", "layers")
OLDER = (
    "its manifest has no seal: it is of a version before seals. The same quantkit convert command compares the files "
    "with the source and writes a manifest that has one"
)


@record
class Subject:
    """What is looked at: all files of an artifact, where its manifest lies, and the source where one is given."""

    paths: tuple[Path, ...]
    manifest_path: Path
    manifest: Manifest
    source: Checkpoint | None = None

    @property
    def folder(self) -> Path:
        return self.manifest_path.parent

    @property
    def is_folder(self) -> bool:
        """Whether the artifact is everything in its folder: a checkpoint."""
        return self.paths[0].suffix != ".gguf"


OTHER_SOURCE = "give the source that it was made from with --against, or convert again from this one"


def check_record(subject: Subject) -> Check:
    """The manifest's seal and identity, SHA256SUMS, the size and hash of every file and tensor, strangers in a folder,
    and with a source the hashes of its files."""
    manifest = subject.manifest
    for look in (_seal, _names, _sums, _sizes, _hashes, _strangers, _source):
        wrong = next(iter(look(subject)), None)
        if wrong is not None:
            return Check("files", False, wrong, hint=OTHER_SOURCE if look is _source else "")
    named = {f.name: f.sha256 for f in manifest.artifact}
    claims = [*CLAIMS, *(name for name in MORE_CLAIMS if name in manifest.facts)]
    claims += ["source", "tokenizer_sha256"] if subject.source is None else []
    data: dict[str, Any] = {"sha256": named, "sealed": manifest.sealed is True, "claims": claims}
    return Check("files", True, "" if manifest.sealed else OLDER, data)


def _seal(subject: Subject) -> Iterator[str]:
    manifest = subject.manifest
    if manifest.sealed is False:
        yield f"{shown(subject.manifest_path.name)} was changed: its seal is that of another text"
    if (manifest.read or {}).get("identity") != manifest.identity:
        yield "the manifest's identity is not that of its plan and source"


def _names(subject: Subject) -> Iterator[str]:
    named, there = {f.name for f in subject.manifest.artifact}, {path.name for path in subject.paths}
    if subject.is_folder and there <= named:
        return
    if named != there:
        what = f"the manifest is of {listed(sorted(named))}"
        yield f"{what}, not of {listed(sorted(there - named) or sorted(there))}"


def _sums(subject: Subject) -> Iterator[str]:
    """SHA256SUMS, where there is one, has one line for each file and for the manifest, with its hash."""
    found = read_sums(subject.folder)
    if found is None:
        return
    expected = {file.name: file.sha256 for file in subject.manifest.artifact}
    for name, sha256 in {**expected, subject.manifest_path.name: hash_file(subject.manifest_path)}.items():
        lines = found.get(os.fsencode(name), [])
        if lines != [sha256]:
            said = f"says {listed(lines)}" if lines else "has no line"
            yield f"SHA256SUMS {said} for {shown(name)}, expected {sha256}"


def _sizes(subject: Subject) -> Iterator[str]:
    """The size report adds up: to the files, and to the tensors of each type."""
    manifest = subject.manifest
    size = manifest.facts["size"]
    total = sum(file.nbytes for file in manifest.artifact)
    tensors = sum(t.nbytes for t in manifest.tensors)
    if size["bytes"] != total:
        yield f"the manifest's size says {size['bytes']:,} bytes, its files have {total:,}"
    if size["header_bytes"] + size["padding_bytes"] + sum(t["bytes"] for t in size["types"]) != total:
        yield "the parts of the manifest's size do not add up"
    for key in ("code_bytes", "scale_bytes", "weights"):
        if size[key] != sum(t[key] for t in size["types"]):
            yield f"the manifest's size has another {key} than its types"
    if sum(t["bytes"] for t in size["types"]) > tensors:
        yield "the manifest's size has more bytes of types than of tensors"
    for key, exact in (
        ("bits_per_weight", 8 * total / max(size["weights"], 1)),
        ("ratio", total / max(size["source_bytes"], 1)),
    ):
        if size[key] != round(exact, 4):
            yield f"the manifest's size says {key} {size[key]}, it is {exact:.4f}"
    if not subject.is_folder:
        yield from _types(manifest)


def _types(manifest: Manifest) -> Iterator[str]:
    found: dict[str, list[int]] = {}
    for tensor in manifest.tensors:
        sums = found.setdefault(tensor.qtype, [0, 0, 0])
        for index, number in enumerate((1, prod(tensor.shape), tensor.nbytes)):
            sums[index] += number
    said = {t["type"]: [t["tensors"], t["weights"], t["bytes"]] for t in manifest.facts["size"]["types"]}
    if said != found:
        yield "the types of the manifest's size are not those of its tensors"


def _hashes(subject: Subject) -> Iterator[str]:
    manifest = subject.manifest
    with worker_pool(2) as pool:  # a file and its tensors at once: what one reads the other finds in memory
        for number, record in enumerate(manifest.artifact):
            path = subject.folder / record.name
            if is_behind_link(path, record.name):
                yield f"{shown(record.name)} lies behind a link"
                return
            if not path.is_file():
                yield f"{shown(record.name)} is missing"
                return
            if path.stat().st_size != record.nbytes:
                yield f"{shown(record.name)} has {path.stat().st_size:,} bytes, expected {record.nbytes:,}"
                return
            whole, damaged = pool.submit(hash_file, path), pool.submit(_damaged_tensor, path, manifest, number)
            found, tensor = whole.result(), damaged.result()
            if found != record.sha256:
                where = f"tensor {shown(tensor)} is damaged" if tensor else "the header or padding is damaged"
                yield f"{shown(record.name)} has sha256 {found}, expected {record.sha256}: {where}"
                return
            if tensor:
                yield f"tensor {shown(tensor)} of {shown(record.name)} has another sha256 than the manifest says"
                return


def _damaged_tensor(path: Path, manifest: Manifest, number: int) -> str | None:
    """The first tensor of a file whose bytes are not those of the manifest, so that a flipped bit has an address."""
    file = open_input(path)
    try:
        for tensor in manifest.tensors:
            if tensor.file == number and tensor.sha256 != _hash(file, tensor.offset, tensor.offset + tensor.nbytes):
                return tensor.name
    finally:
        file.close()
    return None


def _hash(file: InputFile, start: int, stop: int) -> str | None:
    if stop > file.nbytes:
        return None
    digest = hashlib.sha256()
    for at in range(start, stop, READ_BYTES):
        digest.update(file.read(at, min(at + READ_BYTES, stop)).data)
    return digest.hexdigest()


def _strangers(subject: Subject) -> Iterator[str]:
    if subject.is_folder:
        named = {file.name for file in subject.manifest.artifact}
        found = [name for name in strangers(subject.folder) if name not in named]
        if found:
            yield f"the folder holds files that the manifest does not list and a loader may read: {listed(found)}"


def _source(subject: Subject) -> Iterator[str]:
    """The source's files have the hashes of the manifest; one that shares no name with it is not compared."""
    if subject.source is None:
        return
    said = {file.name: (file.nbytes, file.sha256) for file in subject.manifest.source_files}
    there = {file.name: file for file in subject.source.files()}
    if not said.keys() & there.keys():
        return
    missing = sorted(said.keys() - there.keys())
    made_here = subject.manifest.facts["tool"]["version"] == __version__  # another version may know other files
    added = sorted(name for name, file in there.items() if (file.weights or made_here) and name not in said)
    if missing or added:
        yield f"the source {'lacks' if missing else 'has'} {listed(missing or added)}, unlike that of the manifest"
    for name in sorted(said.keys() & there.keys()):
        file = there[name]
        if (file.nbytes, hash_file(Path(file.path))) != said[name]:
            yield f"{shown(name)} of the source is not the file that the manifest says it was made from"


def check_making(
    files: Sequence[GGUFFile], manifest: Manifest, model: Model | None, source: Checkpoint | None
) -> tuple[str | None, bool]:
    """What is wrong with what a GGUF file says of its own making, and with the source with the plan's digest.

    Also whether the digest could be computed: not with importance weights, nor for other versions.
    """
    wrong = _header(files, manifest)
    tool = manifest.facts["tool"]
    chosen = any(kv.key.startswith(("quantize.", METHOD_KEY)) for kv in files[0].metadata)
    if wrong or model is None or source is None or chosen:
        return wrong, False
    if manifest.tokenizer_sha256 != model.tokenizer_sha256 and manifest.source.get("kind") == source.kind:
        return "the manifest's tokenizer_sha256 is not that of the source's tokenizer", False
    if (tool["version"], tool["numerics"]) != (__version__, qtypes.NUMERICS):
        return None, False
    placed = [Placed(t.name, t.qtype, number, t.offset) for number, file in enumerate(files) for t in file.tensors]
    headers = [(file.nbytes, _header_sha256(file)) for file in files]
    preserve = files[0].get(PRESERVE_KEY) is not None
    digest = digest_of(placed, headers, model, source, preserve=preserve)
    return (
        (None, True) if digest == manifest.plan_digest else ("the manifest's plan_digest is not that of the file", True)
    )


def _header_sha256(file: GGUFFile) -> str:
    opened = open_input(file.path)
    try:
        return _hash(opened, 0, file.data_start) or ""
    finally:
        opened.close()


def _header(files: Sequence[GGUFFile], manifest: Manifest) -> str | None:
    said = {kv.key: kv.value for kv in files[0].metadata if kv.key.startswith("quantkit.")}
    told = {
        "quantkit.recipe": manifest.recipe["name"],
        "quantkit.version": manifest.facts["tool"]["version"],
        METHOD_KEY: manifest.facts.get("method", {}).get("name"),
        "quantkit.source.repo": manifest.source.get("repo"),
        "quantkit.source.commit": manifest.source.get("commit"),
    }
    for key, value in told.items():
        found = said.get(key)
        text = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
        if text != (None if value is None else utf8(value).decode()):
            return f"{key} is {shown(repr(text))} in the file, {shown(repr(value))} in the manifest"
    headers = sum(file.data_start for file in files)
    if manifest.facts["size"]["header_bytes"] != headers:
        return f"the headers have {headers:,} bytes, the manifest says {manifest.facts['size']['header_bytes']:,}"
    return None


def wrong_making(shards: Sequence[Path], manifest: Manifest) -> str | None:
    """What is wrong with what a checkpoint says of its own making, and with the method that its recipe has."""
    return _named_making(shards, manifest) or _method(manifest)


def _named_making(shards: Sequence[Path], manifest: Manifest) -> str | None:
    """What the files say of their own making against the manifest; None where they agree."""
    recipe = manifest.recipe
    told = {"quantkit.recipe": utf8(str(recipe["name"])).decode(), "quantkit.plan": recipe.get("plan")}
    for shard in shards:
        said = read_safetensors(shard).metadata
        if "plan" not in recipe and "quantkit.plan" not in said:
            continue  # of a version that wrote neither
        for key, value in told.items():
            if said.get(key) != value:
                return f"{key} is {shown(repr(said.get(key)))} in {shard.name}, {shown(repr(value))} in the manifest"
    return None


def _method(manifest: Manifest) -> str | None:
    """A recipe of quantkit's own has the method that the manifest says: it decides what is compared."""
    words = str(manifest.recipe["name"]).split()
    if not words or "--method" in words or words[0] not in recipe_names():
        return None
    recipe = load_recipe(words[0])
    said = manifest.facts.get("method") or {}
    if said.get("transform") != recipe.method.transform:
        return f"the manifest says transform {said.get('transform')}, {words[0]} has {recipe.method.transform}"
    return None
