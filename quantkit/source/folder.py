"""A Hugging Face checkpoint in a folder: which files it may name, and whether index and shards agree."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quantkit.errors import InputError, QuantkitError
from quantkit.events import Sink, Warned
from quantkit.formats.containers.declared import SIDE_CONFIGS
from quantkit.formats.safetensors import INDEX
from quantkit.jsontext import dump_json
from quantkit.metadata import KeyValue
from quantkit.platforms import user_ids
from quantkit.records import record
from quantkit.source.base import MAX_SIDE_FILE_BYTES, SourceFile, StoredTensor, require_decodable
from quantkit.source.nested import MAX_NESTED_BYTES, is_nested, is_nested_folder, list_nested
from quantkit.source.shards import CONSOLIDATED, PARAMS, index_of, read_index, read_shards, stem_of, weight_files
from quantkit.tensors import TensorInfo
from quantkit.untrusted import InputFile, listed, open_input, parse_json_object, read_all, shown

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
INDEX_SUFFIX = ".index.json"
SHARD = ".safetensors"

# Everything besides weights that families and tokenizers read, and nothing else.
SIDE_FILES = (
    CONFIG, INDEX, "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tekken.json",
    "qwen.tiktoken", "hy.tiktoken", "tiktoken.model", "tokenizer.jsonl",
    "chat_template.jinja", "chat_template.json", "modules.json", "README.md", *SIDE_CONFIGS,
)  # fmt: skip

# What else belongs to a model and goes along with it: processors, other tokenizers' files, licences, cards.
CARRIED = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}\.(json|txt|model|tiktoken|jinja|md|py|yaml|yml)|tokenizer\.jsonl"
    r"|(LICENSE|NOTICE|USE_POLICY)[A-Za-z.]*"
)

MASK_FILE = "mask_embedding.pt"  # a pickle that some drafts need: seen, and never read
BLOB_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
CACHED_REPO = re.compile(r"models--(?P<owner>[A-Za-z0-9._-]+?)--(?P<name>[A-Za-z0-9._-]+)")
COMMIT = re.compile(r"[0-9a-f]{40}")

NOTHING: Mapping[Path, InputFile] = MappingProxyType({})
MAX_CONFIG_BYTES = 8 << 20
MAX_FOLDER_ENTRIES = 100_000


@record
class FolderCheckpoint:
    """A checkpoint folder with all files open. See `quantkit.source.Checkpoint`.

    `made` are files that are not there, with what they would say; `replaced` are those that they stand for.
    """

    name: str
    repo: str | None
    commit: str | None
    config: Mapping[str, Any]
    root: Path
    stored: Mapping[str, StoredTensor]
    shards: Mapping[str, InputFile]
    sides: Mapping[str, InputFile]
    others: tuple[str, ...] = ()
    kind: str = "hf"
    metadata: tuple[KeyValue, ...] = ()
    made: Mapping[str, bytes] = field(default_factory=dict)
    replaced: frozenset[str] = frozenset({INDEX})

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._infos

    @cached_property
    def _infos(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType({name: tensor.info for name, tensor in self.stored.items()})

    def ref(self, name: str) -> StoredTensor:
        tensor = self.stored[name]
        require_decodable(tensor.info, _quantization(self.config))
        return tensor

    def files(self) -> tuple[SourceFile, ...]:
        weights = [self._file(name, file, weights=True) for name, file in self.shards.items()]
        return (*weights, *(self._file(name, file, weights=False) for name, file in self.sides.items()))

    def _file(self, name: str, file: InputFile, *, weights: bool) -> SourceFile:
        return SourceFile(name, str(file.path), file.nbytes, weights, published_sha256(self.root, name), file)

    def file_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.sides, *self.made)))

    def read_file(self, name: str) -> bytes | None:
        if name in self.made:
            return self.made[name]
        if name in self.others:
            with closing(_open(self.root, name)) as file:
                return read_all(file, MAX_SIDE_FILE_BYTES)
        limit = MAX_NESTED_BYTES if "/" in name else MAX_SIDE_FILE_BYTES
        return read_all(self.sides[name], limit) if name in self.sides else None

    def carried(self) -> tuple[str, ...]:
        return tuple(sorted({*self.sides, *self.others, *self.made} - self.replaced))

    def unchanged(self) -> None:
        for file in (*self.shards.values(), *self.sides.values()):
            file.unchanged()

    def close(self) -> None:
        for file in (*self.shards.values(), *self.sides.values()):
            file.close()


def open_folder(
    folder: Path, emit: Sink, *, as_stored: bool = False, distant: Mapping[Path, InputFile] = NOTHING
) -> FolderCheckpoint:
    """Open a folder with config.json, or Mistral's params.json, and safetensors weights. Reads headers only.
    With `as_stored` the latter keeps its own names and numbers. `distant` are files of it that lie elsewhere, open, by
    where they would lie.

    Raises InputError for a missing, damaged or hostile file and for an index that does not fit its shards,
    UnsupportedError for weights in a layout that is not read.
    """
    root = Path(os.path.realpath(folder))
    names, left = _list(root)
    names |= {path.name for path in distant if path.parent == root}
    stem = stem_of(names)
    of_mistral = _files_of_mistral(names) if stem == CONSOLIDATED else frozenset()
    sides: dict[str, InputFile] = {}
    shards: dict[str, InputFile] = {}
    linked: dict[str, Path] = {}
    try:
        for name in sorted(names):
            if name in SIDE_FILES or name in of_mistral or is_nested(name):
                sides[name] = _open(root, name, linked)
        index = read_index(sides[index_of(stem)]) if index_of(stem) in sides else None
        wanted = weight_files(root, names, index, stem)
        if CONFIG not in sides and stem != CONSOLIDATED:
            hint = "give a folder as transformers saves it"
            raise InputError(f"{shown(root)} has no {CONFIG}", path=str(root / CONFIG), hint=hint)
        config = _object(sides[CONFIG]) if CONFIG in sides else {}
        for name in wanted:
            shards[name] = distant.get(root / name) or _open(root, name, linked)
        stored = read_shards(shards, index, index_of(stem))
        name, repo, commit = _identity(folder, root)
        found = FolderCheckpoint(name, repo, commit, config, root, stored, shards, sides)
        if stem == CONSOLIDATED:
            params = _object(sides[PARAMS])
            found = replace(found, config=params) if as_stored else _translated(found, params, names, emit)
    except QuantkitError:
        for file in (*sides.values(), *shards.values()):
            file.close()
        raise
    _warn_of_code(found.config, emit)
    _warn_of_links(linked, emit)
    if left:
        emit(Warned("not-carried", f"{len(left)} files in folders are not read and stay behind: {listed(left, 3)}"))
    others = sorted(n for n in names if CARRIED.fullmatch(n) and n not in sides and not n.endswith(INDEX_SUFFIX))
    return replace(found, others=tuple(others))


def open_finished(files: Mapping[str, Path], name: str) -> FolderCheckpoint:
    """A checkpoint whose files lie anywhere, by the names that they will have: one that is made and not published.

    Reads headers only. Raises InputError for a damaged file and for an index that does not fit its shards.
    """
    opened: dict[str, InputFile] = {}
    try:
        for each, path in files.items():
            if each.endswith(SHARD) or each in SIDE_FILES or is_nested(each):
                opened[each] = open_input(path)
        shards = {each: file for each, file in opened.items() if each.endswith(SHARD)}
        sides = {each: file for each, file in opened.items() if each not in shards}
        index = read_index(sides[INDEX]) if INDEX in sides else None
        stored = read_shards(shards, index)
        root = next(iter(files.values())).parent
        return FolderCheckpoint(name, None, None, _object(sides[CONFIG]), root, stored, shards, sides)
    except QuantkitError:
        for file in opened.values():
            file.close()
        raise


def _files_of_mistral(names: set[str]) -> frozenset[str | None]:
    """The files that only folders in Mistral's own layout have, of those that are there."""
    from quantkit.source import mistral  # for its layout alone, here and below

    return frozenset({PARAMS, mistral.tokenizer_file(names), index_of(CONSOLIDATED)})


def _translated(found: FolderCheckpoint, params: Mapping[str, Any], names: set[str], emit: Sink) -> FolderCheckpoint:
    """A folder in Mistral's own layout, seen as one that transformers saved."""
    from quantkit.source import mistral, mistral_images

    config = mistral.config_of(params, next(iter(found.stored.values())).info.dtype, found.config)
    stored = mistral.renamed(found.stored, params)
    warning = mistral.context_warning(params, found.config)
    if warning is not None:
        emit(warning)
    made = {CONFIG: (dump_json(config, indent=2, carried=True) + "\n").encode()}
    if PREPROCESSOR not in names and "vision_config" in config:
        made[PREPROCESSOR] = (dump_json(mistral_images.VALUES, indent=2) + "\n").encode()
    versioned = mistral.tokenizer_file(found.sides)
    if versioned is not None:
        made[mistral.TOKENIZER] = read_all(found.sides[versioned], MAX_SIDE_FILE_BYTES)
    replaced = found.replaced | {PARAMS, index_of(CONSOLIDATED), *([versioned] if versioned else [])}
    return replace(found, config=config, stored=stored, made=made, replaced=replaced)


def _object(file: InputFile) -> dict[str, Any]:
    return parse_json_object(read_all(file, MAX_CONFIG_BYTES), file.path, digits=True)


def _list(root: Path) -> tuple[set[str], list[str]]:
    """Names of files in the folder, and of side files one folder below; what in those folders is not read."""
    names: set[str] = set()
    try:
        for entry in root.iterdir():
            names.add(entry.name)
            if len(names) > MAX_FOLDER_ENTRIES:
                what = f"{shown(root)} has more than {MAX_FOLDER_ENTRIES:,} files"
                raise InputError(what, path=str(root), hint="give the folder of one checkpoint")
        folders = sorted(filter(is_nested_folder, names))
        for name in folders if _is_snapshot(root) else ():
            locate(root, name)  # a download has no links to folders
        nested, left = list_nested(root, folders)
    except OSError as error:
        what = f"{shown(root)} cannot be read: {error.strerror}"
        raise InputError(what, path=str(root), hint="check its permissions") from error
    return names | nested, left


def locate(root: Path, name: str) -> Path:
    """Where `name` of the checkpoint folder `root` (a real path) really lies.

    In a snapshot of the Hub cache symbolic links may lead to files inside the folder and to the blobs of that cache:
    InputError for any other, a download must not pull other files into an artifact. In any other folder they may lead
    wherever its owner made them lead: `_open` looks at what is there.
    """
    path = root / name
    try:
        target = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        hint = "fetch the checkpoint again"
        raise InputError(f"{shown(path)} is missing: {error.strerror}", path=str(path), hint=hint) from error
    if target == path or root in target.parents or not _is_snapshot(root) or _is_blob_of(root, target):
        return target
    what = f"{shown(path)} is a link to {shown(target)}, outside the checkpoint"
    raise InputError(what, path=str(path), hint="copy the file into the folder, or give the folder it lies in")


def _is_snapshot(root: Path) -> bool:
    """Whether a folder was put together by huggingface_hub: CACHE/models--O--N/snapshots/COMMIT."""
    return root.parent.name == "snapshots" and CACHED_REPO.fullmatch(root.parent.parent.name) is not None


def _is_blob_of(root: Path, target: Path) -> bool:
    """Whether `target` is a blob of the Hub cache that snapshot `root` belongs to.

    Layout of huggingface_hub: CACHE/models--O--N/snapshots/COMMIT/file -> CACHE/models--O--N/blobs/ETAG, which may
    itself be a link to CACHE/blobs/XX/XXHASH that several repositories share.
    """
    repo = root.parent.parent
    shared = repo.parent / "blobs" / target.name[:2]
    return BLOB_NAME.fullmatch(target.name) is not None and target.parent in {repo / "blobs", shared}


def _is_blob(target: Path) -> bool:
    """Whether `target` is a blob of any Hub cache, where folders made with local_dir used to link to."""
    if not BLOB_NAME.fullmatch(target.name):
        return False
    folder = target.parent
    of_repo = folder.name == "blobs" and CACHED_REPO.fullmatch(folder.parent.name) is not None
    return of_repo or (folder.name == target.name[:2] and folder.parent.name == "blobs")


def published_sha256(root: Path, name: str) -> str | None:
    """The SHA-256 under which the Hub published a large file of a cached snapshot: the name of its blob."""
    path = root / name
    if root.parent.name != "snapshots" or not path.is_symlink():
        return None
    link = Path(os.path.normpath(path.parent / path.readlink()))
    is_sha256 = len(link.name) == 64 and BLOB_NAME.fullmatch(link.name)
    return link.name if is_sha256 and link.parent == root.parent.parent / "blobs" else None


def _open(root: Path, name: str, linked: dict[str, Path] | None = None) -> InputFile:
    """Open `name` of the folder `root` by its descriptor. A file that lies elsewhere must be the user's own, or a blob
    of a Hub cache; the former is noted in `linked`.
    """
    target = locate(root, name)
    file = open_input(target, follow=False)
    if root in target.parents or _is_blob(target):
        return file
    mine = user_ids()
    if mine is not None and os.fstat(file.descriptor).st_uid not in mine:
        file.close()
        what = f"{shown(root / name)} is a link to {shown(target)}, which belongs to another user"
        hint = "copy the file into the folder, or give the folder it lies in"
        raise InputError(what, path=str(root / name), hint=hint)
    if linked is not None:
        linked[name] = target
    return file


def _warn_of_links(linked: Mapping[str, Path], emit: Sink) -> None:
    """Say which files lie elsewhere: what they hold goes into the artifact."""
    if linked:
        pairs = [f"{name} -> {target}" for name, target in sorted(linked.items())]
        emit(Warned("links", f"{len(pairs)} files of the checkpoint are links to files elsewhere: {listed(pairs, 3)}"))


def _quantization(config: Mapping[str, Any]) -> str | None:
    found = config.get("quantization_config")
    return str(found.get("quant_method", "unnamed method")) if isinstance(found, dict) else None


def _warn_of_code(config: Mapping[str, Any], emit: Sink) -> None:
    """Say that code of the repository is not run. The family, not that code, says how tensors are read."""
    found = config.get("auto_map")
    if found:
        named = found.values() if isinstance(found, dict) else [found]
        what = f"config.json names Python code of the repository ({listed([str(value) for value in named])})"
        emit(Warned("remote-code", f"{what}; it is never run"))


def _identity(folder: Path, root: Path) -> tuple[str, str | None, str | None]:
    """Name, repository and commit: those of the Hub for a snapshot in its cache, else the name of the folder."""
    match = CACHED_REPO.fullmatch(root.parent.parent.name)
    if root.parent.name == "snapshots" and match and COMMIT.fullmatch(root.name):
        return match["name"], f"{match['owner']}/{match['name']}", root.name
    return folder.absolute().name or root.name, None, None
