"""Qwen2.5-Omni, Qwen3-Omni and Qwen3-ASR: the towers of Qwen-VL, and an encoder like Whisper's beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families.general import ReadFile
from quantkit.families.hparams import CONFIG_HINT, Hparams, part_of
from quantkit.families.layouts import column, split
from quantkit.families.model import ModelTensor
from quantkit.families.parts import Waves
from quantkit.families.roles import Role
from quantkit.families.rows import Condition, Drop, Stack, T, with_biases
from quantkit.families.spellings import Rename
from quantkit.families.tower import AUDIO_BLOCK, WHOLE, Tower, constant
from quantkit.families.towers.qwen3_vl import KEYS, QWEN3VL, deepstack
from quantkit.families.towers.qwen_vl import NORMS, OUTPUT, QWEN25VL, WINDOWED
from quantkit.families.towers.whisper import CONVOLUTIONS, LAYER, NUMBERS, PREFIX, PROJECTOR, audio_numbers
from quantkit.families.vit import GATED, INNER_TEXT, vision_keys, vision_numbers
from quantkit.tensors import TensorInfo

HEARD = "a_"  # before the numbers of the encoder of sound
NAME = re.compile(r"[a-z][a-z0-9_]*")
POSITIONS = 1500
WITHIN = (Rename(r"^thinker\.(?:model\.)?", ""),)
TEXT = (Rename(r"^thinker\.model\.(?:language_model\.)?", "model."), Rename(r"^thinker\.", ""))
LAYERS = f"{PREFIX}layers.{{}}."
SOUND = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "num_mel_bins": 128, "layer_norm_eps": 1e-5, "downsample_hidden_size": 480,
}  # fmt: skip


def heard(hparams: Hparams) -> Mapping[str, Any]:
    """The numbers of the encoder of sound."""
    part = part_of(hparams.values[WHOLE], "thinker_config.audio_config") or {}
    said = {NUMBERS.get(key, key): value for key, value in part.items()}
    numbers = {**SOUND, **said, "projection_dim": hparams.values["projection_dim"]}
    return {f"{HEARD}{key}": value for key, value in {**numbers, **rest(Hparams(numbers))}.items()}


def rest(hparams: Hparams) -> Mapping[str, Any]:
    """What three convolutions leave of the bands of a spectrum, each taking every other."""
    bands = hparams.count("num_mel_bins")
    for _ in range(3):
        bands = (bands + 1) // 2
    return {"bands": bands}


def beside(rows: tuple[T, ...]) -> tuple[T, ...]:
    """Rows of an encoder of sound that stands beside one of images."""
    return tuple(replace(t, shape=NAME.sub(rf"{HEARD}\g<0>", t.shape)) for t in rows)


def has_thinker(config: Mapping[str, Any]) -> bool:
    """Whether the parts of config.json stand inside another one, as they were published."""
    return part_of(config, "thinker_config") is not None


def layers_heard(hparams: Hparams) -> int:
    """How many layers the encoder of sound has."""
    return hparams.count(f"{HEARD}num_hidden_layers")


def positions(before: str) -> Any:
    """Positions of sound, which are computed."""

    def tensors(hparams: Hparams, found: Mapping[str, TensorInfo], read_file: ReadFile) -> tuple[ModelTensor, ...]:
        width = hparams.count(f"{before}hidden_size")
        if width % 2 or width < 4:
            what = f"config.json: the encoder of sound is {width} wide, expected an even number above 2"
            raise InputError(what, key="d_model", path="config.json", hint=CONFIG_HINT)
        part = Waves(POSITIONS, width)
        return (ModelTensor("a.position_embd.weight", Role.POSITION, (POSITIONS, width), (part,), stored="f32"),)

    return tensors


POST = T(f"{PREFIX}ln_post.weight", "a.post_ln.weight", Role.NORM, "hidden_size", bias="always")
SPECTRUM = tuple(
    row
    for number, before in ((1, "1"), (2, "downsample_hidden_size"), (3, "downsample_hidden_size"))
    for row in (
        T(f"{PREFIX}conv2d{number}.weight", f"a.conv2d.{number}.weight", Role.OTHER,
          f"downsample_hidden_size {before} 3 3", stored="f16"),
        T(f"{PREFIX}conv2d{number}.bias", f"a.conv2d.{number}.bias", Role.BIAS, "downsample_hidden_size",
          column >> split("1", "1")),
    )
)  # fmt: skip
OUTSIDE_3 = (
    *SPECTRUM,
    T(f"{PREFIX}conv_out.weight", "a.conv_out.weight", Role.OTHER, "hidden_size downsample_hidden_size*bands",
      stored="f16"),
    POST,
    T(f"{PREFIX}proj1.weight", "mm.a.mlp.1.weight", Role.OTHER, "hidden_size hidden_size", bias="always"),
    T(f"{PREFIX}proj2.weight", "mm.a.mlp.2.weight", Role.OTHER, "projection_dim hidden_size", bias="always"),
)  # fmt: skip
LAYER_3 = with_biases(LAYER)
SEPARATE = tuple(
    T(f"attn.{x}.weight", f"attn_{x}.weight", role, "hidden_size hidden_size", bias="always")
    for x, role in (("q", Role.ATTN_Q), ("k", Role.ATTN_K), ("v", Role.ATTN_V))
)
OWNS = tuple(f"{start}{own}" for start in ("", "thinker.", "thinker.model.") for own in ("visual.", PREFIX))


def one_width(hparams: Hparams) -> str | None:
    """What llama.cpp asks of a file with both encoders (tools/mtmd/mtmd.cpp), and what its tests' file shows."""
    if not any(deepstack(hparams)):
        return None
    return (
        "nothing with the encoders' file, which builds of October 2026 do not load: they count what images feed layers "
        "of the text model as width, and want sound as wide"
    )


QWEN25O = replace(
    QWEN25VL,
    name="qwen2.5o",
    hf=("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
    part="thinker_config.vision_config",
    owns=OWNS,
    outside=(
        *QWEN25VL.outside,
        *beside((
            *CONVOLUTIONS,
            POST,
            T(f"{PREFIX}proj.weight", "mm.a.fc.weight", Role.OTHER, "projection_dim hidden_size", bias="always"),
        )),
    ),
    block=(*NORMS, *SEPARATE, OUTPUT, *with_biases(GATED)),
    stacks=(Stack(LAYERS, AUDIO_BLOCK, layers_heard, beside(LAYER)),),
    derive=(heard,),
    keys=vision_keys("qwen2.5o", *WINDOWED, *audio_numbers(HEARD)),
    drop=(Drop(f"{PREFIX}audio_bos_eos_token.*", "transformers does not use it"),),
    spellings=WITHIN,
    text=TEXT,
    also=positions(HEARD),
)  # fmt: skip
QWEN3O = replace(
    QWEN3VL,
    hf=("Qwen3OmniMoeForConditionalGeneration",),
    part="thinker_config.vision_config",
    owns=OWNS,
    outside=(*QWEN3VL.outside, *beside(OUTSIDE_3)),
    stacks=(*QWEN3VL.stacks, Stack(LAYERS, AUDIO_BLOCK, layers_heard, beside(LAYER_3))),
    derive=(*QWEN3VL.derive, heard),
    keys=(
        *vision_numbers(),
        constant("vision.projector_type", "string", "qwen3vl_merger"),
        *KEYS,
        *audio_numbers(HEARD),
        constant("audio.projector_type", "string", "qwen3a"),
    ),
    spellings=(
        *WITHIN,
        Rename(r"^visual\.merger_list\.", "visual.deepstack_merger_list."),
        Rename(r"^(visual\.(?:deepstack_merger_list\.\d+|merger)\.)ln_q\.", r"\1norm."),
        Rename(r"^(visual\.(?:deepstack_merger_list\.\d+|merger)\.)mlp\.0\.", r"\1linear_fc1."),
        Rename(r"^(visual\.(?:deepstack_merger_list\.\d+|merger)\.)mlp\.2\.", r"\1linear_fc2."),
    ),
    text=TEXT,
    also=positions(HEARD),
    assumes=(one_width,),
)
QWEN3ASR = Tower(
    name="qwen3a",
    hf=("Qwen3ASRForConditionalGeneration",),
    part="thinker_config.audio_config",
    owns=("thinker.audio_tower.", "audio_tower.", PROJECTOR),
    outside=OUTSIDE_3,
    block=LAYER_3,
    source_block=LAYERS,
    target_block=AUDIO_BLOCK,
    defaults=SOUND,
    aliases=NUMBERS,
    derive=(rest,),
    keys=(*audio_numbers(), constant("audio.projector_type", "string", "qwen3a")),
    spellings=(*WITHIN, Rename(r"^multi_modal_projector\.linear_", f"{PREFIX}proj")),
    text=TEXT,
    also=positions(""),
    when=Condition("config.json has a thinker_config", has_thinker),
    sees=False,
)
QWEN3ASR_SAVED = replace(  # as transformers 5 saves it
    QWEN3ASR,
    part="audio_config",
    text=INNER_TEXT,
    when=Condition("config.json has no thinker_config", lambda config: not has_thinker(config)),
)

TOWERS = (QWEN25O, QWEN3O, QWEN3ASR, QWEN3ASR_SAVED)
