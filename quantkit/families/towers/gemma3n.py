"""Gemma 3n: MobileNet V5, whose blocks are of three kinds and any shape. Its encoder of sound is left out.

llama.cpp has no encoder of Gemma 3n's sound, and the reference converter no name for all of its tensors. The reference
writes the scales of blocks as vectors, by which llama.cpp cannot multiply; here they have its four axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import InputError
from quantkit.families import keys
from quantkit.families.expressions import ANY
from quantkit.families.hparams import Hparams
from quantkit.families.layers import Layers
from quantkit.families.model import Rows
from quantkit.families.placements import Placement
from quantkit.families.roles import Role
from quantkit.families.rows import Drop, Stack, T, at
from quantkit.families.tower import SAID, Tower, constant
from quantkit.families.vit import F32, INNER_TEXT, vision_numbers
from quantkit.tensors import TensorInfo

NET = "vision_tower.timm_model."
STAGES = 4
NAME = re.compile(r"vision_tower\.timm_model\.blocks\.(?P<stage>[0-9])\.(?P<block>[0-9]{1,4})\.(?P<inner>.+)")
KINDS = {"edge": "conv_exp.", "inverted": "pw_exp.", "attention": "attn.query."}  # by what only they have
SILENT = "llama.cpp has no encoder of this model's sound"


def numbers(hparams: Hparams) -> Mapping[str, Any]:
    """Those that llama.cpp wants of a transformer, as the reference fills them in; and the size of an image."""
    said = hparams.values[SAID]
    size, tokens = said.get("size"), Hparams({"image_seq_length": said.get("image_seq_length", 256)})
    height = Hparams({"height": size.get("height") if isinstance(size, Mapping) else 768}).count("height")
    return {"image_size": height, "patch_size": height // tokens.count("image_seq_length")}


def blocks(hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
    """What each block of each stage has. Raises InputError for a block of no kind."""
    found: dict[int, dict[int, set[str]]] = {stage: {} for stage in range(STAGES)}
    for name in tensors:
        match = NAME.fullmatch(name)
        if match and int(match["stage"]) < STAGES:
            found[int(match["stage"])].setdefault(int(match["block"]), set()).add(match["inner"])
    for stage, those in found.items():
        for block in range(max(those, default=-1) + 1):
            if sum(_has(those.get(block, set()), start) for start in KINDS.values()) != 1:
                name = f"{NET}blocks.{stage}.{block}"
                what = f'the tensors of "{name}" are of no block of a MobileNet V5, or of several'
                raise InputError(what, tensor=name, hint="is a shard missing?")
    return {f"stage_{stage}": those for stage, those in found.items()}


def _has(inner: Iterable[str], start: str) -> bool:
    return any(name.startswith(start) for name in inner)


def has(stage: int, start: str) -> Layers:
    """In blocks of a stage with a tensor whose name begins so."""
    return lambda hparams, block: _has(hparams.values[f"stage_{stage}"].get(block, ()), start)


def over_places(info: TensorInfo, hparams: Hparams) -> Placement:
    """A number for each channel, the same at all places of an image: (1, channels, 1, 1)."""
    return Placement((1, info.rows, 1, 1), (Rows(info.name, 0, info.rows),))


def weights(names: Iterable[str]) -> tuple[T, ...]:
    """Tensors that keep their names and shapes, whatever these are."""
    return tuple(T(name, name, Role.OTHER, ANY) for name in names)


def stage_rows(stage: int) -> tuple[T, ...]:
    """The rows of a stage's blocks."""
    convolved = ("dw_start", "dw_mid")
    shrunk = ("attn.key", "attn.value")
    return (
        *at(has(stage, KINDS["edge"]), weights(f"{n}.weight" for n in ("conv_exp", "bn1", "conv_pwl", "bn2"))),
        *at(has(stage, KINDS["inverted"]), weights(
            f"{n}.{part}.weight" for n in ("pw_exp", "pw_proj") for part in ("conv", "bn")
        )),
        *(row for n in convolved for row in at(has(stage, f"{n}."), weights((f"{n}.conv.weight", f"{n}.bn.weight")))),
        *at(has(stage, KINDS["attention"]), weights(
            ("norm.weight", *(f"attn.{n}.proj.weight" for n in ("query", "key", "value", "output")))
        )),
        *(row for n in shrunk for row in at(has(stage, f"{n}.down_conv."), weights(
            (f"{n}.down_conv.weight", f"{n}.norm.weight")
        ))),
        *at(has(stage, "layer_scale."), (
            T("layer_scale.gamma", "layer_scale.gamma", Role.OTHER, ANY, over_places),
        )),
    )  # fmt: skip


def counted(stage: int) -> Any:
    """How many blocks a stage has."""
    return lambda hparams: len(hparams.values[f"stage_{stage}"])


def stage(number: int) -> Stack:
    return Stack(f"{NET}blocks.{number}.{{}}.", f"v.blk.{number}.{{}}.", counted(number), stage_rows(number))


GEMMA3N = Tower(
    name="gemma3nv",
    hf=("Gemma3nForConditionalGeneration", "Gemma3nModel"),
    owns=("vision_tower.", "embed_vision.", "audio_tower.", "embed_audio."),
    outside=(
        T(f"{NET}conv_stem.conv.weight", "v.conv_stem.conv.weight", Role.OTHER, ANY, stored=F32),
        T(f"{NET}conv_stem.conv.bias", "v.conv_stem.conv.bias", Role.BIAS, ANY, over_places, optional=True),
        T(f"{NET}conv_stem.bn.weight", "v.conv_stem.bn.weight", Role.NORM, ANY),
        T(f"{NET}msfa.ffn.pw_exp.conv.weight", "v.msfa.ffn.pw_exp.conv.weight", Role.OTHER, ANY),
        T(f"{NET}msfa.ffn.pw_exp.bn.weight", "v.msfa.ffn.pw_exp.bn.weight", Role.NORM, ANY),
        T(f"{NET}msfa.ffn.pw_proj.conv.weight", "v.msfa.ffn.pw_proj.conv.weight", Role.OTHER, ANY),
        T(f"{NET}msfa.ffn.pw_proj.bn.weight", "v.msfa.ffn.pw_proj.bn.weight", Role.NORM, ANY),
        T(f"{NET}msfa.norm.weight", "v.msfa.norm.weight", Role.NORM, ANY),
        T("embed_vision.embedding.weight", "mm.embedding.weight", Role.OTHER, "vocab_size hidden_size"),
        T("embed_vision.hard_embedding_norm.weight", "mm.hard_emb_norm.weight", Role.NORM, "hidden_size"),
        T("embed_vision.soft_embedding_norm.weight", "mm.soft_emb_norm.weight", Role.NORM, "hidden_size"),
        T("embed_vision.embedding_projection.weight", "mm.input_projection.weight", Role.OTHER,
          "projection_dim hidden_size"),
    ),
    block=(),
    source_block=f"{NET}layers.{{}}.",
    stacks=tuple(map(stage, range(STAGES))),
    defaults={
        "hidden_size": 2048, "vocab_size": 128, "intermediate_size": 4 * 2048, "num_hidden_layers": 128,
        "num_attention_heads": 8, "layer_norm_eps": 1e-6,
    },
    derive=(numbers,),
    seen=blocks,
    keys=(
        *vision_numbers()[:-2],
        constant("vision.image_mean", "f32", (0.0, 0.0, 0.0)),
        constant("vision.image_std", "f32", (1.0, 1.0, 1.0)),
        constant("vision.projector_type", "string", "gemma3nv"),
        keys.Key("vision.attention.layer_norm_epsilon", "f32", "layer_norm_eps"),
    ),
    drop=(Drop("audio_tower.*", SILENT, told=True), Drop("embed_audio.*", SILENT, told=True)),
    text=INNER_TEXT,
    sees=False,
)  # fmt: skip

TOWERS = (GEMMA3N,)
