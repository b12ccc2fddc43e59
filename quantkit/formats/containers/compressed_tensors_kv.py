"""FP8 scales of cached keys and values, which stand beside the projections of an attention module.

    .k_scale   [1]    key = E4M3 number * scale, in the type of the model's weights
    .v_scale   [1]

Names and shapes are those of compressed-tensors' `kv_cache_scheme` with one scale per tensor, which vLLM reads too.
"""

from __future__ import annotations

import numpy as np

from quantkit.errors import InputError
from quantkit.formats.containers.packed import FLOATS, Entry, PackedTensor, Tensors, packed, scales_of, take
from quantkit.qtypes.schemes.base import ScaleDtype, stored_scales
from quantkit.qtypes.schemes.minifloat import LARGEST
from quantkit.tensors import F32
from quantkit.untrusted import shown

KV_CACHE_FP8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}


def kv_cache_entries(attention: str, dtype: ScaleDtype) -> tuple[Entry, Entry]:
    """The tensors of the attention module called `attention` ("model.layers.0.self_attn")."""
    return Entry(f"{attention}.k_scale", dtype, (1,)), Entry(f"{attention}.v_scale", dtype, (1,))


def pack_kv_scales(attention: str, peaks: tuple[float, float], dtype: ScaleDtype) -> tuple[PackedTensor, PackedTensor]:
    """The tensors of `kv_cache_entries`, filled, for keys and values up to these magnitudes.

    Raises NonFiniteError for a scale that is too large for `dtype`.
    """
    key, value = (
        packed(entry, stored_scales(np.array([peak], np.float32) / LARGEST, dtype, 1))
        for entry, peak in zip(kv_cache_entries(attention, dtype), peaks, strict=True)
    )
    return key, value


def unpack_kv_scales(attention: str, tensors: Tensors) -> tuple[F32, F32]:
    """The scales of keys and of values, each float32 (1,). Raises InputError for damaged ones."""
    key, value = (_scale(tensors, entry) for entry in kv_cache_entries(attention, "F32"))
    return key, value


def _scale(tensors: Tensors, entry: Entry) -> F32:
    scale = scales_of(take(tensors, entry.name, FLOATS, entry.shape))
    if scale[0] <= 0:
        what = f'tensor "{shown(entry.name)}" holds {scale[0]:g}, expected a positive number'
        raise InputError(what, tensor=entry.name, hint="the checkpoint is damaged: fetch it again")
    return scale
