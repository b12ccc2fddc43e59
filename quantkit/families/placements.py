"""How the rows of a source tensor become rows of a target tensor, and the tensors that come from the configuration.

A place is a function (source tensor, numbers) -> Placement. Rows are independent, so none ever moves a value
within a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import numpy as np

from quantkit.errors import InputError
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.model import Constant, ModelTensor, Part, RowOrder, Rows
from quantkit.families.roles import Role
from quantkit.records import record
from quantkit.tensors import TensorInfo


@record
class Placement:
    """Where a source tensor's rows go: the shape of the whole target, and the parts that this source gives to it."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    row_order: RowOrder | None = None


Place = Callable[[TensorInfo, Hparams], Placement]


def whole(info: TensorInfo, hparams: Hparams) -> Placement:
    """All rows, in order."""
    return Placement(info.shape, (Rows(info.name, 0, info.rows),))


def rope_rows(info: TensorInfo, hparams: Hparams) -> Placement:
    """Rotation pairs side by side.

    Hugging Face rotates row j of a head with row j + head/2; llama.cpp's llama architecture rotates 2j with 2j + 1.
    """
    head = hparams.count("head")
    half = head // 2
    if head % 2:
        what = f"config.json: heads have {head} dimensions, rotation needs an even number"
        raise InputError(what, key="head_dim", path="config.json", hint=CONFIG_HINT)
    order = tuple(chain.from_iterable((j, half + j) for j in range(half)))
    return Placement(info.shape, whole(info, hparams).parts, RowOrder("rope", order))


def vocabulary(info: TensorInfo, hparams: Hparams) -> Placement:
    """The rows that have a token: those beyond the vocabulary are left out."""
    tokens = hparams.values.get("tokens", info.rows)
    rows = min(info.rows, tokens)
    return Placement((rows, info.cols), (Rows(info.name, 0, rows),))


def expert(info: TensorInfo, hparams: Hparams) -> Placement:
    """One expert's matrix, a slice of the stack (experts, out, in)."""
    return Placement((hparams.count("num_local_experts"), *info.shape), whole(info, hparams).parts)


def gate_half(info: TensorInfo, hparams: Hparams) -> Placement:
    """The first half of every expert's rows in a fused (experts, gate + up, in)."""
    return _half(info, 0)


def up_half(info: TensorInfo, hparams: Hparams) -> Placement:
    """The second half of every expert's rows in a fused (experts, gate + up, in)."""
    return _half(info, 1)


def _half(info: TensorInfo, which: int) -> Placement:
    experts, fused, cols = info.shape
    half = fused // 2
    starts = (number * fused + which * half for number in range(experts))
    return Placement((experts, half, cols), tuple(Rows(info.name, start, start + half) for start in starts))


def part_of_queries(info: TensorInfo, hparams: Hparams) -> Placement:
    """The first rows of queries, keys and values in one matrix."""
    return _range(info, 0, hparams.count("q_rows"))


def part_of_keys(info: TensorInfo, hparams: Hparams) -> Placement:
    """The rows of the keys in such a matrix."""
    start = hparams.count("q_rows")
    return _range(info, start, start + hparams.count("kv_rows"))


def part_of_values(info: TensorInfo, hparams: Hparams) -> Placement:
    """The last rows of such a matrix."""
    return _range(info, info.rows - hparams.count("kv_rows"), info.rows)


def rotated_part_of_queries(info: TensorInfo, hparams: Hparams) -> Placement:
    """The queries of such a matrix, with rotation pairs side by side."""
    return replace(part_of_queries(info, hparams), row_order=rope_rows(info, hparams).row_order)


def rotated_part_of_keys(info: TensorInfo, hparams: Hparams) -> Placement:
    """The keys of such a matrix, with rotation pairs side by side."""
    return replace(part_of_keys(info, hparams), row_order=rope_rows(info, hparams).row_order)


def first_half(info: TensorInfo, hparams: Hparams) -> Placement:
    """The first half of a matrix's rows."""
    return _range(info, 0, info.rows // 2)


def second_half(info: TensorInfo, hparams: Hparams) -> Placement:
    """The second half of a matrix's rows."""
    return _range(info, info.rows // 2, info.rows)


def _range(info: TensorInfo, start: int, stop: int) -> Placement:
    return Placement((stop - start, *info.shape[1:]), (Rows(info.name, start, stop),))


def grouped_queries(info: TensorInfo, hparams: Hparams) -> Placement:
    """The queries of a matrix in which each key-value head's queries, key and value follow each other, rotated."""
    return _grouped(info, hparams, "q", rope_rows(info, hparams).row_order)


def grouped_keys(info: TensorInfo, hparams: Hparams) -> Placement:
    """The keys of such a matrix, rotated."""
    return _grouped(info, hparams, "k", rope_rows(info, hparams).row_order)


def grouped_values(info: TensorInfo, hparams: Hparams) -> Placement:
    """The values of such a matrix."""
    return _grouped(info, hparams, "v", None)


def _grouped(info: TensorInfo, hparams: Hparams, which: str, order: RowOrder | None) -> Placement:
    head, groups = hparams.count("head"), hparams.count("num_key_value_heads")
    queries = hparams.count("num_attention_heads") // groups
    first, count = {"q": (0, queries), "k": (queries, 1), "v": (queries + 1, 1)}[which]
    starts = [(group * (queries + 2) + first) * head for group in range(groups)]
    parts = tuple(Rows(info.name, start, start + count * head) for start in starts)
    return Placement((groups * count * head, *info.shape[1:]), parts, order)


def rope_freqs(hparams: Hparams) -> tuple[ModelTensor, ...]:
    """Frequency factors (head / 2) of llama3 rope scaling; nothing for other kinds.

    Long wavelengths are stretched by `factor`, short ones kept, those between interpolated. Float32 in the order of
    the reference (`LlamaModel.generate_extra_tensors`), where torch divides a number by a tensor as reciprocal times
    number. Differs from it in the power, which is float64 rounded once and so the same on every machine: 6 of
    12,960 factors differ in the last two bits, none for the settings of a published Llama.
    """
    if str(hparams.values.get("rope_type")).lower() != "llama3":
        return ()
    dim = hparams.count("head")
    f32 = np.float32
    base, factor = hparams.required("rope_theta"), f32(_or(hparams, "rope_factor", 8.0))
    low, high = _or(hparams, "rope_low_freq_factor", 1.0), _or(hparams, "rope_high_freq_factor", 4.0)
    context = _or(hparams, "rope_original_context", 8192.0)
    if not (0 < low <= high and factor > 0 and base > 0 and context > 0):
        message = "config.json: llama3 rope scaling needs 0 < low_freq_factor <= high_freq_factor and a factor above 0"
        raise InputError(message, key="rope_parameters", path="config.json", hint=CONFIG_HINT)
    exponents = np.arange(0, dim, 2, dtype=f32) / f32(dim)
    frequencies = f32(1) / np.power(base, exponents.astype(np.float64)).astype(f32)
    wavelengths = (f32(1) / frequencies) * f32(2 * np.pi)
    with np.errstate(divide="ignore", invalid="ignore"):  # where nothing lies between, as in Llama 4
        smooth = ((f32(1) / wavelengths) * f32(context) - f32(low)) / f32(high - low)
        between = f32(1) / ((f32(1) - smooth) / factor + smooth)
    long, short = wavelengths > f32(context / low), wavelengths < f32(context / high)
    factors = np.where(short, f32(1), np.where(long, factor, between))
    return (constant("rope_freqs.weight", factors.tolist()),)


def longrope_factors(hparams: Hparams) -> tuple[ModelTensor, ...]:
    """Frequency factors (rope_dim / 2) for long and short contexts; nothing for a checkpoint without them."""
    if not hparams.values.get("rope_long_factor"):
        return ()
    return tuple(
        constant(f"rope_factors_{length}.weight", _factors(hparams, f"rope_{length}_factor"))
        for length in ("long", "short")
    )


def _factors(hparams: Hparams, key: str) -> list[float]:
    expected = hparams.count("rope_dim") // 2
    values = hparams.values.get(key)
    if not isinstance(values, list) or len(values) != expected or not all(isinstance(v, (int, float)) for v in values):
        found = f"{len(values)} values" if isinstance(values, list) else repr(values)[:80]
        message = f"config.json: {key.removeprefix('rope_')} has {found}, expected {expected} numbers"
        raise InputError(message, key=key.removeprefix("rope_"), path="config.json", hint=CONFIG_HINT)
    return [float(value) for value in values]


def _or(hparams: Hparams, key: str, default: float) -> float:
    value = hparams.number(key)
    return default if value is None else value


def constant(name: str, values: list[float]) -> ModelTensor:
    """A vector of numbers that come from the configuration, f32."""
    return ModelTensor(name, Role.ROPE, (len(values),), (Constant(tuple(values)),), stored="f32")
