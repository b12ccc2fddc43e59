"""The language models of GLM-4.1V, GLM-OCR and GLM-4.5V: those of GLM-4 and GLM-4.5, with a position on three axes."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from quantkit.errors import InputError
from quantkit.families import assumptions, keys
from quantkit.families.hparams import CONFIG_HINT, Hparams
from quantkit.families.known.glm import AFTER, GLM4, MLP
from quantkit.families.known.glm4_moe import FURTHER, GLM4_MOE, NEXT, SEEN
from quantkit.families.known.qwen3_next import VISION
from quantkit.families.model import RowOrder
from quantkit.families.placements import Placement, whole
from quantkit.families.roles import Role
from quantkit.families.rows import ATTENTION, FREQUENCIES, NORMS, T, biased, without_biases
from quantkit.tensors import TensorInfo


def halves(info: TensorInfo, hparams: Hparams) -> Placement:
    """Rotation pairs that lie side by side, taken apart: llama.cpp rotates on three axes by halves alone."""
    head, part = hparams.count("head"), hparams.number("rope_partial_factor")
    rotated = int(head * (0.5 if part is None else part))
    if rotated % 2 or not 0 < rotated <= head:
        message = f"config.json: {rotated} of {head} dimensions of a head are rotated, expected an even number of them"
        raise InputError(message, key="partial_rotary_factor", path="config.json", hint=CONFIG_HINT)
    order = tuple(chain(range(0, rotated, 2), range(1, rotated, 2), range(rotated, head)))
    return replace(whole(info, hparams), row_order=RowOrder("halves", order))


ONLY_OF_TEXT = {"use_qk_norm", "num_nextn_predict_layers"}  # which the class with a vision encoder does not have
QUERIES_AND_KEYS = {Role.ATTN_Q, Role.ATTN_K}


def halved(attention: tuple[T, ...]) -> tuple[T, ...]:
    """The same attention with the rows of queries and keys so."""
    return tuple(replace(t, place=halves) if t.role in QUERIES_AND_KEYS else t for t in attention)


GLM4V = replace(
    GLM4,
    name="glm4v",
    hf=("Glm4vForConditionalGeneration",),
    defaults={
        "glm4v_text": {
            "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
            "num_attention_heads": 32, "num_key_value_heads": 2, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        },
    },
    block=(*NORMS, *halved(biased(ATTENTION, output=None)), *MLP, *AFTER),
    keys=(*keys.COMMON, keys.rotated_part(0.5), keys.rope_sections()),
    drop=(FREQUENCIES, *VISION),
    strip="language_model.",
    inside={"Glm4vModel": "Glm4vForConditionalGeneration", "Glm4vTextModel": "Glm4vForConditionalGeneration"},
    assumes=(assumptions.silu,),
)  # fmt: skip
GLM4V_MOE = replace(
    GLM4_MOE,
    name="glm4v_moe",
    hf=("Glm4vMoeForConditionalGeneration",),
    defaults={
        "glm4v_moe_text": {
            **{key: value for key, value in GLM4_MOE.defaults["glm4_moe"].items() if key not in ONLY_OF_TEXT},
            "vocab_size": 151424, "max_position_embeddings": 65536, "attention_bias": True,
        },
    },
    keys=(*GLM4_MOE.keys, keys.rope_sections()),
    drop=(FREQUENCIES, *VISION),
    strip="language_model.",
    inside={"Glm4vMoeModel": "Glm4vMoeForConditionalGeneration"},
)  # fmt: skip

GLM_OCR = replace(
    GLM4V,
    name="glm_ocr",
    hf=("GlmOcrForConditionalGeneration",),
    defaults={
        "glm_ocr_text": {
            "vocab_size": 59392, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16,
            "num_attention_heads": 16, "num_key_value_heads": 8, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        },
    },
    block=(*NORMS, *halved(without_biases(ATTENTION)), *MLP, *AFTER, *NEXT),
    keys=(*GLM4V.keys, keys.Key("nextn_predict_layers", "u32", FURTHER)),
    seen=(SEEN,),
    inside={"GlmOcrModel": "GlmOcrForConditionalGeneration"},
)  # fmt: skip

FAMILIES = (GLM4V, GLM4V_MOE, GLM_OCR)
