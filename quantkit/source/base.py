"""What a checkpoint is to the rest of quantkit, and how one stored tensor is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, Protocol

import numpy as np

from quantkit.errors import InputError, UnsupportedError
from quantkit.metadata import KeyValue
from quantkit.qtypes import base
from quantkit.records import record
from quantkit.tensors import COUNTED_DTYPES, DTYPE_BYTES, F32, FLOAT_DTYPES, MAX_WHOLE, U8, TensorInfo, TensorRef
from quantkit.untrusted import InputFile, shown

MAX_SIDE_FILE_BYTES = 256 << 20


@record
class SourceFile:
    """A file of the checkpoint. `path` is where it lies on this machine, `name` what the manifest calls it.

    `sha256` is the hash that the Hub publishes for it, None where that is unknown. `opened` is the file that tensors
    are read from.
    """

    name: str
    path: str
    nbytes: int
    weights: bool
    sha256: str | None = None
    opened: InputFile | None = field(default=None, compare=False, repr=False)


class Checkpoint(Protocol):
    """A validated checkpoint whose weights have not been read.

    `kind` is "hf", "gguf" or "memory". `name` is what a person would call it (folder or repository name), `commit`
    the resolved revision of a Hub repository. `config` is the parsed config.json ({} for GGUF), `metadata` the
    entries of a GGUF source (() for others).
    """

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def repo(self) -> str | None: ...

    @property
    def commit(self) -> str | None: ...

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def metadata(self) -> tuple[KeyValue, ...]: ...

    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def ref(self, name: str) -> TensorRef:
        """A tensor to read. Raises UnsupportedError, before anything is read, for a dtype that has no decoder."""
        ...

    def files(self) -> tuple[SourceFile, ...]: ...

    def file_names(self) -> tuple[str, ...]:
        """Names of all side files that `read_file` can answer."""
        ...

    def read_file(self, name: str) -> bytes | None:
        """The bytes of a side file such as tokenizer.json (at most 256 MB); None when the checkpoint has none."""
        ...

    def carried(self) -> tuple[str, ...]:
        """Names of all files besides weights that belong to the model and go along with it; `read_file` has them."""
        ...

    def unchanged(self) -> None:
        """Raise InputError if a source file changed since it was opened (device, inode, size, mtime)."""
        ...

    def close(self) -> None: ...


@record
class Over:
    """A checkpoint laid over another one, `base`: all is as there but what a class of it says itself."""

    base: Checkpoint

    @property
    def kind(self) -> str:
        return self.base.kind

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def repo(self) -> str | None:
        return self.base.repo

    @property
    def commit(self) -> str | None:
        return self.base.commit

    @property
    def config(self) -> Mapping[str, Any]:
        return self.base.config

    @property
    def metadata(self) -> tuple[KeyValue, ...]:
        return self.base.metadata

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.base.tensors()

    def ref(self, name: str) -> TensorRef:
        return self.base.ref(name)

    def files(self) -> tuple[SourceFile, ...]:
        return self.base.files()

    def file_names(self) -> tuple[str, ...]:
        return self.base.file_names()

    def read_file(self, name: str) -> bytes | None:
        return self.base.read_file(name)

    def carried(self) -> tuple[str, ...]:
        return self.base.carried()

    def unchanged(self) -> None:
        self.base.unchanged()

    def close(self) -> None:
        self.base.close()


def as_float32(info: TensorInfo) -> TensorInfo:
    """The tensor as weights are that a checkpoint over another one changes: not with that one's codes any more."""
    return replace(info, dtype="F32", nbytes=4 * info.elements, coded=None)


# What checkpoints in GGUF files have in common: methods of their classes.


class InShards(Protocol):
    """A checkpoint whose files are all open."""

    @property
    def shards(self) -> tuple[InputFile, ...]: ...


def no_side_files(self: object) -> tuple[str, ...]:
    """No names: there is nothing beside the weights."""
    return ()


def no_side_file(self: object, name: str) -> bytes | None:
    """None, whatever the name."""
    return None


def require_unchanged(self: InShards) -> None:
    """See `Checkpoint.unchanged`."""
    for shard in self.shards:
        shard.unchanged()


def close_shards(self: InShards) -> None:
    """Close all files."""
    for shard in self.shards:
        shard.close()


@record
class StoredTensor:
    """A tensor in a file: its bytes are `info.nbytes` from `offset`. Reading is safe from several threads."""

    info: TensorInfo
    source: InputFile
    offset: int

    @property
    def row_bytes(self) -> int:
        return self.info.nbytes // self.info.rows

    def read(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32, shape (stop - start, cols), decoded exactly."""
        raw = self.read_packed(start, stop)
        if self.info.dtype in COUNTED_DTYPES:
            return self._whole(raw)
        if self.info.dtype not in FLOAT_DTYPES:
            return base.get(self.info.dtype).decode(raw, self.info.cols)
        from quantkit.qtypes.floats import to_float32  # numba: only once weights are read

        out = np.empty((stop - start, self.info.cols), np.float32)
        to_float32(raw.reshape(-1), self.info.dtype, out)
        return out

    def _whole(self, raw: U8) -> F32:
        """Whole numbers. Raises InputError for one that float32 does not have."""
        numbers = raw.view(COUNTED_DTYPES[self.info.dtype])
        wrong = (numbers > MAX_WHOLE) | (numbers < -MAX_WHOLE)
        if wrong.any():
            what = f'tensor "{self.info.name}" holds {numbers[wrong][0]:,}, no number of a table'
            raise InputError(what, tensor=self.info.name, hint="the checkpoint is damaged: fetch it again")
        return numbers.astype(np.float32)

    def read_packed(self, start: int, stop: int) -> U8:
        """Rows [start, stop) as they are stored: uint8 (stop - start, row_bytes)."""
        assert 0 <= start <= stop <= self.info.rows, (self.info.name, start, stop)
        first = self.offset + start * self.row_bytes
        return self.source.read(first, first + (stop - start) * self.row_bytes).reshape(stop - start, self.row_bytes)


def require_weights(info: TensorInfo, path: str) -> None:
    """Raise InputError for a tensor without elements: no model has one, and nothing later expects it."""
    if info.elements == 0:
        what = f'{shown(path)}: zero-size tensor "{info.name}" of shape {info.shape}'
        raise InputError(what, path=path, tensor=info.name, hint="the checkpoint was saved wrongly: fetch it again")


def require_decodable(info: TensorInfo, quantization: str | None) -> None:
    """Raise UnsupportedError unless rows of this tensor can become float32, or it is a list of whole numbers or
    flags.

    `quantization` names how the checkpoint says it is quantized, for the hint.
    """
    if info.dtype in FLOAT_DTYPES or (base.is_known(info.dtype) and len(info.shape) > 1):
        return
    if info.dtype in COUNTED_DTYPES:  # no weight: a list, a table or a mask
        return
    if quantization is not None:
        hint = f"the checkpoint is already quantized ({shown(quantization)}): start from the original one"
    elif info.dtype in DTYPE_BYTES and not info.dtype.startswith("F8"):
        hint = "save the checkpoint in bfloat16"
    else:
        hint = "start from a checkpoint in BF16, F16 or F32"
    what = f'tensor "{info.name}" of shape {info.shape} is stored as {info.dtype}'
    raise UnsupportedError(
        f"{what}; weights are read from F32, F16, BF16 and quantkit's types", tensor=info.name, hint=hint
    )


def require_runnable(checkpoint: Checkpoint) -> None:
    """Raise UnsupportedError for a container whose model cannot be run here."""
    if checkpoint.kind not in {"hf", "memory"}:
        hint = "give the Hugging Face checkpoint that it was made from, or make it: quantkit convert FILE --to hf-bf16"
        raise UnsupportedError(f"calibration does not run {checkpoint.kind} files: {checkpoint.name}", hint=hint)
