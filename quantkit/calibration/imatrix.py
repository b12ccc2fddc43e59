"""Statistics as an importance matrix that llama-quantize reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantkit.calibration.statistics.sums import Statistics
from quantkit.errors import InputError
from quantkit.families.model import Model, ModelTensor, Rows
from quantkit.families.roles import Role
from quantkit.formats.gguf.imatrix import Entry, Imatrix


def to_imatrix(statistics: Statistics, model: Model, file: str = "imatrix.gguf") -> Imatrix:
    """The sums of squares of every matrix of the target that a linear of the model stands for.

    An expert stack has one row and count per expert, others one for all, as llama-imatrix collects them; the
    embedding is a lookup and has none. Names are the target's. A chunk is a window of the data; data of different
    window lengths counts as chunks of the longest. Raises InputError when nothing matches: another model.
    """
    by_tensor: dict[str, list[tuple[Rows, str]]] = {}
    for linear in statistics.linears.values():
        by_tensor.setdefault(linear.source.tensor, []).append((linear.source, linear.name))
    entries: dict[str, Entry] = {}
    for tensor in model.tensors:
        if tensor.layer is None and tensor.role is not Role.OUTPUT:
            continue
        names = _linears(tensor, by_tensor)
        if names:
            entries[tensor.name] = _entry(statistics, names)
    if not entries:
        message = "no tensor of the model is among the statistics"
        raise InputError(message, hint="calibrate the checkpoint that is to be quantized")
    records = statistics.data.values()
    chunk = max((record.seqlen for record in records), default=0)
    tokens = sum(record.tokens for record in records)
    return Imatrix(
        file=file,
        entries=dict(sorted(entries.items())),
        chunks=-(-tokens // chunk) if chunk else 0,
        chunk_size=chunk,
        datasets=tuple(sorted({record.name for record in records})),
        sha256="",
    )


def _linears(tensor: ModelTensor, by_tensor: dict[str, list[tuple[Rows, str]]]) -> tuple[str, ...]:
    """The linears whose rows a target tensor is made of, in the order of its rows."""
    found: dict[str, None] = {}
    for part in tensor.parts:
        source = part.source
        if source is None:  # moved: of a stack that lies as (experts, in, out), gate and up read the same
            held = by_tensor.get(part.sources[0].tensor, ()) if part.sources else ()
            name = next((name for rows, name in held if rows.source is None and rows.sources == part.sources), None)
            if name is None:
                return ()
            found[name] = None
            continue
        for rows, name in by_tensor.get(source.tensor, ()):
            if rows.columns is None and rows.start <= source.start and source.stop <= rows.stop:
                found[name] = None
    return tuple(found)


def _entry(statistics: Statistics, names: Sequence[str]) -> Entry:
    sums = [statistics.moments(name) for name in names]
    squares = np.stack([one.squares.numpy() for one in sums]).astype(np.float32)
    return Entry(squares, np.array([one.tokens for one in sums], np.int64))
