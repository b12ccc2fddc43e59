"""Native FP8 checkpoints in 128 x 128 blocks, as DeepSeek published them, and ModelOpt's description of FP8.

    .weight             F8_E4M3 [out, in]
    .weight_scale_inv   F32 [out / 128, in / 128], rounded up      W = weight * scale, in spite of the name

DeepSeek V4 says the same of other tensors: see `scaled_powers`.

transformers finds the size of blocks by dividing rows and columns by those of the scales. A weight of 192 rows with
two rows of scales then has blocks of 96 and loads wrong without a word, so that such weights are never written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.formats.containers import scaled_powers
from quantkit.formats.containers.base import (
    Container,
    Headers,
    LayoutOf,
    Reading,
    StoredOutline,
    Writing,
    Written,
    section,
)
from quantkit.formats.containers.packed import (
    SCALES,
    Entry,
    PackedTensor,
    Tensors,
    packed,
    scales_of,
    take,
    take_matrix,
    values_of,
)
from quantkit.formats.containers.scaled_floats import ScaledFloats, float8_outline
from quantkit.formats.containers.settings import choice
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.schemes import TILE
from quantkit.qtypes.schemes.base import Activations, Quantized, ScaleDtype, Traits
from quantkit.qtypes.schemes.minifloat import SCALE, Float8, to_bytes, to_codes
from quantkit.records import record
from quantkit.untrusted import shown

SCHEME = Float8("block", "F32")


@record
class FP8Layout:
    """A native FP8 checkpoint's settings: there is nothing to choose when it is written.

    `activations` are those that a configuration asks engines for.
    """

    scheme: Float8 = SCHEME
    activations: Activations = field(default="dynamic", repr=False)

    @cached_property
    def traits(self) -> Traits:
        of = self.scheme.traits
        return replace(of, format="fp8", activations=self.activations, outputs=TILE, inputs=TILE)

    def entries(self, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
        """The tensors of the linear layer `module` of weight (rows, cols).

        Raises UnsupportedError for dimensions above 128 that are no multiples of it.
        """
        for size, what in ((rows, "outputs"), (cols, "inputs")):
            if size > TILE and size % TILE:
                raise UnsupportedError(
                    f'"{shown(module)}" has {size:,} {what}, no multiple of {TILE}: transformers would load it wrong',
                    tensor=module,
                    hint="keep this layer unquantized, or write compressed-tensors with one scale per channel",
                )
        return (
            Entry(f"{module}.weight", "F8_E4M3", (rows, cols)),
            Entry(f"{module}.weight_scale_inv", "F32", SCHEME.scale_shape(rows, cols)),
        )

    def pack(self, module: str, quantized: Quantized, input_peak: float | None = None) -> tuple[PackedTensor, ...]:
        """The tensors of `entries`, filled, for codes on a grid of `SCHEME`."""
        weight, scale = self.entries(module, *quantized.codes.shape)
        assert quantized.order is None, "FP8 blocks lie side by side"
        return packed(weight, to_bytes(quantized.codes)), packed(scale, quantized.grid.fields[SCALE])

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of the linear layer `module`, blocks at the edges cut off. Raises InputError."""
        weight = take_matrix(tensors, f"{module}.weight", ("F8_E4M3",))
        rows, cols = weight.entry.shape
        scale = take(tensors, f"{module}.weight_scale_inv", SCALES, SCHEME.scale_shape(rows, cols))
        return Quantized(to_codes(values_of(weight)), SCHEME.grid(scales_of(scale), rows, cols))

    def outline(self, headers: Headers) -> StoredOutline:
        """The tensors of a layer."""
        if headers.has(scaled_powers.SCALE):
            return scaled_powers.outline(headers)
        return float8_outline(self, self.scheme, "weight_scale_inv", headers)


def choose(weights: Weights, dtype: ScaleDtype) -> FP8Layout:
    """The only layout there is."""
    return FP8Layout()


def quantization_config(*, exclude: Sequence[str] = ("lm_head",)) -> dict[str, Any]:
    """The `quantization_config` of config.json; activations are dynamic, as vLLM demands of blocks."""
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [TILE, TILE],
        "modules_to_not_convert": list(exclude),
    }


def read_config(config: Mapping[str, Any]) -> Float8:
    """The scheme that a quantization_config describes. Raises InputError or UnsupportedError naming the key."""
    choice(config, "fmt", ("e4m3",), "e4m3")
    block = config.get("weight_block_size")
    if block != [TILE, TILE]:
        what = f"quantization_config.weight_block_size is {shown(str(block))}"
        raise UnsupportedError(what, key="weight_block_size", hint=f"native FP8 is read in blocks of {TILE} x {TILE}")
    return SCHEME


def _config(written: Written) -> dict[str, Any]:
    return quantization_config(exclude=written.skipped)


def layouts(quantization: Mapping[str, Any]) -> LayoutOf:
    """In blocks as DeepSeek published it, or with scales of other shapes (AutoFP8, Mistral), which the tensors show."""
    if quantization.get("weight_block_size") is None:
        choice(quantization, "fmt", ("e4m3",), "e4m3")
        return lambda module: ScaledFloats()
    dynamic = quantization.get("activation_scheme") == "dynamic"
    layout = FP8Layout(read_config(quantization), "dynamic" if dynamic else "none")
    return lambda module: layout


CONTAINER = Container(
    "fp8",
    Writing(types=("fp8",), activations=("none", "dynamic"), choose=choose, config=section(_config)),
    Reading(
        layouts,
        components=("weight_scale_inv", "weight_scale", scaled_powers.SCALE, "weight"),
        besides=(scaled_powers.SCALE,),
        telling=("weight_block_size", "activation_scheme"),
        unsaid=((".weight_scale_inv", {"quant_method": "fp8"}),),
    ),
)
