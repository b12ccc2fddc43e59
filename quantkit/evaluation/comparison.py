"""Two models tensor by tensor: what only one has, types, shapes, stored bytes, and how far decoded values are apart.

Two GGUF files, and two checkpoints in safetensors however quantized, are compared under their own names: weights as
they are decoded, with factors beside them worked in, and scales of activations as tensors of their own. A GGUF file
and a checkpoint are compared under the names of the checkpoint, decoded and put back where they came from as
`quality.decoded` does, with the checkpoint as the file was made of it (`source.evened`); tensors of the file that the
checkpoint's family does not know stay under theirs.

Weights are read in slabs of rows, a tensor per thread: memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from math import inf, isfinite
from typing import Any

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.evaluation.artifacts import stored_tensors
from quantkit.families.factors import factor_of
from quantkit.formats.containers.stored import NOT_WEIGHTS
from quantkit.formats.gguf.reader import read_gguf
from quantkit.machine import worker_pool
from quantkit.plan.describe import describe_source
from quantkit.quality.decoded import DecodedCheckpoint, factors_in
from quantkit.quality.made_gguf import is_fed_back
from quantkit.quality.tensor_errors import TensorError, compare
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.base import StoredTensor
from quantkit.source.factored import FactoredCheckpoint, factored
from quantkit.source.gguf import GGUFCheckpoint
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.tensors import TensorInfo, TensorRef
from quantkit.untrusted import open_input

SLAB_WEIGHTS = 1 << 20  # read of a tensor at once: 4 MB of float32 of each model
PIECE_BYTES = 4 << 20


@record
class Sided:
    """A tensor of one of the models: as it is stored, its values where they can be decoded, and its stored bytes where
    the other model may have the same ones (None: it stores them otherwise)."""

    info: TensorInfo
    ref: TensorRef | None
    parts: tuple[StoredTensor, ...] | None

    @property
    def type(self) -> str:
        return (self.info.stored_as or self.info.dtype).lower()


@record
class Difference:
    """A tensor that both have. `same_bytes` is None where the two store it in ways that share no bytes; `error` is
    None where values cannot be compared: other shapes, a type without a decoder, or nothing to measure, for the bytes
    are the same."""

    name: str
    a: Sided
    b: Sided
    same_bytes: bool | None
    error: TensorError | None

    @property
    def equal(self) -> bool:
        """Stored in the same type and shape, with the same bytes, or where those say nothing with the same values."""
        alike = self.a.type == self.b.type and self.a.info.shape == self.b.info.shape
        return alike and (self.same_bytes or (self.same_bytes is None and self.relative == 0))

    @property
    def relative(self) -> float | None:
        """The squared distance of a from b relative to the squared length of b: 0 for equal values."""
        if self.same_bytes:
            return 0.0
        if self.error is None or not isfinite(self.error.noise) or not isfinite(self.error.signal):
            return None
        if self.error.noise == 0:
            return 0.0
        return self.error.noise / self.error.signal if self.error.signal else inf

    def as_json(self) -> dict[str, Any]:
        relative, error = self.relative, self.error
        return {
            "name": self.name,
            "a": _stored_json(self.a),
            "b": _stored_json(self.b),
            "same_bytes": self.same_bytes,
            "relative_error": relative if relative is not None and isfinite(relative) else None,
            "largest": error.largest if error is not None and isfinite(error.largest) else None,
        }


def _stored_json(side: Sided) -> dict[str, Any]:
    return {"type": side.type, "shape": list(side.info.shape), "bytes": side.info.nbytes}


@record
class Pairs:
    """The tensors of two models by name: those of both, and those of one alone as they are stored there."""

    both: Mapping[str, tuple[Sided, Sided]]
    only_a: tuple[TensorInfo, ...]
    only_b: tuple[TensorInfo, ...]


@contextmanager
def paired(a: Checkpoint, b: Checkpoint, pre: str | None = None, threads: int | None = None) -> Iterator[Pairs]:
    """The tensors of two models beside each other, readable while the context is.

    Raises UnsupportedError and InputError where a GGUF file stands beside a checkpoint that no family describes.
    """
    if (a.kind == "gguf") == (b.kind == "gguf"):
        yield _under_own_names(a, b)
    elif isinstance(a, GGUFCheckpoint):
        with closing(_decoded(a, b, pre)) as decoded:
            yield _under_names_of(decoded.as_made(threads), decoded, a)
    else:
        assert isinstance(b, GGUFCheckpoint)
        with closing(_decoded(b, a, pre)) as decoded:
            turned = _under_names_of(decoded.as_made(threads), decoded, b)
            yield Pairs({n: (y, x) for n, (x, y) in turned.both.items()}, turned.only_b, turned.only_a)


def _under_own_names(a: Checkpoint, b: Checkpoint) -> Pairs:
    one, two = (_with_factors(each) for each in (a, b))
    here, there = ({info.name: info for info in (*stored_tensors(each), *_beside(each))} for each in (one, two))
    both = {}
    for name in (name for name in here if name in there):
        parts = [_parts(each, name) for each in (one, two)]
        alike = _laid_out(parts[0], one, name) == _laid_out(parts[1], two, name)
        sides = [
            Sided(info[name], _values(each, name), found if alike else None)
            for info, each, found in zip((here, there), (one, two), parts, strict=True)
        ]
        both[name] = (sides[0], sides[1])
    only_a = tuple(info for name, info in here.items() if name not in there)
    return Pairs(both, only_a, tuple(info for name, info in there.items() if name not in here))


def _with_factors(checkpoint: Checkpoint) -> Checkpoint:
    """A GGUF file whose weights are codes times factors, where it has some; scales of inputs stay tensors."""
    return replace(factored(checkpoint), dropped=()) if isinstance(checkpoint, GGUFCheckpoint) else checkpoint


def _beside(checkpoint: Checkpoint) -> Iterator[TensorInfo]:
    """Scales of activations that a quantized checkpoint has beside its weights: no weight is made of them."""
    if isinstance(checkpoint, QuantizedCheckpoint):
        known = checkpoint.tensors()
        stored = checkpoint.folder.tensors()
        yield from (info for name, info in stored.items() if name.endswith(NOT_WEIGHTS) and name not in known)


def _values(checkpoint: Checkpoint, name: str) -> TensorRef | None:
    try:
        return checkpoint.ref(name)
    except UnsupportedError:
        return None


def _parts(checkpoint: Checkpoint, name: str) -> tuple[StoredTensor, ...] | None:
    """The stored tensors that a tensor is made of; None where nothing of it is in a file of its own."""
    if isinstance(checkpoint, FactoredCheckpoint) and isinstance(checkpoint.base, GGUFCheckpoint):
        names = (name, factor_of(name) if name in checkpoint.factors else None)
        return tuple(checkpoint.base.stored[each] for each in names if each is not None)
    if isinstance(checkpoint, QuantizedCheckpoint) and name in checkpoint.modules:
        found = [checkpoint.folder.stored[part.name] for part in checkpoint.modules[name].outline.parts]
        return tuple(sorted(found, key=lambda each: each.info.name))
    if isinstance(checkpoint, QuantizedCheckpoint) and name.endswith(NOT_WEIGHTS):
        return (checkpoint.folder.stored[name],)
    ref = _values(checkpoint, name)
    return (ref,) if isinstance(ref, StoredTensor) else None


def _laid_out(parts: tuple[StoredTensor, ...] | None, checkpoint: Checkpoint, name: str) -> list[tuple[object, ...]]:
    """What has to be alike for bytes to be: names within the module, types and sizes."""
    quantized = isinstance(checkpoint, QuantizedCheckpoint) and name in checkpoint.modules
    module = name.removesuffix(".weight") if quantized else name
    return [(p.info.name.removeprefix(module), p.info.dtype, p.info.shape, p.info.nbytes) for p in parts or ()]


def _decoded(gguf: GGUFCheckpoint, other: Checkpoint, pre: str | None) -> DecodedCheckpoint:
    """The weights of a GGUF file in the places of a checkpoint: of what both have in the same shape."""
    model = describe_source(other, pre)
    shards = tuple(open_input(shard.path) for shard in gguf.shards)
    stored = {tensor.name: (shard, tensor) for shard in shards for tensor in read_gguf(shard.path).tensors}
    fitting = tuple(t for t in model.tensors if t.name in stored and stored[t.name][1].shape == t.shape)
    model = replace(model, tensors=fitting)
    fed_back = is_fed_back(gguf.metadata)
    return DecodedCheckpoint(other, model, shards, stored, factors_in(stored, model), fed_back=fed_back)


def _under_names_of(plain: Checkpoint, decoded: DecodedCheckpoint, gguf: GGUFCheckpoint) -> Pairs:
    """(GGUF, checkpoint) for each tensor that came from the checkpoint; both may hold others."""
    there = {info.name: info for info in stored_tensors(plain)}
    known = {name: info for name, info in decoded.tensors().items() if decoded.holds(name)}
    both = {}
    for name, info in known.items():
        size = sum(decoded.stored[piece.target.name][1].nbytes for piece in decoded.restored(name).pieces)
        here = replace(info, dtype=decoded.stored_type(name), nbytes=size)
        both[name] = (Sided(here, decoded.ref(name), None), Sided(there[name], _values(plain, name), None))
    used = {target.name for target in decoded.model.tensors} | {factor_of(name) for name in decoded.factors}
    only_gguf = tuple(info for name, info in gguf.tensors().items() if name not in used)
    return Pairs(both, only_gguf, tuple(info for name, info in there.items() if name not in known))


def differences(pairs: Pairs, threads: int, beat: Callable[[str, int], None]) -> list[Difference]:
    """Every tensor of both compared, in their order; `beat(name, weights)` is called after each.

    The same for any number of threads. Raises InputError for a file that changed or got shorter.
    """
    with worker_pool(threads) as pool:
        return list(pool.map(partial(_difference, beat=beat), pairs.both, *zip(*pairs.both.values(), strict=True)))


def _difference(name: str, a: Sided, b: Sided, beat: Callable[[str, int], None]) -> Difference:
    same: bool | None = None
    if a.parts is not None and b.parts is not None and len(a.parts) == len(b.parts):
        same = all(_same_bytes(one, two) for one, two in zip(a.parts, b.parts, strict=True))
    error = None
    if not same and a.info.shape == b.info.shape and a.ref is not None and b.ref is not None:
        error = _error(name, a, b)
    beat(name, b.info.elements)
    return Difference(name, a, b, same, error)


def _same_bytes(one: StoredTensor, two: StoredTensor) -> bool:
    for at in range(0, one.info.nbytes, PIECE_BYTES):
        stop = min(at + PIECE_BYTES, one.info.nbytes)
        here = one.source.read(one.offset + at, one.offset + stop)
        if not np.array_equal(here, two.source.read(two.offset + at, two.offset + stop)):
            return False
    return True


def _error(name: str, a: Sided, b: Sided) -> TensorError:
    assert a.ref is not None
    assert b.ref is not None
    found = TensorError(name, a.type, 0, 0.0, 0.0, 0.0)
    step = max(SLAB_WEIGHTS // max(b.info.cols, 1), 1)
    for start in range(0, b.info.rows, step):
        stop = min(start + step, b.info.rows)
        with np.errstate(invalid="ignore", over="ignore"):  # of values that are no numbers the error is none
            found = found + compare(name, a.type, b.ref.read(start, stop), a.ref.read(start, stop))
    return found


def summed(found: Sequence[Difference]) -> list[dict[str, Any]]:
    """By the types of a and b: how many tensors, how many of them equal, and the relative error of all together."""
    groups: dict[tuple[str, str], list[Difference]] = {}
    for each in found:
        groups.setdefault((each.a.type, each.b.type), []).append(each)
    out = []
    for (a, b), members in groups.items():
        errors = [each.error for each in members if each.error is not None]
        signal, noise = sum(e.signal for e in errors), sum(e.noise for e in errors)
        share = 0.0 if not noise else noise / signal if signal else inf
        equal = sum(each.equal for each in members)
        known = len(errors) + sum(each.same_bytes is True for each in members) == len(members) and isfinite(share)
        out.append(
            {"a": a, "b": b, "tensors": len(members), "equal": equal, "relative_error": share if known else None}
        )
    return sorted(out, key=lambda row: (-row["tensors"], row["a"], row["b"]))
