"""Where the parameters of a transformers module lie in a checkpoint, and how they get into memory.

transformers names parameters one way in memory and accepts several in files: Mixtral's experts are called w1, w2 and
w3 there, experts may be stacked into one tensor, and a text model may lie inside a multimodal one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.describe import find_family
from quantkit.families.mapping import find_pieces
from quantkit.families.model import Rows
from quantkit.families.names import EXPERT_MATRIX
from quantkit.families.spellings import AS_IN_MEMORY, Published
from quantkit.families.stacked import BIAS, DOWN, FLAT, GATE_UP, lies_turned, matrix_of, matrix_of_flat
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tensors import COUNTED_DTYPES, F32, FLOAT_DTYPES, TensorInfo, TensorRef

CONVOLUTION, WEIGHT = "conv1d.weight", ".weight"
PARTS = ("backbone", "bert", "distilbert", "roberta")  # of state space models, and of encoders with a head
SLAB_WEIGHTS = 1 << 24  # read at once: 64 MiB of float32
GAP_ROWS = 64  # rows of a table read along when fewer than this lie between two that are wanted

# Name in memory -> name in files, one after the other (conversion_mapping.py of transformers 5): GPT-NeoX's head, the
# routers of Phi, Granite and ERNIE, Granite's stacks, sinks of MiMo and Hy4, Hy4's gate and hyper-connections, MiniMax
# M3's indexer, the biases of Laguna and EXAONE, router and bias of Hy3, experts for every token of Laguna and Hy3,
# Kimi's gate, Ling's embeddings, attention and bias, streams of DeepSeek and GLM, Mixtral's mixtures and experts, and
# BERT's norms of TensorFlow.
OLD_NAMES = (
    (re.compile(r"^lm_head\."), "embed_out."),
    (re.compile(r"\.LayerNorm\.weight$"), ".LayerNorm.gamma"),
    (re.compile(r"\.LayerNorm\.bias$"), ".LayerNorm.beta"),
    (re.compile(r"\.mlp\.router\."), ".block_sparse_moe.gate."),
    (re.compile(r"\.block_sparse_moe\.router\."), ".block_sparse_moe.router.layer."),
    (re.compile(r"\.block_sparse_moe\.experts\.gate_up_proj$"), ".block_sparse_moe.input_linear.weight"),
    (re.compile(r"\.block_sparse_moe\.experts\.down_proj$"), ".block_sparse_moe.output_linear.weight"),
    (re.compile(r"\.gate\.moe_statics\."), ".moe_statics."),
    (re.compile(r"\.self_attn\.sinks$"), ".self_attn.attention_sink_bias"),
    (re.compile(r"\.self_attn\.sinks$"), ".self_attn.learnable_sink_param"),
    (re.compile(r"\.self_attn\.gate_proj\."), ".self_attn.linear_gate."),
    (re.compile(r"\.attn_hc\."), ".hc_attn_layer.hc_pre.hc_"),
    (re.compile(r"\.ffn_hc\."), ".hc_mlp_layer.hc_pre.hc_"),
    (re.compile(r"\.hc_head\.hc_"), ".hc_head.hc_head_"),
    (re.compile(r"\.self_attn\.indexer\.(?=[qk]_)"), ".self_attn.index_"),
    (re.compile(r"\.gate\.e_score_correction_bias$"), ".experts.e_score_correction_bias"),
    (re.compile(r"\.gate\.e_score_correction_bias$"), ".e_score_correction_bias"),
    (re.compile(r"\.mlp\.gate\.weight$"), ".mlp.router.gate.weight"),
    (re.compile(r"\.mlp\.e_score_correction_bias$"), ".mlp.expert_bias"),
    (re.compile(r"\.mlp\.shared_experts\."), ".mlp.shared_expert."),
    (re.compile(r"\.mlp\.shared_experts\."), ".mlp.shared_mlp."),
    (re.compile(r"\.forget_gate\."), "."),
    (re.compile(r"^model\.embed_tokens\."), "model.word_embeddings."),
    (re.compile(r"\.self_attn\."), ".attention."),
    (re.compile(r"\.attention\.o_proj\."), ".attention.dense."),
    (re.compile(r"\.gate\.e_score_correction_bias$"), ".gate.expert_bias"),
    (re.compile(r"\.(attn|ffn)_hc\."), r".hc_\1_"),
    (re.compile(r"\.mlp\."), ".block_sparse_moe."),
    (re.compile(r"(\.experts\.\d+\.)gate_proj\."), r"\1w1."),
    (re.compile(r"(\.experts\.\d+\.)down_proj\."), r"\1w2."),
    (re.compile(r"(\.experts\.\d+\.)up_proj\."), r"\1w3."),
)


@record
class Held:
    """The tensors of a checkpoint by name, and how files of its family were published."""

    tensors: Mapping[str, TensorInfo]
    published: Published = AS_IN_MEMORY


def held_by(checkpoint: Checkpoint) -> Held:
    """What a checkpoint holds. Raises UnsupportedError for an unknown family."""
    return Held(checkpoint.tensors(), find_family(checkpoint.config).family.published)


def locate(parameter: str, shape: torch.Size, held: Held) -> Rows:
    """The source rows of a parameter such as "model.layers.0.mlp.experts.3.up_proj.weight".

    Raises InputError when the checkpoint has no such tensor or one of another shape, UnsupportedError for a stored
    type that is not a float.
    """
    info = named(parameter, held)
    if info is not None:
        return _checked(parameter, shape, info, Rows(info.name, 0, info.rows))
    inside = _piece(parameter, shape, held) or _stacked(parameter, shape, held)
    if inside is not None:
        return inside
    near = get_close_matches(parameter, list(held.tensors), 1)
    hint = f'the nearest name is "{near[0]}"; is a shard missing?' if near else "is a shard missing?"
    raise InputError(f'the checkpoint has no tensor "{parameter}"', tensor=parameter, hint=hint)


def joined(parameter: str, shape: torch.Size, held: Held) -> tuple[Rows, ...]:
    """The source rows of a parameter that files keep in pieces, one below the other, as Kimi's convolution of queries,
    keys and values; () for one that they keep whole. Raises what `locate` does."""
    stem = parameter.removesuffix(CONVOLUTION)
    names = [f"{stem}{which}_{CONVOLUTION}" for which in "qkv"]
    if stem == parameter or named(parameter, held) is not None or named(names[0], held) is None:
        return ()
    piece = torch.Size((shape[0] // len(names), *shape[1:]))
    return tuple(locate(name, piece, held) for name in names)


def named(parameter: str, held: Held) -> TensorInfo | None:
    """The tensor that holds a parameter or buffer, under any of its names; None where there is none."""
    names = chain([parameter], held.published.spellings(parameter), _spellings(parameter))
    return next((held.tensors[name] for name in names if name in held.tensors), None)


def stored_type(info: TensorInfo) -> torch.dtype:
    """The torch type that holds a tensor's values exactly in the fewest bytes."""
    if info.stored_as is not None:
        return torch.float32  # what it decodes to is no number of the model's own type
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(info.dtype, torch.float32)


def read_rows(
    checkpoint: Checkpoint,
    rows: Rows,
    shape: torch.Size,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Rows of a source tensor as a tensor of `shape` on `device`, read in slabs."""
    if rows.columns is not None:
        return torch.from_numpy(rows.read(checkpoint.ref, 0, rows.rows)).to(device, dtype).reshape(shape)
    ref = checkpoint.ref(rows.tensor)
    count, cols = rows.stop - rows.start, ref.info.cols
    out = torch.empty((count, cols), dtype=dtype, device=device)
    step = max(1, SLAB_WEIGHTS // cols)
    for start in range(0, count, step):
        stop = min(start + step, count)
        out[start:stop] = torch.from_numpy(ref.read(rows.start + start, rows.start + stop))
    return out.reshape(shape)


def read_some(ref: TensorRef, wanted: NDArray[np.int64]) -> F32:
    """Rows of a table, float32 (len(wanted), cols), in any order, read in slabs; the rest of it is not read."""
    cols = ref.info.cols
    out = np.empty((len(wanted), cols), np.float32)
    slab = max(SLAB_WEIGHTS // cols, 1)
    gaps, crossed = np.diff(wanted), np.diff(wanted // slab) > 0
    cuts = np.flatnonzero((gaps > GAP_ROWS) | (gaps < 0) | crossed) + 1
    for run in np.split(np.arange(len(wanted)), cuts):
        first, last = int(wanted[run[0]]), int(wanted[run[-1]])
        out[run] = ref.read(first, last + 1)[wanted[run] - first]
    return out


def read_whole(checkpoint: Checkpoint, info: TensorInfo, like: torch.Tensor, device: torch.device) -> torch.Tensor:
    """All of a tensor of whole numbers, with the shape and type of `like`.

    Raises InputError for a number that its family's row does not allow.
    """
    family = find_family(checkpoint.config).family
    hparams = family.numbers(checkpoint.config, checkpoint.tensors())
    for piece in chain(*find_pieces(family, hparams, {info.name: info})[0].values()):
        for part in piece.placement.parts:
            part.read(checkpoint.ref, 0, part.rows)
    raw = checkpoint.ref(info.name).read_packed(0, info.rows)
    numbers = raw.view(COUNTED_DTYPES[info.dtype]).astype(np.int64)
    return torch.from_numpy(numbers).reshape(like.shape).to(device, like.dtype)


def _spellings(parameter: str) -> Iterator[str]:
    """The names a parameter may have in files, the likeliest first."""
    spelled = {parameter: None}  # each once: what no pattern fits would double with every pattern
    for pattern, replacement in OLD_NAMES:
        spelled |= dict.fromkeys([pattern.sub(replacement, name) for name in spelled])
    for name in spelled:
        yield name
        yield f"language_model.{name}"
        if name.startswith("model."):
            inner = name.removeprefix("model.")
            yield f"model.language_model.{inner}"
            yield inner
            yield from (f"{part}.{inner}" for part in PARTS)
            yield f"thinker.model.language_model.{inner}"
        yield f"thinker.{name}"


def _piece(parameter: str, shape: torch.Size, held: Held) -> Rows | None:
    """A matrix that published files keep in one tensor with others, one below the other."""
    module = parameter.removesuffix(WEIGHT)
    for end, names in held.published.pieces.items():
        for number, name in enumerate(names):
            info = named(f"{module.removesuffix(name)}{end}{WEIGHT}", held) if module.endswith(f".{name}") else None
            if info is not None:
                whole = torch.Size((len(names) * shape[0], *shape[1:]))
                return _checked(parameter, whole, info, Rows(info.name, number * shape[0], (number + 1) * shape[0]))
    return None


def _stacked(parameter: str, shape: torch.Size, held: Held) -> Rows | None:
    """An expert's matrix inside a stack (experts, rows, cols), or (experts, cols, rows), or its bias in (experts,
    rows); gate and up share one, gate first, if there is a gate."""
    match = re.fullmatch(EXPERT_MATRIX, parameter)
    if match is None:
        return None
    module, number, which = match[1], int(match[2]), match[3]
    gate_up, down, biases = (named(f"{module}.{stack}", held) for stack in (GATE_UP, DOWN, GATE_UP + BIAS))
    fused = None if which == "down" else gate_up
    if match[4] == "bias":
        info = biases if fused else named(f"{module}.{which}_proj{BIAS}", held)
        return None if info is None else _bias(parameter, number, shape, info)
    info = fused or named(f"{module}.{which}_proj", held)
    if info is None:
        flat = named(f"{module}.{FLAT[which]}", held)
        return None if flat is None else _in_flat(parameter, number, which, shape, flat)
    turned = bool(gate_up and down and lies_turned(gate_up.shape, down.shape))
    rows, cols = shape
    lying = (2 * rows if fused else rows, cols)
    lying = lying[::-1] if turned else lying
    if len(info.shape) != 3 or info.shape[1:] != lying or number >= info.shape[0]:
        raise _other_shape(parameter, lying, info)
    place = (int(which == "up"), 2) if fused else (0, 1)
    found, _ = matrix_of(info, number, place, turned=turned, alternating=biases is not None)
    return _checked(parameter, None, info, found)


def _in_flat(parameter: str, number: int, which: str, shape: torch.Size, info: TensorInfo) -> Rows:
    """An expert's matrix in a flat stack."""
    inner, hidden = shape[::-1] if which == "down" else shape
    found, _ = matrix_of_flat(info, number, which, inner)
    if info.shape[1:] != (hidden,) or found.stop > info.rows:
        raise _other_shape(parameter, (inner, hidden), info)
    return _checked(parameter, None, info, found)


def _bias(parameter: str, number: int, shape: torch.Size, info: TensorInfo) -> Rows:
    """An expert's bias in a stack of them, in which those of gate and up alternate."""
    which = parameter.removesuffix(".bias").rpartition(".")[2]
    parts = 1 if which == DOWN else 2
    lying = (parts * shape[0],)
    if info.shape[1:] != lying or number >= info.shape[0]:
        raise _other_shape(parameter, lying, info)
    columns = range(which == "up_proj", *lying, parts)
    return _checked(parameter, None, info, Rows(info.name, number, number + 1, columns))


def _checked(parameter: str, shape: torch.Size | None, info: TensorInfo, rows: Rows) -> Rows:
    if shape is not None and info.shape != tuple(shape):
        raise _other_shape(parameter, tuple(shape), info)
    if info.dtype not in FLOAT_DTYPES:
        raise UnsupportedError(
            f'tensor "{info.name}" is stored as {info.dtype}; calibration runs the original weights',
            tensor=info.name,
            hint="give the checkpoint in its original precision",
        )
    return rows


def _other_shape(parameter: str, shape: tuple[int, ...], info: TensorInfo) -> InputError:
    return InputError(
        f'tensor "{info.name}" has shape {list(info.shape)}, config.json says {list(shape)} for {parameter}',
        tensor=info.name,
        hint="config.json and the weights are not of the same model",
    )
