"""Models around a language model that say in config.json only what they are as a whole: what stands inside.

A row says which architecture stands inside, which tensors are not its own, and how its names are spelled; all else is
the family's. Names are those of the published checkpoints and of transformers; what llama.cpp's converter leaves out
of the text model (conversion/base.py, `TextModel.filter_tensors`, October 2026) is left out here. Where the encoder is
a row of `families.towers`, its tensors are that file's before they are left out of this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quantkit.families.rows import Drop, Family
from quantkit.families.spellings import Rename
from quantkit.families.vit import INNER_TEXT
from quantkit.records import record

REASON = "it is of no language model"
UNSERVED = "its language model stands inside another one, and is not run here"


@record
class Wrapped:
    """`inside` is the architecture of the language model, `owns` are the beginnings of the names of all other tensors,
    without "model.", whether a tower knows them or not; `text` brings the names of the language model into the spelling
    of its family."""

    inside: str
    owns: tuple[str, ...]
    text: tuple[Rename, ...] = INNER_TEXT

    def around(self, family: Family) -> Family:
        """The family of the language model, as it reads this checkpoint."""
        patterns = (f"{start}{own}*" for own in self.owns for start in ("", "model."))
        return replace(
            family,
            spellings=(*self.text, *family.spellings),
            drop=(*family.drop, *(Drop(pattern, REASON) for pattern in patterns)),
            unserved=family.unserved or UNSERVED,
        )


LLAVA = ("vision_tower.", "mm_projector.")
NEMOTRON = Wrapped(
    "NemotronHForCausalLM", ("vision_model.", "mlp1.", "vision_projector.", "sound_encoder.", "sound_projection.")
)
WRAPPED: Mapping[str, Wrapped] = {
    "BailingMoeV3VLForConditionalGeneration": Wrapped("BailingMoeV3ForCausalLM", ("visual.", "linear_proj.")),
    "DotsOCRForCausalLM": Wrapped("Qwen2ForCausalLM", ("vision_tower.",)),
    "Glm5vForConditionalGeneration": Wrapped("GlmMoeDsaForCausalLM", LLAVA),
    "GlmAsrForConditionalGeneration": Wrapped("LlamaForCausalLM", ("audio_tower.", "multi_modal_projector.")),
    "GraniteSpeechForConditionalGeneration": Wrapped("GraniteForCausalLM", ("encoder.", "projector.")),
    "GraniteSpeechPlusForConditionalGeneration": Wrapped("GraniteForCausalLM", ("encoder.", "projector.")),
    "JanusForConditionalGeneration": Wrapped(
        "LlamaForCausalLM",
        ("vision_model.", "aligner.", "vqmodel.", "generation_embeddings.", "generation_aligner.", "generation_head."),
    ),
    "KimiK25ForConditionalGeneration": Wrapped("DeepseekV3ForCausalLM", LLAVA),
    "Kimi_K25ForConditionalGeneration": Wrapped("DeepseekV3ForCausalLM", LLAVA),  # as transformers calls it
    "KimiVLForConditionalGeneration": Wrapped("DeepseekV3ForCausalLM", ("vision_tower.", "multi_modal_projector.")),
    "Lfm2AudioForConditionalGeneration": Wrapped(
        "Lfm2ForCausalLM",
        ("conformer.", "audio_", "depth_", "depthformer.", "codebook_offsets"),
        text=(Rename(r"^lfm\.", "model."),),
    ),
    "LightOnOCRForConditionalGeneration": Wrapped("Qwen3ForCausalLM", ("vision_encoder.", "vision_projection.")),
    "LightOnOcrForConditionalGeneration": Wrapped("Qwen3ForCausalLM", ("vision_encoder.", "vision_projection.")),
    "LlavaStableLMEpochForCausalLM": Wrapped("StableLmForCausalLM", LLAVA),
    "MiniCPMV4_6ForConditionalGeneration": Wrapped("Qwen3_5ForCausalLM", ("vision_tower.", "merger.")),
    "MERaLiON2ForConditionalGeneration": Wrapped(
        "Gemma2ForCausalLM",
        ("speech_encoder.", "ln_speech.", "speech_audio_adapter."),
        text=(Rename(r"^text_decoder\.", ""),),
    ),
    "NemotronH_Nano_Omni_Reasoning_V3": NEMOTRON,
    "NemotronH_Nano_VL_V2": NEMOTRON,
    "NemotronH_Omni_Reasoning_V3": NEMOTRON,  # as transformers calls it
    "Phi4ForCausalLMV": Wrapped("Phi3ForCausalLM", LLAVA),
    "Sarashina2VisionForCausalLM": Wrapped(
        "LlamaForCausalLM", ("visual.",), text=(Rename(r"^norm\.", "visual.norm."), Rename(r"^llm\.", ""))
    ),
    "Step3p7ForConditionalGeneration": Wrapped("Step3p5ForCausalLM", ("vision_model.", "vit_large_projector.")),
    "StepVLForConditionalGeneration": Wrapped("Qwen3ForCausalLM", ("vision_model.", "vit_large_projector.")),
    "YoutuVLForConditionalGeneration": Wrapped("YoutuForCausalLM", ("siglip2.", "merger.")),
}
