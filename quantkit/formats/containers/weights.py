"""What a recipe says of a layer's weight, in the words of all containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from quantkit.records import record

if TYPE_CHECKING:
    from quantkit.qtypes.schemes.base import Activations
    from quantkit.qtypes.schemes.integers import Symmetry

WeightType = Literal["int", "fp8", "nf4", "fp4", "int8-rows", "nvfp4", "mxfp4", "bf16", "f16", "f32"]
Granularity = Literal["tensor", "channel", "block"]


@record
class Weights:
    """How the weight of a layer is stored. Which fields count depends on `type`.

    int          `bits`, `group` (-1: a row), `symmetry`; `version` and `act_order` in GPTQ's container. `fallback`
                 are the sizes of groups to try, in this order, where `group` does not divide a row
    fp8          `granularity` of the scales
    nf4, fp4     `double`: magnitudes are quantized, too
    bf16, f16, f32   not quantized at all, in the container "plain"
    In a GGUF file `type` is a quantization type such as "q4_k", and nothing else counts.
    `activations` says whether the layer's inputs are rounded as well, and when their scales are found.
    """

    type: str = "int"
    bits: int = 4
    group: int = 128
    symmetry: Symmetry = "symmetric"
    granularity: Granularity = "channel"
    double: bool = False
    version: Literal[1, 2] = 1
    act_order: bool = False
    activations: Activations = "none"
    fallback: tuple[int, ...] = ()
