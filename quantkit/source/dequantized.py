"""A folder as a checkpoint of plain weights, whatever it stores. What decodes is imported for what is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.formats.containers.declared import SIDE_CONFIGS, declared, undeclared
from quantkit.source.base import Checkpoint
from quantkit.source.folder import MAX_CONFIG_BYTES, FolderCheckpoint
from quantkit.untrusted import parse_json_object, read_all


def dequantized(folder: FolderCheckpoint) -> Checkpoint:
    """The checkpoint with plain weights: itself where nothing says that it is quantized. Reads headers only.

    Closes it and raises InputError for tensors that do not fit the configuration, UnsupportedError for a method or
    settings that are not read.
    """
    try:
        sides = {name: _side(folder, name) for name in SIDE_CONFIGS if name in folder.file_names()}
        quantization = declared(folder.config, sides) or undeclared(folder.stored)
        if quantization is None:
            return folder
        from quantkit.source.quantized import seen_plain

        return seen_plain(folder, quantization)
    except QuantkitError:
        folder.close()
        raise


def _side(folder: FolderCheckpoint, name: str) -> Mapping[str, Any]:
    return parse_json_object(read_all(folder.sides[name], MAX_CONFIG_BYTES), folder.sides[name].path)
