"""Parts of a target that are not plain runs of source rows: every so many rows, moved matrices, mapped values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import lcm, prod

import numpy as np

from quantkit.errors import InputError
from quantkit.families.model import Part, Rows
from quantkit.families.steps import Step, move
from quantkit.records import record
from quantkit.tensors import F32, TensorRef

MAPS = frozenset({"-exp", "unit", "softplus", "centered", "ternary"})  # of values, without a number
LEAST_SCALE = 1e-5  # of a matrix of three values (BitNet)
SHORTEST = 1e-12  # torch.nn.functional.normalize divides by no less

Open = Callable[[str], TensorRef]


@record
class Every:
    """Rows start, start + step, .. below `stop` of the source tensor called `tensor`."""

    tensor: str
    start: int
    stop: int
    step: int

    @property
    def rows(self) -> int:
        return len(range(self.start, self.stop, self.step))

    @property
    def source(self) -> None:
        return None

    @property
    def sources(self) -> tuple[Rows, ...]:
        return (Rows(self.tensor, self.start, self.stop),)

    @property
    def unit(self) -> int:
        return 1

    @property
    def identity(self) -> tuple[object, ...]:
        return self.tensor, self.start, self.stop, self.step

    def read(self, ref: Open, start: int, stop: int) -> F32:
        """Rows [start, stop) of these, float32. Reads the rows between as well."""
        first, last = self.start + start * self.step, self.start + (stop - 1) * self.step + 1
        return ref(self.tensor).read(first, last)[:: self.step]


@record
class _Made:
    """So many rows, `cols` wide, of which nothing stands in the checkpoint."""

    rows: int
    cols: int

    @property
    def source(self) -> None:
        return None

    @property
    def sources(self) -> tuple[Rows, ...]:
        return ()

    @property
    def unit(self) -> int:
        return 1

    @property
    def identity(self) -> tuple[object, ...]:
        return type(self).__name__, self.rows, self.cols


class Zeros(_Made):
    """Rows of zeros: where an engine wants a tensor that the checkpoint need not have."""

    def read(self, ref: Open, start: int, stop: int) -> F32:
        """Rows [start, stop), float32."""
        return np.zeros((stop - start, self.cols), np.float32)


class Waves(_Made):
    """Positions as Whisper has them: row p holds sin(p * f), then cos(p * f), of cols / 2 frequencies f.

    They fall evenly by ratio from 1 to 1 / 10000. Rounded to float32 where transformers does
    (SinusoidsPositionEmbedding).
    """

    def read(self, ref: Open, start: int, stop: int) -> F32:
        """Rows [start, stop), float32."""
        half = self.cols // 2
        step = -np.float32(np.log(10000) / (half - 1))
        frequencies = np.exp((step * np.arange(half, dtype=np.float32)).astype(np.float64)).astype(np.float32)
        angles = (np.arange(start, stop, dtype=np.float32)[:, None] * frequencies).astype(np.float64)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


@record
class Folded:
    """A batch norm of fixed statistics as one vector: what inputs are multiplied by, with `shift` what is added then.

    `norm` is the name of its tensors in the source, up to "weight", "bias", "running_mean" and "running_var"; it has
    `rows` channels.
    """

    norm: str
    rows: int
    shift: bool
    epsilon: float = 1e-5

    @property
    def source(self) -> None:
        return None

    @property
    def sources(self) -> tuple[Rows, ...]:
        names = ("weight", "running_var", "bias", "running_mean") if self.shift else ("weight", "running_var")
        return tuple(Rows(f"{self.norm}{name}", 0, self.rows) for name in names)

    @property
    def unit(self) -> int:
        return 1

    @property
    def identity(self) -> tuple[object, ...]:
        return "folded", self.norm, self.rows, self.shift, self.epsilon

    def read(self, ref: Open, start: int, stop: int) -> F32:
        """Rows [start, stop), float32."""
        weight, var = (ref(f"{self.norm}{name}").read(start, stop) for name in ("weight", "running_var"))
        scale: F32 = weight / np.sqrt(var + np.float32(self.epsilon))
        if not self.shift:
            return scale
        bias, mean = (ref(f"{self.norm}{name}").read(start, stop) for name in ("bias", "running_mean"))
        return np.asarray(bias - mean * scale, np.float32)


@record
class Made:
    """A matrix of the source (`region`, seen in `shape`) after steps that move its elements: `after` in shape.

    The steps are those of quantkit.families.layouts. It is read as a whole for any of its rows.
    """

    region: Rows
    shape: tuple[int, ...]
    steps: tuple[Step, ...]
    after: tuple[int, ...]

    @property
    def tensor(self) -> str:
        return self.region.tensor

    @property
    def rows(self) -> int:
        return prod(self.after[:-1]) if len(self.after) > 1 else self.after[0]

    @property
    def source(self) -> None:
        return None

    @property
    def sources(self) -> tuple[Rows, ...]:
        return (self.region,)

    @property
    def unit(self) -> int:
        return self.rows

    @property
    def identity(self) -> tuple[object, ...]:
        return (*self.region.identity, self.shape, self.steps)

    def read(self, ref: Open, start: int, stop: int) -> F32:
        """Rows [start, stop) of the moved matrix, float32 (stop - start, cols)."""
        whole = ref(self.tensor).read(self.region.start, self.region.stop).reshape(self.shape)
        cols = self.after[-1] if len(self.after) > 1 else 1
        return np.ascontiguousarray(move(whole, self.steps).reshape(self.rows, cols)[start:stop])


def columns_of(part: Part) -> Rows | None:
    """The columns of source rows that a part is, as the matrices of stacks that lie turned are; None for others."""
    if not isinstance(part, Made) or len(part.shape) != 2 or part.steps[0][0] != "turn":
        return None
    columns = range(part.shape[1])
    for name, numbers in part.steps[1:]:
        if name == "rows":
            columns = columns[slice(*numbers)]
        elif name == "every":
            columns = columns[slice(numbers[0], None, numbers[1])]
        else:
            return None
    return replace(part.region, columns=columns)


@record
class Summed:
    """The values of several parts of one shape, added in their order. In float32."""

    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        return self.parts[0].rows

    @property
    def source(self) -> None:
        return None

    @property
    def sources(self) -> tuple[Rows, ...]:
        return tuple(rows for part in self.parts for rows in part.sources)

    @property
    def unit(self) -> int:
        return lcm(*(part.unit for part in self.parts))

    @property
    def identity(self) -> tuple[object, ...]:
        return ("summed", *(part.identity for part in self.parts))

    def read(self, ref: Open, start: int, stop: int) -> F32:
        """Rows [start, stop), float32."""
        first, *others = (part.read(ref, start, stop) for part in self.parts)
        for other in others:
            first = first + other
        return first


@record
class Mapped:
    """The values of another part, each changed: "-exp" (x becomes -exp(x)), "unit" (each row divided by its length),
    "softplus" (log(1 + exp(x))), "centered" (without the mean of all), "ternary" (minus, zero or plus the mean of all
    magnitudes, whichever is nearest), or "*" by `number`; or "<": as they are, each from 0 on and below `number`. In
    float32."""

    part: Part
    what: str
    number: float = 1.0

    @property
    def rows(self) -> int:
        return self.part.rows

    @property
    def source(self) -> None:
        return None

    @property
    def sources(self) -> tuple[Rows, ...]:
        return self.part.sources

    @property
    def unit(self) -> int:
        return self.part.unit

    @property
    def identity(self) -> tuple[object, ...]:
        return (*self.part.identity, self.what, self.number)

    def read(self, ref: Open, start: int, stop: int) -> F32:
        """Rows [start, stop), float32. Raises InputError for a value that is not below `number`, where it has to be."""
        values = self.part.read(ref, start, stop)
        if self.what == "<":
            self._require_below(values)
            return values
        if self.what == "-exp":
            return -np.exp(values.astype(np.float64)).astype(np.float32)
        if self.what == "unit":
            length = np.sqrt(np.square(values, dtype=np.float64).sum(axis=1, keepdims=True))
            unit: F32 = (values / np.maximum(length, SHORTEST)).astype(np.float32)
            return unit
        if self.what == "softplus":
            return np.logaddexp(0, values.astype(np.float64)).astype(np.float32)
        if self.what == "centered":
            return values - np.float32(self.part.read(ref, 0, self.rows).mean(dtype=np.float64))
        if self.what == "ternary":
            mean = np.abs(self.part.read(ref, 0, self.rows)).mean(dtype=np.float64)
            inverse = np.float32(1) / np.float32(max(mean, LEAST_SCALE))
            rounded: F32 = np.clip(np.rint(values * inverse), -1, 1) / inverse
            return rounded
        assert self.what == "*", self.what
        return values * np.float32(self.number)

    def _require_below(self, values: F32) -> None:
        wrong = (values < 0) | (values >= self.number)
        if wrong.any():
            name = self.sources[0].tensor
            what = f'tensor "{name}" holds {values[wrong][0]:.0f}, expected numbers from 0 to {self.number - 1:.0f}'
            raise InputError(what, tensor=name, hint="config.json and the weights are not of the same model")
