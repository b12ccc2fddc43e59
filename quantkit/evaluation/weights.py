"""Are the weights of a side the reference's, as far as their types can say? Asked while both pass by, a block each.

Of a matrix in memory a sketch is kept, its product with random signs (Johnson and Lindenstrauss; Achlioptas 2003): of
each row WIDTH numbers whose squared distance is, on average, that of the rows. It costs as much as WIDTH tokens and a
hundredth of the memory, and tells rows in the wrong place from rows that are rounded, whatever text shows of them.

    error of a row      |w - w'|^2 / |w|^2     rounding to 4 bits leaves about 0.01, zeros 1, another row 2
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from quantkit.calibration.walk.resident import Resident
from quantkit.calibration.walk.threads import Workers
from quantkit.calibration.walk.weights import held_by
from quantkit.evaluation.memory import Memory
from quantkit.evaluation.scores import WeightError
from quantkit.evaluation.sides import ChangedCheckpoint
from quantkit.qtypes import base
from quantkit.quality.decoded import DecodedCheckpoint
from quantkit.quality.made_gguf import REFIT_FLOOR_DB
from quantkit.quality.tensor_errors import floor_of_bits
from quantkit.source import Checkpoint
from quantkit.tensors import FLOAT_DTYPES
from quantkit.units import counted

WIDTH = 32
PART = 4096  # rows that are multiplied at once
ROW, TENSOR = 0.5, 0.7  # errors above which no type of two bits or more leaves a row, a tensor
FEW_BITS = 2.2  # types below leave so much that rows tell nothing
FACTOR, LEAST = 6.0, 0.02  # of a tensor's peers, and below which an error is no matter
PEERS = 4
PLAIN_FLOOR = 1e-4  # of floats that were stored as floats: 40 dB
FLAT = 0.1  # rows shorter than this share of the median count as so long


@dataclass
class Sketch:
    """Matrices of one side, or a piece of them, by the names in memory: float32 (rows, WIDTH) each, with the tensors
    of the checkpoint that they are from; and the vectors as they are, (n, 1)."""

    rows: dict[str, Tensor] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, tensor: str, matrix: Tensor, workers: Workers) -> None:
        self.rows[name] = sketched(matrix, workers)
        self.tensors[name] = tensor


def held(memory: Memory, values: Tensor) -> Tensor:
    """The same values where a memory has room for them."""
    raw = values.contiguous().view(torch.uint8).reshape(-1)
    place = torch.from_numpy(memory.room.new(raw.numel()))
    place.copy_(raw)
    return place.view(values.dtype).reshape(values.shape)


def signs(cols: int) -> Tensor:
    """Random signs over the root of WIDTH, float32 (cols, WIDTH): always the same."""
    drawn = np.random.default_rng(cols).integers(0, 2, (cols, WIDTH)).astype(np.float32) * 2 - 1
    return torch.from_numpy(drawn / np.float32(WIDTH**0.5))


def sketched(matrix: Tensor, workers: Workers) -> Tensor:
    """The sketch of a matrix, float32 (rows, WIDTH), the same for any number of threads; of a vector itself (n, 1)."""
    if matrix.ndim < 2:
        return matrix.reshape(-1, 1).float().clone()
    table = signs(matrix.shape[-1])
    flat = matrix.reshape(-1, matrix.shape[-1])
    parts = workers.map(lambda at: flat[at : at + PART].float() @ table, range(0, len(flat), PART))
    return torch.cat(parts)


def sketch_block(resident: Resident, checkpoint: Checkpoint, workers: Workers) -> Sketch:
    """All parameters of a block that are in memory; of the head the norm, whose matrix never is."""
    found, held = Sketch(), held_by(checkpoint)
    for path, value in resident.module.named_parameters():
        name = resident.prefix + path
        if not value.is_meta and (resident.prefix or value.ndim == 1):
            found.add(name, resident.source(name, held).tensor, value.detach(), workers)
    return found


def row_errors(reference: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances and lengths of rows, float64 (rows,)."""
    difference = (reference.double() - other.double()).square().sum(1)
    return difference, reference.double().square().sum(1)


class Compared:
    """What came of comparing the weights of one side with the reference's, tensor by tensor."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._rows: dict[str, list[tuple[Tensor, Tensor, bool]]] = defaultdict(list)
        self._tensors: dict[str, str] = {}

    def take(self, reference: Sketch, other: Sketch) -> None:
        """Compare what both have; pieces of one matrix may come one after the other."""
        for name, rows in reference.rows.items():
            tensor = self._tensors[name] = other.tensors[name]
            vector = rows.shape[1] == 1
            add = added(self._checkpoint, tensor) if vector else 0.0
            self._rows[name].append((*row_errors(rows + add, other.rows[name] + add), vector))

    def found(self, moved: bool | None) -> tuple[WeightError, ...] | None:
        """All tensors, in the order in which they came, with what is wrong with those that are out of line.

        None where scales were `moved`; where nobody says whether they were (None), vectors that differ do.
        """
        plain = [self._error(name) for name in self._rows]
        if moved is None:
            vectors = {name for name, parts in self._rows.items() if parts[0][2]}
            moved = any(error.relative > PLAIN_FLOOR for error in plain if error.tensor in vectors)
        if moved:
            return None
        by_type: dict[str, list[float]] = defaultdict(list)
        for error in plain:
            if error.relative > 0:
                by_type[error.type].append(error.relative)
        usual = {kind: float(np.median(errors)) for kind, errors in by_type.items() if len(errors) >= PEERS}
        return tuple(_against_peers(error, usual.get(error.type)) for error in plain)

    def _error(self, name: str) -> WeightError:
        parts, vector = self._rows[name], self._rows[name][0][2]
        distance, length = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        kind, limit, few = stored_as(self._checkpoint, self._tensors[name])
        total = float(length.sum())
        relative = float(distance.sum()) / total if total else float(distance.sum() > 0)
        wrong = "" if relative <= limit else f"its error is {relative:.2g}, {kind} leaves at most {limit:.2g}"
        off = 0
        if not few and not vector:
            typical = torch.clamp(length, min=FLAT * float(length.median()))
            errors = torch.where(typical > 0, distance / typical, (distance > 0).double())
            off = int((errors > max(ROW, FACTOR * float(errors.median()))).sum())
        if off and not wrong:
            wrong = f"{off:,} of {counted(len(length), 'row')} are others"
        return WeightError(name, kind, relative, off, wrong)


def _against_peers(error: WeightError, usual: float | None) -> WeightError:
    if error.wrong or usual is None or error.relative <= max(FACTOR * usual, LEAST):
        return error
    wrong = f"its error is {error.relative:.2g}, that of others in {error.type} {usual:.2g}"
    return WeightError(error.tensor, error.type, error.relative, error.rows_off, wrong)


def stored_as(checkpoint: Checkpoint, tensor: str) -> tuple[str, float, bool]:
    """How a side stores a tensor: in one word, the largest error that leaves, and whether it has too few bits to tell
    rows by."""
    if isinstance(checkpoint, ChangedCheckpoint):
        return ("changed", TENSOR, False) if tensor in checkpoint.changed else stored_as(checkpoint.source, tensor)
    if isinstance(checkpoint, DecodedCheckpoint):
        qtype = base.get(checkpoint.stored_type(tensor))
        if checkpoint.moves(tensor):
            return "f32, refitted", 10 ** (-REFIT_FLOOR_DB / 10), False
        if qtype.name.upper() in FLOAT_DTYPES:
            return qtype.name, PLAIN_FLOOR, False
        few = qtype.bits_per_weight < FEW_BITS
        return qtype.name, 1.0 if few else min(10 ** (-qtype.floor_db / 10), TENSOR), few
    info = checkpoint.tensors().get(tensor)
    if info is None or info.stored_as is None:
        return "float", PLAIN_FLOOR, False
    bits = float(info.stored_bits or 4)
    return info.stored_as, min(10 ** (-floor_of_bits(bits) / 10), TENSOR), bits < FEW_BITS


def added(checkpoint: Checkpoint, tensor: str) -> float:
    """What a side's file adds to the values of a vector: what is stored is compared."""
    if isinstance(checkpoint, ChangedCheckpoint):
        return 0.0 if tensor in checkpoint.changed else added(checkpoint.source, tensor)
    return checkpoint.added(tensor) if isinstance(checkpoint, DecodedCheckpoint) else 0.0


def take_all(compared: Sequence[Compared], sketches: Sequence[Sketch]) -> None:
    """Compare each of `sketches` but the first with the first."""
    for one, sketch in zip(compared, sketches[1:], strict=True):
        one.take(sketches[0], sketch)
