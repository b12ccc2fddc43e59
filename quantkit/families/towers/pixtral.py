"""Pixtral, Mistral Small 3, LightOnOCR: positions rotated in two dimensions, a token that ends each row of patches.

The reference leaves out the embedding of [IMG_BREAK] where the text model stands inside "language_model.", and
llama.cpp then refuses the file; it is written here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families.general import ReadFile
from quantkit.families.hparams import Hparams
from quantkit.families.model import ModelTensor, Rows
from quantkit.families.parts import Made
from quantkit.families.placements import rope_rows
from quantkit.families.roles import Role
from quantkit.families.rows import PRESENT, Condition, T
from quantkit.families.spellings import Rename
from quantkit.families.tower import HALF, WHOLE, Tower
from quantkit.families.vit import INNER_TEXT, KERNEL, MERGED_SIDE, activation, epsilon, vision_keys
from quantkit.tensors import TensorInfo

BREAK, EMBEDDING = "[IMG_BREAK]", "embed_tokens.weight"
# files with a list of tokens: its name, and what a token calls its text and its id
ELSEWHERE = (
    ("tokenizer.json", "added_tokens", "content", "id"), ("tekken.json", "special_tokens", "token_str", "rank"),
)  # fmt: skip
MERGER = "multi_modal_projector.patch_merger.merging_layer.weight"
SQUARE = "spatial_merge_size*spatial_merge_size"
MISTRAL3 = "Mistral3ForConditionalGeneration"


def is_pixtral(config: Mapping[str, Any]) -> bool:
    """Whether the encoder of a LLaVA is Pixtral's."""
    part = config.get("vision_config")
    return isinstance(part, Mapping) and part.get("model_type") == "pixtral"


def merged_side(hparams: Hparams) -> Mapping[str, Any]:
    """How many patches of each side become one; the models of Mistral have a number for it, Pixtral has none."""
    config = hparams.values[WHOLE]
    default = 2 if config.get("model_type") in ("mistral3", "lighton_ocr") else None
    return {"spatial_merge_size": config.get("spatial_merge_size", default)}


def head(hparams: Hparams) -> Mapping[str, Any]:
    """The rows of a head, which are rotated."""
    return {"head": hparams.count("hidden_size") // hparams.count("num_attention_heads")}


def image_break(hparams: Hparams, tensors: Mapping[str, TensorInfo], read_file: ReadFile) -> tuple[ModelTensor, ...]:
    """The embedding of the token that ends a row of patches. Raises InputError where the checkpoint has none."""
    source = next((info for name, info in tensors.items() if name.endswith(EMBEDDING)), None)
    token = _token(read_file)
    if source is None or token is None or len(source.shape) != 2 or token >= source.rows:
        what = f"the tokenizer has no token {BREAK}" if token is None else f"the embeddings have no row for {BREAK}"
        raise InputError(f"{what}, which llama.cpp wants of a Pixtral", key=BREAK, hint="is tokenizer.json whole?")
    row = Made(Rows(source.name, token, token + 1), (1, source.cols), (("column", ()),), (source.cols, 1))
    return (ModelTensor("v.token_embd.img_break", Role.OTHER, (source.cols,), (row,), stored="f32"),)


def _token(read_file: ReadFile) -> int | None:
    """The id of the token: of tokenizer_config.json, else of tokenizer.json or tekken.json."""
    said = _parsed(read_file("tokenizer_config.json")).get("added_tokens_decoder")
    for number, token in said.items() if isinstance(said, dict) else ():
        if isinstance(token, dict) and token.get("content") == BREAK and str(number).isdecimal():
            return int(number)
    for file, part, text, number in ELSEWHERE:
        added = _parsed(read_file(file)).get(part)
        for token in added if isinstance(added, list) else ():
            if isinstance(token, dict) and token.get(text) == BREAK and isinstance(token.get(number), int):
                return int(token[number])
    return None


def _parsed(data: bytes | None) -> Mapping[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


PIXTRAL = Tower(
    name="pixtral",
    hf=(MISTRAL3, "LlavaForConditionalGeneration"),
    owns=("vision_tower.", "multi_modal_projector."),
    outside=(
        T("vision_tower.patch_conv.weight", "v.patch_embd.weight", Role.OTHER, KERNEL),
        T("vision_tower.ln_pre.weight", "v.pre_ln.weight", Role.NORM, "hidden_size"),
        T("multi_modal_projector.norm.weight", "mm.input_norm.weight", Role.NORM, "hidden_size", optional=True),
        T(MERGER, "mm.patch_merger.weight", Role.OTHER, f"hidden_size {SQUARE}*hidden_size", optional=True,
          stored=HALF),
        T("multi_modal_projector.linear_1.weight", "mm.1.weight", Role.OTHER, "projection_dim hidden_size",
          bias=PRESENT),
        T("multi_modal_projector.linear_2.weight", "mm.2.weight", Role.OTHER, "projection_dim projection_dim",
          bias=PRESENT),
    ),
    block=(
        T("attention_norm.weight", "ln1.weight", Role.NORM, "hidden_size"),
        T("ffn_norm.weight", "ln2.weight", Role.NORM, "hidden_size"),
        T("attention.q_proj.weight", "attn_q.weight", Role.ATTN_Q, "hidden_size hidden_size", rope_rows),
        T("attention.k_proj.weight", "attn_k.weight", Role.ATTN_K, "hidden_size hidden_size", rope_rows),
        T("attention.v_proj.weight", "attn_v.weight", Role.ATTN_V, "hidden_size hidden_size"),
        T("attention.o_proj.weight", "attn_out.weight", Role.ATTN_OUTPUT, "hidden_size hidden_size"),
        T("feed_forward.gate_proj.weight", "ffn_gate.weight", Role.FFN_GATE, "intermediate_size hidden_size"),
        T("feed_forward.up_proj.weight", "ffn_up.weight", Role.FFN_UP, "intermediate_size hidden_size"),
        T("feed_forward.down_proj.weight", "ffn_down.weight", Role.FFN_DOWN, "hidden_size intermediate_size"),
    ),
    source_block="vision_tower.transformer.layers.{}.",
    defaults={
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_channels": 3, "image_size": 1024, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    },
    derive=(merged_side, head),
    keys=vision_keys("pixtral", epsilon(), activation, MERGED_SIDE),
    text=INNER_TEXT,
    also=image_break,
    when=Condition("its encoder is Pixtral's", is_pixtral),
)  # fmt: skip

LIGHTON = replace(
    PIXTRAL,
    name="lightonocr",
    hf=("LightOnOCRForConditionalGeneration", "LightOnOcrForConditionalGeneration"),
    owns=("vision_encoder.", "vision_projection."),
    keys=vision_keys("lightonocr", epsilon(), activation, MERGED_SIDE),
    spellings=(
        Rename(r"^vision_encoder\.", "vision_tower."),
        Rename(r"^vision_projection\.", "multi_modal_projector."),
    ),
    also=None,
    when=None,
)

TOWERS = (PIXTRAL, LIGHTON)
