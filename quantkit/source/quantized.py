"""A checkpoint whose linear layers are stored quantized, seen as one whose weights are plain.

What its configuration and tensors say is read by quantkit.formats.containers.stored. Here
`model.layers.0.mlp.up_proj.weight` exists again, decoded a slab of rows at a time, and the tensors that it is made of
are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from quantkit.errors import InputError
from quantkit.families.turned import turned_in
from quantkit.formats.containers.base import StoredPart
from quantkit.formats.containers.coded import coded_as
from quantkit.formats.containers.declared import CONFIG_KEYS, SIDE_CONFIGS
from quantkit.formats.containers.packed import Entry, PackedTensor, packed
from quantkit.formats.containers.stored import StoredModule, stored_modules
from quantkit.jsontext import dump_json
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.source.base import SourceFile, StoredTensor
from quantkit.source.folder import CONFIG, FolderCheckpoint
from quantkit.source.fp8_stacks import DequantizedStack, Stack, stacks_of
from quantkit.tensors import F32, FLOAT_DTYPES, U8, TensorInfo, TensorRef
from quantkit.untrusted import shown

CHUNK_BYTES = 1 << 20
LINE_BYTES = 1 << 15
# Factors of weights, and of inputs: stored as they are (ModelOpt), and to divide by (compressed-tensors).
WEIGHT_FACTORS = ("weight_scale_2", "weight_global_scale")
INPUT_FACTORS = ("input_scale", "input_global_scale")
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@record
class DequantizedTensor:
    """The weight of a module that is stored quantized. Reading is safe from several threads and keeps nothing."""

    info: TensorInfo
    module: StoredModule
    stored: Mapping[str, StoredTensor]

    def read(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32, shape (stop - start, cols): exactly the number that is stored."""
        assert 0 <= start <= stop <= self.info.rows, (self.info.name, start, stop)
        if start == stop:
            return np.empty((0, self.info.cols), np.float32)
        if self.module.outline.turned is not None:
            return self._turned(start, stop)
        return self.module.decode(start, stop, self._read_part)

    def _turned(self, start: int, stop: int) -> F32:
        """Rows of matrices that are stored turned; one that is no part of a stack is decoded whole for any of them."""
        *stack, height, width = self.info.shape
        if not stack:
            return np.ascontiguousarray(self.module.decode(0, width, self._read_part)[:, start:stop].T)
        out = np.empty((stop - start, width), np.float32)
        for matrix in range(start // height, -(-stop // height)):
            first, last = max(start, matrix * height), min(stop, (matrix + 1) * height)
            within = matrix * width, (matrix + 1) * width
            low = matrix * height
            columns = self.module.columns(first - low, last - low, within, self._read_part)
            out[first - start : last - start] = columns.T
        return out

    def read_coded(self, start: int, stop: int) -> U8:
        """Rows [start, stop), of a turned weight those that are stored, as the type `info.coded` has them."""
        return self.module.coded(start, stop, self._read_part)

    def factors(self) -> tuple[float, float]:
        """What the rows of `read_coded` are multiplied by, and the static scale of inputs, float32; 1 without one.

        Raises InputError for one that is no positive number.
        """
        return self._factor(*WEIGHT_FACTORS), self._factor(*INPUT_FACTORS)

    def _factor(self, times: str, divided: str) -> float:
        """One of the two numbers: stored as it is, or to divide by."""
        for suffix in (times, divided):
            name = f"{self.module.name}.{suffix}"
            if name not in self.stored or self.stored[name].info.dtype not in FLOAT_DTYPES:
                continue
            values = self.stored[name].read(0, self.stored[name].info.rows).reshape(-1)
            with np.errstate(divide="ignore"):
                value = np.float32(values[0]) if suffix == times else np.float32(1) / np.float32(values[0])
            if values.size != 1 or not 0 < value < np.inf:
                what = f'tensor "{shown(name)}" holds {values[:3].tolist()}, expected one positive number'
                raise InputError(what, tensor=name, hint="the checkpoint is damaged: fetch it again")
            return float(value)
        return 1.0

    def read_packed(self, start: int, stop: int) -> U8:
        """Rows [start, stop) as a checkpoint of `info.dtype` would store them, which may round them once more."""
        values = self.read(start, stop)
        return packed(Entry(self.info.name, self.info.dtype, values.shape), values).data.reshape(stop - start, -1)

    def _read_part(self, part: StoredPart, first: int, last: int) -> U8:
        return read_part(self.stored[part.name], part, first, last)


def read_part(tensor: StoredTensor, part: StoredPart, first: int, last: int) -> U8:
    """The bytes of indices [first, last) of a part's axis, of all of it where it has none; `tensor` is where it is."""
    if part.axis is None:
        return tensor.source.read(tensor.offset, tensor.offset + tensor.info.nbytes)
    if part.axis == 0 and part.shape[:1] == tensor.info.shape[:1] == (tensor.info.rows,):
        return tensor.read_packed(first, last).reshape(-1)  # whose rows may lie in another order
    width = prod(part.shape[part.axis + 1 :]) * part.itemsize  # of one index
    step = part.shape[part.axis] * width
    lines = prod(part.shape[: part.axis])
    if lines == 1:
        return tensor.source.read(tensor.offset + first * width, tensor.offset + last * width)
    out = np.empty((lines, (last - first) * width), np.uint8)
    # Short lines are read whole, many at once: a call costs more than the bytes that are not wanted.
    together = max(CHUNK_BYTES // step, 1) if step <= LINE_BYTES else 1
    before, after = (0, step) if together > 1 else (first * width, last * width)
    for line in range(0, lines, together):
        count = min(together, lines - line)
        begin = tensor.offset + line * step
        raw = tensor.source.read(begin + before, begin + (count - 1) * step + after)
        out[line : line + count] = raw.reshape(count, -1)[:, first * width - before : last * width - before]
    return out.reshape(-1)


@record
class QuantizedCheckpoint:
    """A checkpoint folder whose quantized modules read as plain weights. See `quantkit.source.Checkpoint`.

    `config` has no `quantization_config` any more, and files that say the same are out of sight. `infos` are the
    tensors as others see them; a weight that is stored quantized says how in `stored_as`. `quantization` is what the
    checkpoint says of it.
    """

    folder: FolderCheckpoint
    modules: Mapping[str, StoredModule]
    stacks: Mapping[str, Stack]
    infos: Mapping[str, TensorInfo]
    config: Mapping[str, Any]
    quantization: Mapping[str, Any]
    name: str
    repo: str | None
    commit: str | None
    kind: str = "hf"
    metadata: tuple[KeyValue, ...] = ()

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.infos

    def ref(self, name: str) -> TensorRef:
        module = self.modules.get(name)
        if name in self.stacks:
            return DequantizedStack(self.infos[name], self.stacks[name], self.folder.stored)
        if module is None:
            return self.folder.ref(name)
        return DequantizedTensor(self.infos[name], module, self.folder.stored)

    def files(self) -> tuple[SourceFile, ...]:
        return self.folder.files()

    def file_names(self) -> tuple[str, ...]:
        return tuple(name for name in self.folder.file_names() if name not in SIDE_CONFIGS)

    def read_file(self, name: str) -> bytes | None:
        if name == CONFIG:
            return (dump_json(self.config, indent=2, carried=True) + "\n").encode()
        return None if name in SIDE_CONFIGS else self.folder.read_file(name)

    def carried(self) -> tuple[str, ...]:
        return tuple(name for name in self.folder.carried() if name not in SIDE_CONFIGS)

    def unchanged(self) -> None:
        self.folder.unchanged()

    def input_scale(self, weight: str) -> F32 | None:
        """The static scale of the inputs of a module, by its weight's name; None where there is none."""
        if weight in self.stacks:
            return None
        module = self.modules[weight].name
        for name in (f"{module}.input_scale", f"{module}.activation_scale"):
            if name in self.folder.stored and self.folder.tensors()[name].dtype in FLOAT_DTYPES:
                return self.folder.stored[name].read(0, 1)
        return None

    def close(self) -> None:
        self.folder.close()


def seen_plain(folder: FolderCheckpoint, quantization: Mapping[str, Any]) -> QuantizedCheckpoint:
    """A checkpoint with plain weights in place of those that `quantization` is about."""
    tensors = folder.tensors()

    def read(name: str) -> PackedTensor:
        info, stored = tensors[name], folder.stored[name]
        return PackedTensor(
            Entry(name, info.dtype, info.shape), stored.source.read(stored.offset, stored.offset + info.nbytes)
        )

    found = stored_modules(quantization, tensors, read)
    turned = turned_in(folder.config, (module.weight for module in found.modules.values()))
    modules = {m.weight: m.turned() if m.name in turned else m for m in found.modules.values()}
    owners = {part.name: module for module in modules.values() for part in module.outline.parts}
    dtype = _dtype(folder.config)
    stacks, beside = stacks_of(tensors)
    infos: dict[str, TensorInfo] = {}
    for name in tensors:
        module = owners.get(name)
        if name in stacks:
            info = tensors[name]
            infos[name] = TensorInfo(name, dtype, info.shape, info.nbytes, stacks[name].module.summary, stored_bits=8)
        elif module is not None:
            infos.setdefault(module.weight, _info(module.weight, dtype, module, tensors))
        elif name not in found.hidden and name not in beside:
            infos[name] = tensors[name]
    return QuantizedCheckpoint(
        folder=folder,
        modules=modules,
        stacks=stacks,
        infos=infos,
        config=_plain_config(folder.config),
        quantization=quantization,
        name=folder.name,
        repo=folder.repo,
        commit=folder.commit,
    )


def _info(weight: str, dtype: str, module: StoredModule, tensors: Mapping[str, TensorInfo]) -> TensorInfo:
    nbytes = sum(tensors[part.name].nbytes for part in module.outline.parts)
    shape = module.outline.turned or (module.outline.rows, module.outline.cols)
    return TensorInfo(weight, dtype, shape, nbytes, module.summary, module.bits, coded=coded_as(module.outline))


def _dtype(config: Mapping[str, Any]) -> str:
    """The type in which the model computes, as a safetensors name; BF16 where config.json does not say."""
    text = config.get("text_config")
    for section in (text if isinstance(text, Mapping) else {}, config):
        for key in ("dtype", "torch_dtype"):
            name = str(section.get(key)).removeprefix("torch.")
            if name in DTYPES:
                return DTYPES[name]
    return "BF16"


def _plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as the model without its quantization would have it."""
    plain = {key: value for key, value in config.items() if key not in CONFIG_KEYS}
    if isinstance(text := plain.get("text_config"), Mapping):
        plain["text_config"] = {key: value for key, value in text.items() if key not in CONFIG_KEYS}
    return plain
