"""What a container is: how a linear layer is stored, what a checkpoint says of it, and how both are read again.

A container is one file of this package that defines CONTAINER. A `Layout` is its settings for a layer: which tensors
the layer becomes, and what is in them. Every container keeps codes, scales and zero points apart and packs them along
its own axis. To read, for any of these tensors a row of the weight takes a fixed share of an axis: all of an index
(codes of int8), several (groups of blocks that run over the flat weight), or a part of one (packed zero points).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cached_property
from math import gcd, prod
from typing import Any, Protocol

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers.packed import SCALES, WORD_BITS, Entry, PackedTensor, Tensors
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.schemes.base import Quantized, ScaleDtype, Scheme, Traits
from quantkit.records import record
from quantkit.tensors import DTYPE_BYTES, U8, TensorInfo
from quantkit.untrusted import shown

EXPERTS = ".experts."
# A module of a block: its place from the list of blocks on, and its name inside the block.
IN_BLOCK = re.compile(r"(?:^|\.)(?P<place>(?:layers|h|blocks|(?:encoder|transformer)\.layer)\.\d+\.(?P<inside>.*))")


class ReadLayout(Protocol):
    """How a layer is stored: `scheme` says what its codes are, `traits` what tables, engines and checks ask.

    unpack(name, tensors) -> codes and grid of the layer so called; raises InputError for damaged tensors.
    """

    @property
    def scheme(self) -> Scheme: ...

    @property
    def traits(self) -> Traits: ...

    def unpack(self, module: str, tensors: Tensors) -> Quantized: ...


class WriteLayout(ReadLayout, Protocol):
    """How a layer is written, too.

    entries(name, rows, cols) -> the tensors of the layer so called; raises UnsupportedError for what its readers do
    not take. pack(name, quantized, input_peak) -> the same, filled; `input_peak` is the largest magnitude of the
    layer's inputs, for layouts with static activations.
    """

    def entries(self, module: str, rows: int, cols: int) -> tuple[Entry, ...]: ...

    def pack(self, module: str, quantized: Quantized, input_peak: float | None = None) -> tuple[PackedTensor, ...]: ...


class SaidLayout(Protocol):
    """What a configuration says of a layer: with its headers that tells its tensors, and its exact layout."""

    def outline(self, headers: Headers) -> StoredOutline:
        """The tensors of a layer. Raises InputError for one that is missing or does not fit, UnsupportedError."""
        ...


class Layout(WriteLayout, SaidLayout, Protocol):
    """How a layer of a checkpoint is stored. Equal layouts are stored alike."""


LayoutOf = Callable[[str], SaidLayout]  # of the module so called; raises for one that no setting is about


@record
class Written:
    """What a checkpoint holds, for its configuration.

    `layouts` maps the names of rounded modules to their layouts; `plain` names the linear layers that stay as they are,
    the head among them. `block` names the rounded linears of a block, relative to it, in groups that read the same
    input, in the order of a forward pass. `beside` names parts of the model that are no part of the language model,
    such as "vision_tower" or "thinker.visual". `writer` is "name:version". `damping` is what GPTQ begins with.
    `tensorrt` says that TensorRT-LLM reads it, too.
    """

    layouts: Mapping[str, WriteLayout]
    plain: tuple[str, ...]
    block: tuple[tuple[str, ...], ...]
    writer: str
    kv_cache: bool = False
    beside: tuple[str, ...] = ()
    damping: float = 0.01
    tensorrt: bool = False

    @cached_property
    def alike(self) -> Mapping[str, WriteLayout | None]:
        """The modules of experts that are all stored alike, and how; None where they stay as they are."""
        found: dict[str, set[WriteLayout | None]] = {}
        for name, layout in (*((name, None) for name in self.plain), *self.layouts.items()):
            if of := experts_of(name):
                found.setdefault(of, set()).add(layout)
        return {of: layouts.pop() for of, layouts in found.items() if len(layouts) == 1}

    @property
    def plain_experts(self) -> tuple[str, ...]:
        """The modules of experts that stay as they are, all of a block: vLLM runs each of these as one layer, which it
        asks for by this name."""
        return tuple(of for of, layout in self.alike.items() if layout is None)

    @property
    def keeps_experts(self) -> bool:
        """Whether there are experts, and all of the model stay as they are."""
        return bool(self.plain_experts) and not any(EXPERTS in name for name in self.layouts)

    def place(self, module: str) -> str | None:
        """A layer's name from the list of blocks on, where loaders need it: in the model around a language model blocks
        lie elsewhere in memory than in the files, and from loader to loader. Of experts that are all stored alike it is
        that of their module. None where that would mean a rounded layer of another stack, too."""
        of = experts_of(module)
        name = of if of in self.alike else module
        found = IN_BLOCK.search(name) if self.beside else None
        return found["place"] if found and self._rounded[found["place"]] == (module in self.layouts) else None

    @cached_property
    def _rounded(self) -> Counter[str]:
        """How many rounded layers, and modules of such experts, have a place."""
        names = dict.fromkeys((*self.layouts, *filter(None, map(experts_of, self.layouts))))
        return Counter(found["place"] for name in names if (found := IN_BLOCK.search(name)))

    @property
    def skipped(self) -> tuple[str, ...]:
        """What stays as it is, for loaders that compare names from their beginning or to their end: the model around a
        language model has the other parts below "model." in memory, and the blocks elsewhere, whatever the checkpoint's
        names are."""
        experts, beside = self.plain_experts, map(_below_model, self.beside)
        return tuple(dict.fromkeys((*self.plain, *self.places, *experts, *self.beside, *beside)))

    @property
    def places(self) -> tuple[str, ...]:
        """The places of layers that stay as they are, where they have one."""
        return tuple(dict.fromkeys(filter(None, map(self.place, self.plain))))


def experts_of(module: str) -> str:
    """The module of the experts that a layer is of, or that it is itself; "" for any other."""
    stem, between, _ = f"{module}.".partition(EXPERTS)
    return f"{stem}{between}".removesuffix(".") if between else ""


def _below_model(part: str) -> str:
    """Where a part is in memory: below "model.", which the thinker of a Qwen Omni has of its own."""
    outer, dot, inner = part.rpartition(".")
    return f"{outer}{dot}model.{inner}"


def nothing(written: Written) -> dict[str, dict[str, Any]]:
    """`config` or `sides` of a container that has none."""
    return {}


def section(config: Callable[[Written], dict[str, Any]]) -> Callable[[Written], dict[str, dict[str, Any]]]:
    """`config` of a container whose words are the quantization_config."""
    return lambda written: {"quantization_config": config(written)}


def beside(config: Callable[[Written], dict[str, Any]]) -> Callable[[Written], dict[str, dict[str, Any]]]:
    """`sides` of a container that says the same in a file of its own."""
    return lambda written: {"quantize_config.json": config(written)}


@record
class Writing:
    """How a container is written.

    `types` and `activations` are what recipes may ask for; choose(weights, dtype) gives the layout of such weights in
    a model of `dtype`. config(written) are sections of config.json by their keys, sides(written) further JSON files
    by name. `mixed` says that layers may have several layouts.
    """

    types: tuple[str, ...]
    choose: Callable[[Weights, ScaleDtype], Layout]
    config: Callable[[Written], Mapping[str, Mapping[str, Any]]]
    sides: Callable[[Written], Mapping[str, Mapping[str, Any]]] = nothing
    activations: tuple[str, ...] = ("none",)
    mixed: bool = False


@record
class Reading:
    """How a container is read. layouts(said) gives the layout of each module from what `declared` found.

    `components` are the names below a module of what it is made of; longer ones come first where one ends another.
    They come after `joint`: where that is no dot, the module is itself a tensor of a plain checkpoint. `besides` are
    those that mean something else in modules whose weight is no code.
    The rest tells a container whose configuration does not name it: by keys that only its writers use (`telling`),
    else by those that others use as well (`vague`); and where there is no configuration at all, by ends of names of
    tensors and what it would have said of them (`unsaid`), or who wrote them and what helps (`untold`).
    """

    layouts: Callable[[Mapping[str, Any]], LayoutOf]
    components: tuple[str, ...]
    besides: tuple[str, ...] = ()
    telling: tuple[str, ...] = ()
    vague: tuple[str, ...] = ()
    unsaid: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    untold: tuple[tuple[str, str, str], ...] = ()
    joint: str = "."

    def weight(self, module: str) -> str:
        """The name of a module's weight in a plain checkpoint."""
        return f"{module}.weight" if self.joint == "." else module


@record
class Container:
    """One container; `name` is also what its configuration calls it. Some are only written, some only read."""

    name: str
    writing: Writing | None = None
    reading: Reading | None = None


def same_everywhere(written: Written, name: str) -> WriteLayout:
    """The layout of all layers. Raises UnsupportedError where there are several."""
    first, *others = dict.fromkeys(written.layouts.values())
    if others:
        raise UnsupportedError(
            f"{name} checkpoints have the same bits and groups in every layer, this one would have {len(others) + 1}",
            hint='use container = "compressed-tensors", which has groups of layers',
            key="rule",
        )
    return first


def codes_in_words(bits: int) -> int:
    """Codes of `bits` bits that fill a whole number of 32-bit words."""
    return WORD_BITS // gcd(bits, WORD_BITS)


# Reading


WHOLE = Fraction(1)
DAMAGED = "the checkpoint does not match its quantization_config: fetch it again"


@record
class StoredPart:
    """A tensor of a module: `shape` is what its reader expects, of as many elements as are stored.

    Rows [start, stop) of the weight take indices floor(start * per_row) to ceil(stop * per_row) of `axis`; without
    one, every row takes all of it. `restated(raw, rows)` changes what it says of the number of rows.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: int | None = None
    per_row: Fraction = WHOLE
    restated: Callable[[U8, int], U8] | None = None

    @property
    def itemsize(self) -> int:
        return DTYPE_BYTES[self.dtype]


@record
class StoredOutline:
    """The exact layout of a weight, which tensors may tell and a configuration not, its shape and its tensors.

    `tile` rows share a scale whose index is rounded down. `turned` is the shape of a plain weight whose matrices are
    stored turned: (count, cols, rows of one) of a stack, (cols, rows) of one by itself.
    """

    layout: ReadLayout
    rows: int
    cols: int
    parts: tuple[StoredPart, ...]
    tile: int = 1
    turned: tuple[int, ...] | None = None


@record
class Headers:
    """What headers say of the tensors of one module. `read` reads a whole tensor, for those of some bytes.

    `indexed` says that modules of the checkpoint have a `g_idx`, so that each must. `joint` stands between the names of
    the module and of its tensors.
    """

    module: str
    tensors: Mapping[str, TensorInfo]
    read: Callable[[str], PackedTensor]
    indexed: bool = False
    joint: str = "."

    def has(self, suffix: str) -> bool:
        return f"{self.module}{self.joint}{suffix}" in self.tensors

    def info(self, suffix: str, dtypes: tuple[str, ...], dims: int | None = None) -> TensorInfo:
        """The tensor so called. Raises InputError where there is none, or of another type or number of axes."""
        name = f"{self.module}{self.joint}{suffix}"
        if name not in self.tensors:
            what = f'there is no tensor "{shown(name)}", and "{shown(self.module)}" is quantized'
            raise InputError(what, tensor=name, hint=DAMAGED)
        found = self.tensors[name]
        if found.dtype not in dtypes:
            what = f'tensor "{shown(name)}" is stored as {found.dtype}, expected {" or ".join(dtypes)}'
            raise InputError(what, tensor=name, hint=DAMAGED)
        if dims is not None and len(found.shape) != dims:
            raise self.wrong(found, f"{dims} {'axes' if dims > 1 else 'axis'}")
        return found

    def wrong(self, found: TensorInfo, expected: str) -> InputError:
        what = f'tensor "{shown(found.name)}" has the shape {list(found.shape)}, expected {expected}'
        return InputError(what, tensor=found.name, hint=DAMAGED)

    def part(
        self,
        suffix: str,
        dtypes: tuple[str, ...],
        shape: tuple[int, ...],
        axis: int | None = None,
        per_row: Fraction = WHOLE,
    ) -> StoredPart:
        """The tensor so called, which must have this shape."""
        found = self.info(suffix, dtypes)
        if found.shape != shape:
            raise self.wrong(found, str(list(shape)))
        return StoredPart(found.name, found.dtype, shape, axis, per_row)

    def scales(
        self, suffix: str, expected: tuple[int, int], per_row: Fraction = WHOLE, *, single: bool = False
    ) -> StoredPart:
        """Scales of this shape, or of one that differs in axes of length 1 ([out] for [out, 1]).

        With `single` one scale may also stand for all.
        """
        found = self.info(suffix, SCALES)
        if prod(found.shape) == 1 and (single or expected == (1, 1)):
            return StoredPart(found.name, found.dtype, (1, 1))
        if [n for n in found.shape if n != 1] != [n for n in expected if n != 1]:
            raise self.wrong(found, str(list(expected)))
        return StoredPart(found.name, found.dtype, expected, 0, per_row)

    def groups(self, cols: int, group: int) -> int:
        """How many groups a row has, -1 being the whole row. Raises InputError."""
        if group == -1:
            return 1
        if group < 1 or cols % group:
            what = f'"{shown(self.module)}" has rows of {cols:,} weights, which are no groups of {group}'
            raise InputError(what, tensor=f"{self.module}.weight", key="group_size", hint=DAMAGED)
        return cols // group

    def small(self, suffix: str, dtypes: tuple[str, ...], limit: int) -> PackedTensor:
        """A vector of at most `limit` bytes, with its values."""
        found = self.info(suffix, dtypes, 1)
        if found.nbytes > limit:
            raise self.wrong(found, f"at most {limit:,} bytes")
        return self.read(found.name)
