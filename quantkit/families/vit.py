"""Rows and keys that encoders of images share: blocks of a vision transformer as SigLIP and CLIP name them.

Target names and keys are llama.cpp's (gguf-py/gguf/constants.py, conversion/base.py: MmprojModel, October 2026).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.families import keys
from quantkit.families.hparams import MAX_COUNT, Hparams, bad_value
from quantkit.families.layouts import Layout, columns, flat, fold, regroup, rows, split
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, T, with_biases
from quantkit.families.spellings import Rename
from quantkit.families.tower import HALF, SAID, WHOLE, constant

F32 = "f32"
SIGLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
SIGLIP_BLOCK = with_biases((
    T("layer_norm1.weight", "ln1.weight", Role.NORM, "hidden_size"),
    T("layer_norm2.weight", "ln2.weight", Role.NORM, "hidden_size"),
    T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "hidden_size hidden_size"),
    T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "hidden_size hidden_size"),
    T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "hidden_size hidden_size"),
    T("self_attn.out_proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
    T("mlp.fc1.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
    T("mlp.fc2.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
))  # fmt: skip
GATED = (
    T("mlp.gate_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "intermediate_size hidden_size"),
    T("mlp.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
    T("mlp.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
)
# Norms and attention as most transformers of text have them, too.
PLAIN_ATTENTION = (
    T("input_layernorm.weight", "ln1.weight", Role.NORM, "hidden_size"),
    T("post_attention_layernorm.weight", "ln2.weight", Role.NORM, "hidden_size"),
    T("self_attn.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "hidden_size hidden_size"),
    T("self_attn.k_proj.weight", "attn_k.weight", Role.ATTN_K, "hidden_size hidden_size"),
    T("self_attn.v_proj.weight", "attn_v.weight", Role.ATTN_V, "hidden_size hidden_size"),
    T("self_attn.o_proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
)
KERNEL = "hidden_size num_channels patch_size patch_size"
# The weights of a patch lie as (row, column, colour), and come to lie as (colour, row, column).
COLOURS_FIRST = columns("patch_size*patch_size", "num_channels") >> split("num_channels", "patch_size*patch_size")


def patch_table(prefix: str) -> tuple[T, ...]:
    """How SigLIP 2 reads patches of any number: a linear layer, and a table of positions."""
    own = f"{prefix}embeddings."
    return (
        T(f"{own}patch_embedding.weight", "v.patch_embd.weight", Role.OTHER,
          "hidden_size num_channels*patch_size*patch_size", COLOURS_FIRST >> split("patch_size", "patch_size")),
        T(f"{own}patch_embedding.bias", "v.patch_embd.bias", Role.BIAS, "hidden_size"),
        T(f"{own}position_embedding.weight", "v.position_embd.weight", Role.POSITION, "num_patches hidden_size"),
    )  # fmt: skip


POOLING_HEAD = "the head that pools an image into one vector is not used"

# The tower of SigLIP or CLIP stood inside a "vision_model." when most checkpoints were published; transformers 5 saves
# it without.
UNWRAPPED = Rename(r"^vision_tower\.vision_model\.", "vision_tower.")
# The text model inside a model that sees: as transformers 4 and 5 name it.
INNER_TEXT = (Rename(r"^language_model\.", ""), Rename(r"^model\.language_model\.", "model."))


def siglip_outside(prefix: str, *, stored: str | None) -> tuple[T, ...]:
    """Embeddings of patches and of their positions, and the last norm; `stored` is the type of the former."""
    return (
        T(f"{prefix}embeddings.patch_embedding.weight", "v.patch_embd.weight", Role.OTHER, KERNEL, bias="always",
          stored=stored),
        T(f"{prefix}embeddings.position_embedding.weight", "v.position_embd.weight", Role.POSITION,
          "patches hidden_size"),
        T(f"{prefix}post_layernorm.weight", "v.post_ln.weight", Role.NORM, "hidden_size", bias="always"),
    )  # fmt: skip


def without_head(prefix: str) -> Drop:
    """A pooling head that some checkpoints carry along."""
    return Drop(f"{prefix}head.*", POOLING_HEAD)


def patches(hparams: Hparams) -> Mapping[str, Any]:
    """How many patches an image of the size that config.json says has."""
    return {"patches": (hparams.count("image_size") // hparams.count("patch_size")) ** 2}


def vision_keys(projector: str, *more: keys.KeyRow) -> tuple[keys.KeyRow, ...]:
    """The keys of every encoder of images, and those of this one."""
    return (
        constant("projector_type", "string", projector),
        *vision_numbers(),
        *more,
    )


def vision_numbers() -> tuple[keys.KeyRow, ...]:
    """The keys of every encoder of images but for the name of its projector."""
    return (
        constant("has_vision_encoder", "bool", True),
        keys.Key("vision.projection_dim", "u32", "projection_dim"),
        keys.Key("vision.image_size", "u32", "image_size"),
        keys.Key("vision.patch_size", "u32", "patch_size"),
        keys.Key("vision.embedding_length", "u32", "hidden_size"),
        keys.Key("vision.feed_forward_length", "u32", "intermediate_size"),
        keys.Key("vision.block_count", "u32", "num_hidden_layers"),
        keys.Key("vision.attention.head_count", "u32", "num_attention_heads"),
        keys.computed("vision.image_mean", "f32", said_by_processor("image_mean")),
        keys.computed("vision.image_std", "f32", said_by_processor("image_std")),
    )


def said_by_processor(key: str) -> Callable[[Hparams], Any]:
    """A list of a processor file."""
    return lambda hparams: tuple(hparams.values[SAID][key])


def limit(which: str) -> Callable[[Hparams], int]:
    """The fewest ("min") or most ("max") pixels to which an image is brought, as a processor file says it.

    Raises InputError where none does.
    """
    key = f"{which}_pixels"
    return lambda hparams: Hparams({key: hparams.values[SAID].get(key)}).count(key)


PIXELS = (
    keys.computed("vision.image_min_pixels", "u32", limit("min")),
    keys.computed("vision.image_max_pixels", "u32", limit("max")),
)


def epsilon(key: str = "layer_norm_eps") -> keys.KeyRow:
    """What keeps norms from dividing by zero."""
    return keys.Key("vision.attention.layer_norm_epsilon", "f32", key)


MERGED_SIDE = keys.Key("vision.spatial_merge_size", "u32", "spatial_merge_size")
GELU, SILU = constant("use_gelu", "bool", True), constant("use_silu", "bool", True)
ACTIVATIONS = {"gelu": GELU, "silu": SILU}


def activation(hparams: Hparams) -> Any:
    """The key of the activation that config.json names. Raises UnsupportedError for one that llama.cpp lacks."""
    said = hparams.values.get("hidden_act")
    row = ACTIVATIONS.get(said) if isinstance(said, str) else None
    if row is None:
        what = f"config.json: the encoder's hidden_act is {str(said)[:40]!r}"
        raise UnsupportedError(what, key="hidden_act", hint=f"llama.cpp knows {', '.join(ACTIVATIONS)} there")
    assert not isinstance(row, keys.Key)
    return row(hparams)


def root(key: str, otherwise: Any = None) -> Callable[[Hparams], Any]:
    """A value of the root of config.json."""
    return lambda hparams: hparams.values[WHOLE].get(key, otherwise)


def root_count(key: str, otherwise: int) -> Callable[[Hparams], Mapping[str, int]]:
    """A count at the root of config.json, for numbers under its own name. Raises InputError for what is none."""
    return lambda hparams: {key: Hparams({key: root(key, otherwise)(hparams)}).count(key)}


def side_merged(key: str, hparams: Hparams) -> int:
    """The side of squares of patches that become one, by what is left of a side. Raises InputError for what is no part
    of 1."""
    ratio = hparams.required(key)
    if not 1 / MAX_COUNT <= ratio <= 1:
        raise bad_value(key, ratio, "a part of 1")
    return int(1 / ratio)


def time_slice(which: int) -> Layout:
    """The kernel of a convolution over two images at once, for the first or the second of them."""
    kernel = "num_channels*patch_size"
    pieces = flat >> regroup("hidden_size*num_channels", "2")
    start, stop = ("0", f"hidden_size*{kernel}") if which == 0 else (f"hidden_size*{kernel}", f"2*hidden_size*{kernel}")
    return pieces >> rows(start, stop) >> fold("hidden_size", kernel) >> fold("num_channels", "patch_size")


def kernel_of_two(source: str) -> tuple[T, ...]:
    """The patch embedding of a model that takes two images of a film at once: a kernel for each."""
    shape = "hidden_size num_channels 2 patch_size patch_size"
    return (
        T(source, "v.patch_embd.weight", Role.OTHER, shape, time_slice(0), stored=HALF),
        T(source, "v.patch_embd.weight.1", Role.OTHER, shape, time_slice(1), stored=HALF),
    )


def third(which: str) -> Layout:
    """Queries, keys or values of one matrix that has all of them."""
    start = {"q": "0", "k": "hidden_size", "v": "2*hidden_size"}[which]
    stop = {"q": "hidden_size", "k": "2*hidden_size", "v": "3*hidden_size"}[which]
    return rows(start, stop)


def split_attention(source: str, bias: str | None) -> tuple[T, ...]:
    """Queries, keys and values that lie in one matrix, as three."""
    shape = "3*hidden_size hidden_size"
    return tuple(
        T(source, f"attn_{x}.weight", role, shape, third(x), bias=bias)
        for x, role in (("q", Role.ATTN_Q), ("k", Role.ATTN_K), ("v", Role.ATTN_V))
    )
