"""A LoRA adapter as a source of its own, beside the configuration of its base model: what becomes a GGUF adapter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, QuantkitError, UsageError
from quantkit.events import Sink, ignore
from quantkit.families.model_card import CARD_FILE
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.source import find_adapter
from quantkit.source.adapter import Adapter
from quantkit.source.base import MAX_SIDE_FILE_BYTES, SourceFile, StoredTensor, no_side_files
from quantkit.source.folder import CONFIG, MAX_CONFIG_BYTES, locate
from quantkit.source.spec import names_hub, parse_hub
from quantkit.tensors import TensorInfo
from quantkit.untrusted import InputFile, open_input, parse_json_object, read_all, shown


@record
class AdapterCheckpoint:
    """An adapter and its base's config.json. See `quantkit.source.Checkpoint`."""

    adapter: Adapter
    config: Mapping[str, Any]
    base: InputFile
    kind: str = "adapter"
    repo: str | None = None
    commit: str | None = None
    metadata: tuple[KeyValue, ...] = ()

    @property
    def name(self) -> str:
        return self.adapter.name

    def tensors(self) -> Mapping[str, TensorInfo]:
        return {name: tensor.info for name, tensor in self.adapter.stored.items()}

    def ref(self, name: str) -> StoredTensor:
        return self.adapter.stored[name]

    def files(self) -> tuple[SourceFile, ...]:
        base = SourceFile(f"base/{CONFIG}", str(self.base.path), self.base.nbytes, weights=False, opened=self.base)
        return (*self.adapter.files(), base)

    file_names = carried = no_side_files

    def read_file(self, name: str) -> bytes | None:
        """The adapter's model card; nothing else of its folder is read."""
        if name != CARD_FILE or not (self.adapter.root / name).is_file():
            return None
        with closing(open_input(locate(self.adapter.root, name), follow=False)) as file:
            return read_all(file, MAX_SIDE_FILE_BYTES)

    def unchanged(self) -> None:
        self.adapter.unchanged()
        self.base.unchanged()

    def close(self) -> None:
        self.adapter.close()
        self.base.close()


def open_adapter_model(spec: str, base: str | None, *, offline: bool = False, emit: Sink = ignore) -> AdapterCheckpoint:
    """Open an adapter, and config.json of its base model: nothing else of that is needed. `base` is a folder or a
    repository of the Hub, by default what adapter_config.json names.

    Raises what `find_adapter` raises, UsageError for a base that is not there or not named.
    """
    adapter = find_adapter(spec, offline=offline, emit=emit)
    try:
        named = base or adapter.config.base
        if named is None:
            what = "adapter_config.json does not say which model the adapter is of"
            raise UsageError(what, key="base", hint="give the folder of that model, or its repository: --base SRC")
        path = _config_of(named, offline=offline, emit=emit)
        file = open_input(path)
        config = parse_json_object(read_all(file, MAX_CONFIG_BYTES), path, digits=True)
    except QuantkitError:
        adapter.close()
        raise
    return AdapterCheckpoint(adapter, config, file)


def _config_of(spec: str, *, offline: bool, emit: Sink) -> Path:
    """Where config.json of a model lies; of a repository of the Hub it is fetched, without weights."""
    path = Path(os.path.expanduser(spec))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    if not names_hub(spec) and os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for names too long to exist
        if not (path / CONFIG).is_file():
            raise InputError(f"{shown(path)} has no {CONFIG}", path=str(path), hint="give the folder of the base model")
        return locate(Path(os.path.realpath(path)), CONFIG)
    model = parse_hub(spec)
    if model is None or model.file is not None:
        what = f"the base model {shown(spec)} is neither a folder here nor a repository of the Hub"
        raise UsageError(what, key="base", hint="give the folder of that model: --base SRC")
    from quantkit.source.hub import Hub, fetch_config  # huggingface_hub: only for repositories

    return fetch_config(model.repo, model.revision, Hub(offline=offline), emit)
