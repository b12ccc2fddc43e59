"""What will happen to a model, to the byte: one plan for every container, made of units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from quantkit.families.linears import source_of
from quantkit.families.model import ModelTensor, Part, Rows, Shape
from quantkit.formats.containers.packed import Entry
from quantkit.metadata import KeyValue
from quantkit.recipes.recipe import GGUF, MethodChoice
from quantkit.records import record
from quantkit.tensors import F32

if TYPE_CHECKING:
    from quantkit.formats.containers.base import WriteLayout

# How files are filled: slabs of rows on all cores, whole layers on all cores, or block by block with inputs.
Way = Literal["slabs", "layers", "blocks"]

# How that is filled which neither layers nor blocks round: copied, or rounded in slabs of rows.
Rest = Literal["copies", "slabs"]


@record
class PlannedFile:
    """One file of the artifact: its name, encoded header (all metadata and tensor infos, padded) and exact size."""

    name: str
    header: bytes
    nbytes: int


@record
class PlannedTensor:
    """A tensor of the artifact's files. `dtype` is the name of its type in the container ("q4_k", "I32"), `offset` is
    absolute in file number `file`, `nbytes` excludes padding."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: int = 0
    offset: int = 0

    @property
    def entry(self) -> Entry:
        """What the header of a safetensors file says of it."""
        return Entry(self.name, self.dtype, self.shape)


@record
class Unit:
    """One weight of the artifact: where its rows come from, how it is stored, and the tensors that it becomes.

    `word` is how it is stored in one word: a type, or what its layout says of itself. `layout` is that of a weight that
    layers or blocks round as a whole, None where `word` says all. `copy` says that the source's numbers are taken over:
    its bytes, at most as another float type. Without either, and without parts, it is a scale that inputs decide.
    `grid` is the type of a source whose grid and zeros are to be kept ("BF16"), "" where the encoder alone decides.
    `codes` are where its rows lie among those that the source stores as the type `word`, to be carried over.

    `code_bytes` hold codes, or floats. `reason` says which rule chose, `wanted` is what the recipe asked for where rows
    do not fit it; `free` that a recipe's rules chose the type, or a budget, and no option. `importance` are weights of
    its columns, float32 (experts, cols).
    """

    tensor: ModelTensor
    word: str
    outputs: tuple[PlannedTensor, ...]
    code_bytes: int
    layout: WriteLayout | None = None
    copy: bool = False
    codes: tuple[Part, ...] = ()
    grid: str = ""
    reason: str = ""
    wanted: str | None = None
    free: bool = False
    source_bytes: int = 0
    importance: F32 | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.outputs)

    @property
    def source(self) -> Rows:
        """The rows of the one source tensor that it is made of."""
        return source_of(self.tensor)


@record
class Plan:
    """What will happen, to the byte. What a container does not have is empty.

    `digest` is the SHA-256 over everything that decides the output bytes: types, layouts, offsets, header bytes,
    importance data, inputs and the numerics version. Equal digests and equal source hashes mean equal artifacts.
    `core` is that over what decides the tensors alone, which files of checkpoints can name. `files` are those with
    weights, then everything else.

    `metadata` is that of a GGUF file. `inputs` stands for the text or statistics that it is made with, "" without any,
    also where it `needs_inputs`; text is `widened` by random tokens where nothing but codes is stored of what is seen.
    `evens` says that columns far apart in length are evened before they are rounded, `refits` are norms whose values
    may move when all else is rounded, where text shows that it helps.
    `linears` are the linear layers of the blocks, rounded or not, `plain` names those that stay as they are and the
    head. `served_as` is the architecture by the name that consumers look for, `model_type` that of a
    checkpoint's config.json. `details` are what the manifest says of
    the model besides its family. `allocation` is what it says of types that were chosen for a budget. `kind` is that of
    `families.model.Model`.
    """

    recipe: str
    container: str
    way: Way
    family: str
    architecture: str
    shape: Shape
    units: tuple[Unit, ...]
    files: tuple[PlannedFile, ...]
    source_bytes: int
    digest: str
    warnings: tuple[tuple[str, str], ...] = ()
    rest: Rest = "copies"
    widened: bool = False
    metadata: tuple[KeyValue, ...] = ()
    tokenizer_sha256: str | None = None
    core: str = ""
    method: MethodChoice | None = None
    needs_inputs: bool = False
    inputs: str = ""
    evens: bool = False
    refits: tuple[str, ...] = ()
    linears: tuple[ModelTensor, ...] = ()
    plain: tuple[str, ...] = ()
    kv_cache: bool = False
    served_as: str = ""
    model_type: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    allocation: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["model", "mmproj"] = "model"

    def __repr__(self) -> str:
        what = f"{self.container}, {len(self.tensors)} tensors, {self.nbytes:,} bytes, digest {self.digest[:12]}"
        return f"Plan({self.recipe!r}, {what})"

    @property
    def is_checkpoint(self) -> bool:
        """Whether it makes a folder, and not GGUF files."""
        return self.container != GGUF

    @property
    def nbytes(self) -> int:
        return sum(f.nbytes for f in self.files)

    @property
    def is_encoder(self) -> bool:
        """Whether it is the file of an encoder that goes with a language model's."""
        return self.kind == "mmproj"

    @property
    def calibrated(self) -> bool:
        """Whether it is made with text or statistics, block by block."""
        return bool(self.inputs)

    @cached_property
    def tensors(self) -> tuple[PlannedTensor, ...]:
        """The tensors of all files, in their order."""
        return tuple(tensor for unit in self.units for tensor in unit.outputs)

    @cached_property
    def by_name(self) -> Mapping[str, PlannedTensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def rounded(self) -> tuple[Unit, ...]:
        """The weights that layers or blocks round: those of a checkpoint, what feedback rounds in a GGUF file."""
        return tuple(unit for unit in self.units if unit.layout is not None)


@record
class PlanOptions:
    """What a run wants besides the recipe.

    `stem` names GGUF files without ".gguf"; by default the checkpoint's name and the recipe's title. `split_bytes`
    bounds the bytes of one GGUF file, `shard_bytes` those of one shard of a checkpoint. `tensorrt` says that
    TensorRT-LLM reads a checkpoint, too. `allow_requantize` permits decoding and rounding weights that are quantized
    already. With `card` a model card is written beside a checkpoint, whose README.md then is no file of the source.
    """

    stem: str | None = None
    split_bytes: int | None = None
    shard_bytes: int = 5_000_000_000
    tensorrt: bool = False
    allow_requantize: bool = False
    card: bool = False


STANDARD = PlanOptions()
