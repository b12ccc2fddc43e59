"""A checkpoint seen through its family: the tensors of the target, and where their rows come from.

This is the seam between `families` (which knows architectures) and `plan` (which knows types, bytes and offsets).
Nothing here has read a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from math import lcm, prod
from typing import Literal, Protocol

import numpy as np

from quantkit.families.cache import Cache
from quantkit.families.roles import Role
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.tensors import F32, TensorRef


class Part(Protocol):
    """Some rows of a weight. Rows that are computed from others are one more class."""

    @property
    def rows(self) -> int: ...

    @property
    def source(self) -> Rows | None:
        """The rows of a source tensor that this part is, as they are stored; None for rows that are made."""
        ...

    @property
    def sources(self) -> tuple[Rows, ...]:
        """The rows of source tensors that it is made of, whatever is done to them; () for constants."""
        ...

    @property
    def unit(self) -> int:
        """How many of its rows come out of one reading: 1 where they are independent."""
        ...

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells it from any other part, as JSON can write it."""
        ...

    def read(self, ref: Callable[[str], TensorRef], start: int, stop: int) -> F32:
        """Rows [start, stop) of this part, float32 (stop - start, cols); `ref` opens a source tensor by name.

        Raises InputError when the source is shorter than its header said.
        """
        ...


@record
class Rows:
    """Rows [start, stop) of the source tensor called `tensor`; or, of these rows, `columns` as rows."""

    tensor: str
    start: int
    stop: int
    columns: range | None = None

    @property
    def rows(self) -> int:
        return self.stop - self.start if self.columns is None else len(self.columns)

    @property
    def source(self) -> Rows | None:
        return self if self.columns is None else None

    @property
    def sources(self) -> tuple[Rows, ...]:
        return (Rows(self.tensor, self.start, self.stop),)

    @property
    def unit(self) -> int:
        return 1 if self.columns is None else self.rows

    @property
    def identity(self) -> tuple[object, ...]:
        columns = () if self.columns is None else (self.columns.start, self.columns.stop, self.columns.step)
        return self.tensor, self.start, self.stop, *columns

    def read(self, ref: Callable[[str], TensorRef], start: int, stop: int) -> F32:
        if self.columns is None:
            return ref(self.tensor).read(self.start + start, self.start + stop)
        wanted = self.columns[start:stop]
        matrix = ref(self.tensor).read(self.start, self.stop)
        return np.ascontiguousarray(matrix[:, wanted.start : wanted.stop : wanted.step].T)


@record
class Constant:
    """Rows that come from the configuration, not from the checkpoint (rope factors): float32 (rows, cols)."""

    data: tuple[float, ...]
    cols: int = 1

    @property
    def rows(self) -> int:
        return len(self.data) // self.cols

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
        return self.data, self.cols

    def values(self) -> F32:
        return np.array(self.data, dtype=np.float32).reshape(-1, self.cols)

    def read(self, ref: Callable[[str], TensorRef], start: int, stop: int) -> F32:
        return self.values()[start:stop]


@record
class RowOrder:
    """A permutation inside every unit of len(`order`) rows: output row i of a unit is input row order[i].

    Rows are independent byte strings after packing, so this permutes packed bytes.
    """

    name: str
    order: tuple[int, ...]


@record
class ModelTensor:
    """A tensor of the target, before it is decided how it is stored: of a GGUF file, or a layer of a checkpoint.

    `shape` is in checkpoint order, e.g. (experts, out, in). `parts` give its rows in order. `add` is added to every
    value before rounding (1.0 for Gemma's norms). `stored` is the type the tensor has in the unquantized target
    ("f32" for norms, biases, routers; None: the recipe's default applies). `layer` is None outside blocks, `expert`
    the number of one expert's matrix. `limits` says that its values are limits of others, of which infinity is none.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    layer: int | None = None
    row_order: RowOrder | None = None
    add: float = 0.0
    stored: str | None = None
    expert: int | None = None
    limits: bool = False

    @property
    def cols(self) -> int:
        """Weights of a row; a vector of n is n rows of one column, as in quantkit.tensors."""
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def rows(self) -> int:
        return prod(self.shape) // max(self.cols, 1)

    @property
    def unit(self) -> int:
        """Rows that are read or ordered together: slabs are cut between such units."""
        return lcm(len(self.row_order.order) if self.row_order else 1, max(part.unit for part in self.parts))


@record
class Shape:
    """The numbers of an architecture that recipes and size estimates need. `cache` is what its layers keep of tokens,
    None where only these numbers tell; `besides` are numbers of a token between two blocks besides the hidden state. Of
    a model in cycles `passes` are those through layers, and `held` numbers of a token that calibration holds;
    `decoding` are layers of a decoder that come after the others, which are those of an encoder then."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int = 0
    experts_used: int = 0
    vocab: int = 0
    context: int = 0
    cache: Cache | None = None
    besides: int = 0
    passes: int = 0
    held: int = 0
    decoding: int = 0

    @property
    def blocks(self) -> int:
        """The blocks that text goes through."""
        return self.layers + self.decoding

    @property
    def row(self) -> int:
        """Numbers of a token between two blocks."""
        return self.hidden + self.besides

    @property
    def walked(self) -> int:
        """Numbers of a token that calibration holds between two blocks."""
        return self.held or self.row

    @property
    def steps(self) -> int:
        """How many layers a text goes through, some of them more than once."""
        return self.passes or self.blocks


@record
class Model:
    """Everything a plan needs to know of a checkpoint.

    `architecture` is the source's name ("LlamaForCausalLM"), `gguf_architecture` the target's ("llama").
    `metadata` is complete but for the type of the file, the quantization version and quantkit's own keys.
    `tokenizer_sha256` is the canonical tokenizer hash (see families.tokenizer); None where there is no tokenizer.
    `dropped` maps source tensors that are left out on purpose to the reason.

    Of a model whose tensors keep the names of the source, `head` is the output head's module where it has a matrix of
    its own, `stay` are matrices in blocks that are never rounded (routers, narrow projections, blocks after the last
    layer), `beside` names the parts of the checkpoint that the family leaves out, such as "vision_tower", and `unknown`
    are matrices inside blocks that no row of the family names: all of these are carried over. `before` says how many
    blocks text goes through before those of a further stack, by how its names begin: each stack counts from 0.

    `kind` says what its GGUF file is: a language model, or an encoder of images or sound that goes with one.
    """

    family: str
    architecture: str
    gguf_architecture: str
    shape: Shape
    tensors: tuple[ModelTensor, ...]
    metadata: tuple[KeyValue, ...] = ()
    tokenizer_sha256: str | None = None
    dropped: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[tuple[str, str], ...] = ()
    head: str | None = None
    stay: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    before: Mapping[str, int] = field(default_factory=dict)
    kind: Literal["model", "mmproj"] = "model"
