"""The language models of Qwen2.5-Omni, Qwen3-Omni and Qwen3-ASR: those of Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from dataclasses import replace

from quantkit.families import keys
from quantkit.families.known.qwen import QWEN3, QWEN3_MOE
from quantkit.families.known.qwen_vl import DEEPSTACK, QWEN2_NUMBERS, QWEN2_VL, QWEN3_VL, QWEN3_VL_MOE
from quantkit.families.rows import Drop
from quantkit.families.spellings import Rename

THINKER = (Rename(r"^thinker\.model\.(?:language_model\.)?", "model."), Rename(r"^thinker\.", ""))
ENCODER = "the encoder belongs into a file of its own"
SPEECH = "llama.cpp has no place for what speaks"
OTHERS = (
    *(Drop(pattern, ENCODER) for pattern in ("visual.*", "model.visual.*", "audio_tower.*", "model.audio_tower.*")),
    *(Drop(pattern, SPEECH, told=True) for pattern in ("talker.*", "token2wav.*", "code2wav.*")),
)

NO_DEEPSTACK = keys.computed(DEEPSTACK.name, "u32", lambda hparams: 0)
PLAIN = (  # llama.cpp's, in the place of one for sound
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN2_5_OMNI = replace(
    QWEN2_VL,
    name="qwen2_5_omni",
    hf=("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
    defaults={
        "qwen2_5_omni_text": {
            **QWEN2_NUMBERS, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        },
    },
    drop=(*QWEN2_VL.drop, *OTHERS),
    spellings=THINKER,
    inside={},
)  # fmt: skip
QWEN3_OMNI_MOE = replace(
    QWEN3_VL_MOE,
    name="qwen3_omni_moe",
    hf=("Qwen3OmniMoeForConditionalGeneration",),
    defaults={
        "qwen3_omni_moe_text": {
            "vocab_size": 3584, "hidden_size": 2048, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "num_local_experts": 128, "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
    },
    block=QWEN3_MOE.block,
    keys=(*QWEN3_MOE.keys, keys.rope_sections(24, 20, 20), NO_DEEPSTACK),
    drop=(*QWEN3_VL_MOE.drop, *OTHERS),
    spellings=THINKER,
    inside={},
    derive=(),
    seen=(),
    tokens=replace(QWEN3_VL_MOE.tokens, both_ends="<|im_end|>"),
)  # fmt: skip

QWEN3_ASR = replace(
    QWEN3_VL,
    name="qwen3_asr",
    hf=("Qwen3ASRForConditionalGeneration",),
    defaults={"qwen3_asr_text": QWEN3.defaults["qwen3"]},
    keys=(*keys.without(QWEN3_VL.keys, DEEPSTACK.name), NO_DEEPSTACK),
    drop=(*QWEN3_VL.drop, *OTHERS, Drop("model.multi_modal_projector.*", ENCODER)),
    spellings=THINKER,
    inside={},
    derive=(),
    tokens=replace(QWEN3_VL.tokens, both_ends="<|im_end|>", template=PLAIN, template_wins=True),
)

FAMILIES = (QWEN2_5_OMNI, QWEN3_OMNI_MOE, QWEN3_ASR)
