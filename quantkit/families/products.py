"""Two vectors of a checkpoint that a target holds as one: their product, number by number."""

from __future__ import annotations

from quantkit.families.hparams import Hparams
from quantkit.families.model import Rows
from quantkit.families.parts import Open
from quantkit.families.placements import Place, Placement
from quantkit.records import record
from quantkit.tensors import F32, TensorInfo


@record
class Product:
    """The vector `first` of `rows` numbers times the only row of the matrix `second`, in float32."""

    first: str
    second: str
    rows: int

    @property
    def source(self) -> None:
        return None

    @property
    def sources(self) -> tuple[Rows, ...]:
        return Rows(self.first, 0, self.rows), Rows(self.second, 0, 1)

    @property
    def unit(self) -> int:
        return 1

    @property
    def identity(self) -> tuple[object, ...]:
        return "product", self.first, self.second, self.rows

    def read(self, ref: Open, start: int, stop: int) -> F32:
        """Rows [start, stop), float32."""
        return ref(self.first).read(start, stop) * ref(self.second).read(0, 1).reshape(-1, 1)[start:stop]


def times(end: str, other: str) -> Place:
    """A vector times the row of the matrix whose name ends in `other` where its own ends in `end`."""

    def place(info: TensorInfo, hparams: Hparams) -> Placement:
        return Placement(info.shape, (Product(info.name, info.name.removesuffix(end) + other, info.rows),))

    return place


def factor(info: TensorInfo, hparams: Hparams) -> Placement:
    """Nothing of its own: the row of the other tensor of a product."""
    return Placement((info.cols,), ())
