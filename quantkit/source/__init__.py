"""Where weights come from: a Hugging Face folder, the Hub, a GGUF file, or memory (tests).

`open_source` reads headers only and validates all of them; a slab of rows is read when a stage asks for it. LoRA
adapters are merged on the way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import InputError, QuantkitError, UnsupportedError, UsageError
from quantkit.events import Sink, Warned, ignore
from quantkit.families.describe import find_family
from quantkit.source.base import Checkpoint, SourceFile
from quantkit.source.dequantized import dequantized
from quantkit.source.folder import CONFIG, MAX_CONFIG_BYTES, NOTHING, open_folder
from quantkit.source.shards import PICKLES
from quantkit.source.spec import HINT, HubModel, names_hub, parse_hub
from quantkit.untrusted import InputFile, parse_json_object, read_bounded, shown

if TYPE_CHECKING:
    from quantkit.source.adapter import Adapter

__all__ = ["Checkpoint", "SourceFile", "open_source", "turned_back"]


def open_source(
    spec: str,
    *,
    offline: bool = False,
    emit: Sink = ignore,
    as_stored: bool = False,
    adapters: Sequence[str] = (),
    headers: bool = False,
) -> Checkpoint:
    """Open a checkpoint: a folder, a `.gguf` file, `hf://org/name[@revision]`, an address on huggingface.co, or
    `org/name` where no such path is; with `:FILE.gguf` behind the name one GGUF file of a repository, by its first
    shard if it is split. A repository whose only weights are one such file needs no name of it.

    Linear layers that a checkpoint for servers stores quantized are there as the plain weights that they decode to.
    Where those cannot be decoded, `as_stored` takes the tensors as they are, with a warning.
    A repository of the Hub is fetched first (only what is needed); with `offline` only its cached copy is used. With
    `headers` its weights stay there, but for what begins each file: they are fetched when somebody reads them.
    `adapters` are LoRA adapters, named in the same ways, that are merged into the weights in this order; a GGUF file is
    turned back into a checkpoint for them.
    Raises InputError for a missing, damaged or hostile checkpoint, UnsupportedError for one in a layout that is not
    read, UsageError for a `spec` that is none of the above, NetworkError when the Hub fails.
    """
    found = _open(spec, offline=offline, emit=emit, as_stored=as_stored, headers=headers)
    return _merged(found, adapters, offline=offline, emit=emit) if adapters else found


def _open(spec: str, *, offline: bool, emit: Sink, as_stored: bool, headers: bool) -> Checkpoint:
    if not names_hub(spec):
        path = _path(spec)
        if spec and os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for names too long to exist
            return _open_folder(path, emit, as_stored)
        if spec and os.path.exists(path):  # noqa: PTH110 - likewise
            return _open_file(path)
    model = parse_hub(spec)
    if model is None or (model.file and not names_hub(spec) and os.path.isdir(spec.partition("/")[0])):  # noqa: PTH112
        raise _no_such(spec)
    found, distant = _on_hub(model, offline=offline, emit=emit, headers=headers)
    opened = _opened_on_hub(model, found, distant, emit, as_stored)
    for file in distant.values():
        file.settle()
    return opened


def _opened_on_hub(
    model: HubModel, found: Path, distant: Mapping[Path, InputFile], emit: Sink, as_stored: bool
) -> Checkpoint:
    if found.suffix != ".gguf":
        return _open_folder(found, emit, as_stored, distant)
    from quantkit.source.gguf import open_gguf  # only for GGUF files, here and below

    commit = next(folder.name for folder in found.parents if folder.parent.name == "snapshots")
    return replace(open_gguf(found, distant), repo=model.repo, commit=commit)


def _on_hub(model: HubModel, *, offline: bool, emit: Sink, headers: bool) -> tuple[Path, Mapping[Path, InputFile]]:
    """Where a model of the Hub lies now, and the files of it that do not, open."""
    from quantkit.source.glance import glance
    from quantkit.source.hub import Hub, fetch  # huggingface_hub: only for repositories

    hub = Hub(offline=offline)
    if not headers:
        return fetch(model.repo, model.revision, hub, emit, file=model.file), {}
    found = glance(model.repo, model.revision, hub, emit, file=model.file)
    return found.path, found.distant


def _merged(base: Checkpoint, specs: Sequence[str], *, offline: bool, emit: Sink) -> Checkpoint:
    """The checkpoint with adapters merged into it: of a GGUF file that which it was made of, whose tensors they name.
    Closes it where that cannot be."""
    from quantkit.source.merged import merged_with  # only for adapters, here and below

    base = turned_back(base, emit)
    opened: list[Adapter] = []
    try:
        for spec in specs:
            opened.append(find_adapter(spec, offline=offline, emit=emit))
        return merged_with(base, opened)
    except QuantkitError:
        base.close()
        for adapter in opened:
            adapter.close()
        raise


def turned_back(source: Checkpoint, emit: Sink) -> Checkpoint:
    """A GGUF file as the checkpoint that it was made of, any other source as it is. Closes it where that fails."""
    if source.kind != "gguf":
        return source
    from quantkit.source.restored import restored  # only for GGUF files

    try:
        return restored(source, emit)
    except QuantkitError:
        source.close()
        raise


def find_adapter(spec: str, *, offline: bool = False, emit: Sink = ignore) -> Adapter:
    """Open a LoRA adapter: a folder, or a repository of the Hub, which is fetched. Raises what `open_adapter` raises,
    UsageError for a `spec` that is neither."""
    from quantkit.source.adapter import open_adapter

    path = _path(spec)
    if not names_hub(spec) and spec and os.path.isdir(path):  # noqa: PTH112 - likewise
        return open_adapter(path)
    model = parse_hub(spec)
    if model is None or model.file is not None:
        raise _no_such(spec)
    from quantkit.source.hub import Hub, fetch  # huggingface_hub: only for repositories

    found = open_adapter(fetch(model.repo, model.revision, Hub(offline=offline), emit))
    return replace(found, name=model.repo.rpartition("/")[2])


def _open_folder(path: Path, emit: Sink, as_stored: bool, distant: Mapping[Path, InputFile] = NOTHING) -> Checkpoint:
    try:
        return dequantized(open_folder(path, emit, distant=distant))
    except QuantkitError as error:
        config = _config(path)
        if as_stored and isinstance(error, InputError | UnsupportedError):
            found = open_folder(path, ignore, as_stored=True, distant=distant)  # what is wrong there is raised again
            emit(Warned("as-stored", f"shown as stored: {error.message}"))
            return found
        if config is not None:
            _require_known(config, error)
        raise


def _config(path: Path) -> dict[str, Any] | None:
    """config.json of a folder, None where it cannot be read."""
    try:
        return parse_json_object(read_bounded(path / CONFIG, MAX_CONFIG_BYTES), path / CONFIG)
    except QuantkitError:
        return None


def _require_known(config: Mapping[str, Any], error: QuantkitError) -> None:
    """Raise UnsupportedError for an unknown family, the first thing to say of it: what else is wrong is no matter."""
    try:
        find_family(config)
    except UnsupportedError as unknown:
        raise unknown from error
    except InputError:
        return


def _path(spec: str) -> Path:
    return Path(os.path.expanduser(spec))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def _open_file(path: Path) -> Checkpoint:
    if path.suffix.lower() == ".gguf":
        from quantkit.source.gguf import open_gguf

        return open_gguf(path)
    where = shown(path)
    if path.suffix == ".safetensors":
        what = f"{where} is one file of a checkpoint"
        raise UsageError(what, path=str(path), hint=f"give its folder: {shown(path.parent)}")
    if path.suffix in PICKLES:
        what = f"{where} is a pickle, which can run code and is never loaded"
        raise InputError(what, path=str(path), hint="get the safetensors version of the model")
    what = f"{where} is neither a checkpoint folder nor a .gguf file"
    raise UsageError(what, path=str(path), hint="give a folder, a .gguf file, or hf://org/name")


def _no_such(spec: str) -> InputError | UsageError:
    if names_hub(spec):
        return UsageError(f"{shown(spec)} does not name a model repository", hint=HINT)
    path = _path(spec)
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        beside = []
    near = get_close_matches(path.name, beside, 1)
    hint = f"did you mean {shown(path.parent / near[0])}?" if near else "give a folder, a .gguf file, or hf://org/name"
    return InputError(f'"{shown(spec)}" does not exist', path=spec, hint=hint)
