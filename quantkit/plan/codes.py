"""Codes of the source that a GGUF file takes over bit for bit: published four-bit floats, MXFP4 and NVFP4.

What llama.cpp's converter does with them, whatever the type of the other tensors: rows keep their codes and scales, in
the order of the file. A factor of a whole matrix has a tensor of its own, NAME.scale, the static scale of its inputs
NAME.input_scale, where they are not 1; of a stack of experts they have a number each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from quantkit.families.factors import Graph
from quantkit.families.layouts import runs
from quantkit.families.model import Constant, ModelTensor, Part, Rows
from quantkit.families.parts import Every, Made
from quantkit.families.roles import Role
from quantkit.families.steps import KINDS, move
from quantkit.metadata import KeyValue
from quantkit.plan.base import PlannedTensor, Unit
from quantkit.plan.mixture import Choice
from quantkit.plan.reading import Slab
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tensors import U8, Coded, CodedRef, TensorInfo, TensorRef
from quantkit.units import counted
from quantkit.untrusted import listed

CARRIED = "carried over, lossless"
FLOATS = frozenset({"f32", "f16", "bf16"})
FILE_TYPES = {"nvfp4": 39, "mxfp4": 38}  # enum llama_ftype, where everything else is floats; the first that is there
WEIGHT = ".weight"
NEAR_ONE = 1e-6  # a factor that the converter leaves out


@record
class Codes:
    """The codes of a tensor are those of the type `qtype`; `parts` are its rows among those that are stored.

    With factors, `lost` says that the graph would not multiply by them, so that only decoded weights are right.
    """

    qtype: str
    parts: tuple[Part, ...]
    lost: bool = False


def codes_of(tensor: ModelTensor, sources: Mapping[str, TensorInfo], graph: Graph) -> Codes | None:
    """The codes of a tensor of a model that llama.cpp runs with `graph`.

    None where it is not coded throughout and alike, or its rows are no whole rows of what is stored.
    """
    if tensor.add or not tensor.name.endswith(WEIGHT):
        return None
    found: list[Part] = []
    types, factored = set(), False
    for part in tensor.parts:
        said = [sources[rows.tensor] for rows in part.sources]
        if len(said) != 1 or said[0].coded is None:
            return None
        moved = _stored_rows(part, said[0], said[0].coded)
        if moved is None:
            return None
        types.add(said[0].coded.qtype)
        factored = factored or said[0].coded.factored
        found += moved
    if len(types) != 1 or (factored and not _has_place(tensor)):
        return None
    return Codes(types.pop(), tuple(found), lost=factored and not graph.multiplies(tensor))


def _has_place(tensor: ModelTensor) -> bool:
    """Whether a factor for each matrix of the source has a place in the graph: those of matrices, and of experts."""
    sources = {rows.tensor for part in tensor.parts for rows in part.sources}
    return len(sources) == 1 if len(tensor.shape) == 2 else len(sources) == tensor.shape[0]


def _stored_rows(part: Part, info: TensorInfo, coded: Coded) -> tuple[Part, ...] | None:
    """The rows of a part among those that are stored; None where they are others."""
    if isinstance(part, Rows | Every):
        return None if coded.turned else (part,)
    if not isinstance(part, Made) or not coded.turned:
        return None
    height, width = info.shape[-2:]
    (first, _), *rest = part.steps
    whole = part.shape == (height, width) and part.region.start % height == 0
    if first != "turn" or not whole or not all(KINDS[name].whole_rows for name, _ in rest):
        return None
    start = part.region.start // height * width
    numbers = move(np.arange(start, start + width, dtype=np.int64).reshape(-1, 1), tuple(rest))
    return runs(info.name, numbers.reshape(-1))


def carried(choice: Choice, codes: Codes | None, *, decode: bool) -> tuple[Choice, tuple[Part, ...]]:
    """What becomes of a tensor with these codes, and where its stored rows lie if they are carried over.

    They are where the recipe wants their type, and where it wants floats and no option names the tensor; unless
    everything is to be `decode`d, which floats then are, or a factor would be lost.
    """
    if codes is None or codes.lost:
        return choice, ()
    if choice.qtype == codes.qtype:
        return replace(choice, reason=CARRIED, free=False), codes.parts
    if choice.qtype in FLOATS and not decode and not choice.reason.startswith("--"):
        return Choice(codes.qtype, CARRIED), codes.parts
    return choice, ()


def read_codes(checkpoint: Checkpoint, parts: Sequence[Part], slab: Slab) -> U8:
    """The stored rows of a slab before row order, uint8 (rows, row bytes)."""
    pieces = []
    first = 0
    for part in parts:
        low, high = max(slab.start, first), min(slab.stop, first + part.rows)
        if low < high:
            pieces.append(part.read(_rows_of(checkpoint), low - first, high - first))
        first += part.rows
    found: U8 = (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).view(np.uint8)
    return np.ascontiguousarray(found)


@record
class _CodedRows:
    """The rows of a tensor as they are stored, behind the reading of parts, which looks at no value."""

    ref: CodedRef

    @property
    def info(self) -> TensorInfo:
        return self.ref.info

    def read(self, start: int, stop: int) -> U8:
        return self.ref.read_coded(start, stop)


def _rows_of(checkpoint: Checkpoint) -> Callable[[str], TensorRef]:
    return lambda name: _CodedRows(_coded(checkpoint, name))  # type: ignore[return-value]  # bytes, not numbers


def _coded(checkpoint: Checkpoint, name: str) -> CodedRef:
    ref = checkpoint.ref(name)
    assert isinstance(ref, CodedRef), name
    return ref


def with_factors(drafts: Sequence[Unit], checkpoint: Checkpoint) -> list[Unit]:
    """The tensors, and those of the factors of what is carried over. Reads them: some bytes for each matrix."""
    found: list[Unit] = []
    infos = checkpoint.tensors()
    for draft in drafts:
        found.append(draft)
        sources = list(dict.fromkeys(rows.tensor for part in draft.codes for rows in part.sources))
        if not any((coded := infos[name].coded) and coded.factored for name in sources):
            continue
        factors = [_coded(checkpoint, name).factors() for name in sources]
        for suffix, values in zip((".scale", ".input_scale"), zip(*factors, strict=True), strict=True):
            if not np.allclose(values, 1.0, rtol=0 if len(values) == 1 else 1e-5, atol=NEAR_ONE):
                found.append(_factors(draft.tensor, suffix, values))
    return found


def _factors(tensor: ModelTensor, suffix: str, values: Sequence[float]) -> Unit:
    made = ModelTensor(
        tensor.name.removesuffix(WEIGHT) + suffix,
        Role.OTHER,
        (len(values),),
        (Constant(tuple(values)),),
        tensor.layer,
        stored="f32",
    )
    nbytes = 4 * len(values)
    output = PlannedTensor(made.name, "f32", made.shape, nbytes)
    return Unit(made, "f32", (output,), nbytes, reason="factors of what is carried over", source_bytes=nbytes)


def file_type(units: Sequence[Unit], otherwise: int, default: str) -> int:
    """The type of a file by number: of floats with codes of the source among them, as the converter says it."""
    words = {unit.word for unit in units if unit.codes}
    return next((n for name, n in FILE_TYPES.items() if name in words and default in FLOATS), otherwise)


def keys(units: Sequence[Unit], sources: Mapping[str, TensorInfo]) -> list[KeyValue]:
    """What the file says of codes that are carried over: whose inputs are not to be rounded to four bits."""

    def wide(unit: Unit) -> bool:
        coded = (sources[rows.tensor].coded for part in unit.codes for rows in part.sources)
        return any(said is not None and said.wide for said in coded)

    names = tuple(sorted(unit.name for unit in units if unit.codes and wide(unit)))
    if not names:
        return []
    return [
        KeyValue("general.tensor_extra.name", "string", names, array=True),
        KeyValue("general.tensor_extra.prec_a4", "bool", (False,) * len(names), array=True),
    ]


def notes(units: Sequence[Unit], sources: Mapping[str, TensorInfo], graph: Graph) -> list[tuple[str, str]]:
    """What is carried over, and what is not since the graph of the architecture would lose its factor."""
    found = []
    kept = [unit for unit in units if unit.codes]
    if kept:
        words = " and ".join(sorted({unit.word.upper() for unit in kept}))
        weights = sum(prod(unit.tensor.shape) for unit in kept)
        many = f"{counted(len(kept), 'tensor')} ({weights:,} weights) {'is' if len(kept) == 1 else 'are'}"
        what = f"{many} carried over, lossless: codes and scales of {words}"
        found.append(("carried", f"{what} are those of the source; --allow-requantize decodes them"))
    others = [u for u in units if not u.codes and (codes := codes_of(u.tensor, sources, graph)) and codes.lost]
    if others:
        many = counted(len(others), "tensor", "is", "are")
        what = f"{many} decoded, since llama.cpp's graph of {graph.architecture} ignores the factors of"
        found.append(("decoded", f"{what} {listed([unit.name for unit in others], 2)}"))
    return found
