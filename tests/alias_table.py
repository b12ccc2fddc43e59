"""One row for each architecture that is one of `family_table` under another name, or inside another model.

Their files are compared with the reference's and no more: what is in them is tested there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from family_table import (
    ENDED,
    FOUR,
    QWEN_ROPE,
    SIZES,
    SPM,
    TABLE,
    TEMPLATED,
    YOUTU,
    Entry,
    as_inclusion,
    llama_shapes,
    mixture_shapes,
    own,
)

VISION = {"hidden_size": 32, "num_hidden_layers": 1}
DEEPSEEK = {
    **YOUTU, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 256,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_nextn_predict_layers": 0,
}  # fmt: skip


def inside(
    architecture: str, text: Entry, respell: Mapping[str, str], beside: tuple[str, ...], *, model_type: str,
    part: str | None = "text_config", named: bool = False, **root: Any,
) -> Entry:  # fmt: skip
    """The language model `text` inside another one.

    `respell` makes names of the latter of those of the former, `beside` are tensors that are none of a language model,
    `part` is where config.json has its numbers, None for the root; `named` says that they name its architecture.
    """

    def edit(config: dict[str, Any]) -> None:
        if text.edit:
            text.edit(config)
        numbers = dict(config)
        if part is None or not named:
            del numbers["architectures"]
        if part is None:
            del numbers["model_type"]
        for key in reversed(part.split(".") if part else ()):
            numbers = {key: numbers}
        config.clear()
        config.update({**numbers, "architectures": [architecture], "model_type": model_type, **root})

    return replace(
        text,
        edit=edit,
        told=None,
        published=respelled(respell, beside),
        further={**text.further, **dict.fromkeys(beside, (32, 32))},
    )


def respelled(spellings: Mapping[str, str], keep: tuple[str, ...]) -> Callable[[dict[str, Any]], object]:
    """Other names of tensors but those to keep, in place."""

    def change(tensors: dict[str, Any]) -> None:
        for old in set(tensors) - {*keep}:
            new = old
            for pattern, to in spellings.items():
                new = re.sub(pattern, to, new)
            tensors[new] = tensors.pop(old)

    return change


def without_head(tensors: dict[str, Any]) -> None:
    """As AutoModel saves a model, in place."""
    for name in list(tensors):
        tensors[name.removeprefix("model.")] = tensors.pop(name)
    tensors.pop("lm_head.weight", None)


def bias_in_full(tensors: dict[str, Any]) -> None:
    """What corrects the choice of experts as float32, in place."""
    tensors |= {name: tensor.float() for name, tensor in tensors.items() if name.endswith("expert_bias")}


GPT2 = {"tokenizer_config.json": '{"tokenizer_class": "GPT2Tokenizer"}'}
LLAMA = Entry("Llama", SPM, bpe=False)
LFM2 = Entry("Lfm2", {**FOUR, "block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"] * 2})
QWEN2 = Entry("Qwen2", SIZES)
QWEN3 = Entry("Qwen3", {**SIZES, "head_dim": 32})
POOLED = {
    "modules.json": '[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]',
    "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true}',
}  # fmt: skip
LANGUAGE = {r"^(model|lm_head)\.": r"language_model.\1."}  # of transformers 4
INNER = {r"^model\.": "model.language_model."}  # of transformers 5


ALIASES: dict[str, Entry] = {
    "iquest-coder": replace(LLAMA, edit=lambda config: config.update(
        architectures=["IQuestCoderForCausalLM"], model_type="iquestcoder"
    )),
    "smolvlm2": inside(
        "SmolVLMForConditionalGeneration", replace(LLAMA, edit=lambda config: config.update(
            architectures=["VLlama3ForCausalLM"]
        )),
        {r"^model\.": "model.text_model."}, (), model_type="smolvlm", named=True,
    ),
    "lfm2-audio": inside(
        "Lfm2AudioForConditionalGeneration", LFM2, {"^model": "lfm"},
        ("conformer.layers.0.conv.pointwise_conv1.weight", "audio_embedding.embedding.weight",
         "audio_adapter.model.0.weight", "depth_embeddings.0.embedding.weight", "depth_linear.weight",
         "depthformer.layers.0.operator.weight", "codebook_offsets"),
        model_type="lfm2_audio", part="lfm", named=True,
    ),
    "lfm2-bidirectional": replace(
        LFM2, files=POOLED, published=without_head,
        edit=lambda config: config.update(architectures=["Lfm2BidirectionalModel"]),
    ),
    "jina-v5": Entry(
        None, own("JinaEmbeddingsV5Model", "jina_embeddings_v5", head_dim=32, rms_norm_eps=1e-5, rope_theta=1e5),
        files=POOLED,
        shapes=lambda config: {
            n.removeprefix("model."): s for n, s in llama_shapes(config).items() if n != "lm_head.weight"
        },
    ),
    "umt5-without-head": Entry(
        "UMT5Model",
        {"vocab_size": 2048, "d_model": 256, "d_kv": 32, "d_ff": 512, "num_layers": 2, "num_heads": 8,
         "num_hidden_layers": 2, "feed_forward_proj": "gated-gelu", "bos_token_id": 1, "eos_token_id": 2},
        bpe=False,
    ),
    "ling-3-vl": inside(
        "BailingMoeV3VLForConditionalGeneration", replace(TABLE["ling-3"], edit=lambda config: (
            as_inclusion(config), config.update(mrope_section=[8, 12, 12])
        )),
        INNER, ("model.visual.blocks.0.attn.qkv.weight", "linear_proj.0.weight"), model_type="bailing_moe_v3_vl",
        vision_config=VISION,
    ),
    **{
        name: inside(
            architecture, TABLE["nemotron-h-published"], {"^": "language_model."},
            ("vision_model.radio_model.model.blocks.0.attn.qkv.weight", "mlp1.1.weight"),
            model_type="nemotron_own", part="llm_config", named=True, vision_config=VISION,
        )
        for name, architecture in (
            ("nemotron-nano-vl", "NemotronH_Nano_VL_V2"), ("nemotron-omni", "NemotronH_Nano_Omni_Reasoning_V3"),
            ("nemotron-omni-as-saved", "NemotronH_Omni_Reasoning_V3"),
        )
    },
    "glm-5v": inside(
        "Glm5vForConditionalGeneration", TABLE["glm-5"], LANGUAGE,
        ("vision_tower.encoder.blocks.0.wqkv.weight", "mm_projector.linear_1.weight"), model_type="glm5v_own",
        named=True, vision_config=VISION, num_hidden_layers=2,  # which the reference reads at the root
    ),
    "glm-asr-as-saved": inside(
        "GlmAsrForConditionalGeneration", LLAMA, LANGUAGE,
        ("audio_tower.conv1.weight", "multi_modal_projector.linear_1.weight"), model_type="glmasr_own", named=True,
        audio_config=VISION,
    ),
    "meralion-2": inside(
        "MERaLiON2ForConditionalGeneration", Entry("Gemma2", {**SPM, "head_dim": 32}, bpe=False),
        {"^": "text_decoder."},
        ("speech_encoder.conv1.weight", "ln_speech.weight", "speech_audio_adapter.gate_proj.weight"),
        model_type="meralion2_own", named=True, speech_config=VISION,
    ),
    "qwen2.5-omni": inside(
        "Qwen2_5OmniModel", replace(QWEN2, config={**SIZES, **QWEN_ROPE}), {"^": "thinker."},
        ("talker.model.embed_tokens.weight", "token2wav.code2wav_bigvgan_model.conv_pre.weight",
         "thinker.audio_tower.conv1.weight"), model_type="qwen2_5_omni_own", part="thinker_config.text_config",
    ),
    "qwen3-omni": inside(
        "Qwen3OmniMoeForConditionalGeneration", Entry("Qwen3Moe", {
            **SIZES, **QWEN_ROPE, "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 256, "norm_topk_prob": True,
        }, files={"tokenizer_config.json": ENDED}),
        {"^": "thinker."}, ("talker.model.embed_tokens.weight", "code2wav.decoder.0.conv.weight"),
        model_type="qwen3_omni_moe_own", part="thinker_config.text_config",
    ),
    **{
        name: inside(
            "Qwen3ASRForConditionalGeneration",
            replace(QWEN3, config={**QWEN3.config, **QWEN_ROPE}, files={"tokenizer_config.json": TEMPLATED}),
            respell, beside, model_type="qwen3_asr_own", part=part,
        )
        for name, respell, beside, part in (
            ("qwen3-asr", {"^": "thinker."}, (), "thinker_config.text_config"),
            ("qwen3-asr-hf", INNER, ("model.audio_tower.conv1.weight", "model.multi_modal_projector.linear_1.weight"),
             "text_config"),
        )
    },
    "sarvam": Entry(
        None,
        {**TABLE["ling-2.0"].config, "architectures": ["SarvamMoEForCausalLM"], "model_type": "sarvam_moe_own"},
        shapes=lambda config: mixture_shapes(config, second=True), published=bias_in_full,
    ),
    "kormo": Entry(
        None, own("KORMoForCausalLM", "kormo", rms_norm_eps=1e-5, rope_theta=5e5),
        shapes=lambda config: {
            n.replace("input_", "pre_attention_").replace("post_attention_", "pre_mlp_"): s
            for n, s in llama_shapes(config).items()
        },
    ),
    "dots-ocr": inside(
        "DotsOCRForCausalLM", QWEN2, {}, ("vision_tower.blocks.0.attn.qkv.weight",), model_type="dots_ocr", part=None,
        vision_config=VISION,
    ),
    "audio-flamingo-3": inside(
        "AudioFlamingo3ForConditionalGeneration", QWEN2, LANGUAGE, (), model_type="audioflamingo3"
    ),
    **{
        name: inside(
            architecture, Entry("Granite", SPM, bpe=False), LANGUAGE,
            ("encoder.layers.0.ff1.up_proj.weight", "projector.linear.weight"), model_type=name.replace("-", "_"),
            named=True,
        )
        for name, architecture in (
            ("granite-speech", "GraniteSpeechForConditionalGeneration"),
            ("granite-speech-plus", "GraniteSpeechPlusForConditionalGeneration"),
        )
    },
    **{
        name: inside(
            architecture, replace(TABLE["deepseek-ocr"], edit=lambda config: config.update(
                architectures=["DeepseekV2ForCausalLM"]
            )),
            {}, ("model.qwen2_model.model.model.layers.0.mlp.up_proj.weight",), model_type="deepseek_vl_v2",
            part="language_config", named=True, **more,
        )
        for name, architecture, more in (
            ("deepseek-ocr-2", "DeepseekOCR2ForCausalLM", {}),
            ("unlimited-ocr", "UnlimitedOCRForCausalLM", {"sliding_window_size": 64}),
        )
    },
    "janus": inside(
        "JanusForConditionalGeneration", LLAMA, INNER,
        ("model.vision_model.encoder.layers.0.mlp.fc1.weight", "model.aligner.fc1.weight",
         "model.vqmodel.quant_conv.weight", "model.generation_embeddings.weight",
         "model.generation_aligner.fc1.weight", "model.generation_head.vision_head.weight"),
        model_type="janus",
    ),
    "kimi-vl": inside(
        "KimiVLForConditionalGeneration", Entry("DeepseekV3", DEEPSEEK), LANGUAGE,
        ("vision_tower.encoder.blocks.0.wqkv.weight", "multi_modal_projector.linear_1.weight"),
        model_type="kimi_vl", vision_config=VISION,
    ),
    **{
        name: inside(
            architecture, Entry("DeepseekV3", DEEPSEEK), respell,
            ("vision_tower.encoder.blocks.0.wqkv.weight", "mm_projector.proj.0.weight"),
            model_type="kimi_k25_own", named=True, vision_config=VISION,
        )
        for name, architecture, respell in (
            ("kimi-k2.5", "KimiK25ForConditionalGeneration", LANGUAGE),
            ("kimi-k2.5-as-saved", "Kimi_K25ForConditionalGeneration", INNER),
        )
    },
    **{
        name: inside(
            architecture, QWEN3, INNER,
            ("model.vision_encoder.patch_conv.weight", "model.vision_projection.linear_1.weight"),
            model_type="mistral3", named=True,
        )
        for name, architecture in (
            ("lighton-ocr", "LightOnOCRForConditionalGeneration"),
            ("lighton-ocr-as-saved", "LightOnOcrForConditionalGeneration"),
        )
    },
    "stablelm-llava": inside(
        "LlavaStableLMEpochForCausalLM", Entry("StableLm", SIZES), {},
        ("model.vision_tower.vision_tower.patch_embed.weight", "model.mm_projector.0.weight"),
        model_type="llava_stablelm_epoch", part=None,
    ),
    "phi-4-vision": inside(
        "Phi4ForCausalLMV", Entry("Phi3", SIZES, files=GPT2), {},
        ("model.vision_tower.vision_tower.encoder.layers.0.mlp.fc1.weight", "model.mm_projector.0.weight"),
        model_type="phi4-siglip", part=None,
    ),
    "sarashina2-vision": inside(
        "Sarashina2VisionForCausalLM", LLAMA, {r"^(model|lm_head)\.": r"llm.\1."},
        ("visual.blocks.0.attn.qkv.weight", "norm.weight"), model_type="sarashina2_vision",
    ),
    "step-3.7": inside(
        "Step3p7ForConditionalGeneration", TABLE["step-3.5"], {},
        ("vision_model.conv1.weight", "vit_large_projector.weight"), model_type="step3p7",
    ),
    "step3-vl": inside(
        "StepVLForConditionalGeneration", QWEN3, {},
        ("vision_model.transformer.resblocks.0.attn.in_proj_weight", "vit_large_projector.weight"),
        model_type="step_robotics", vision_config=VISION,
    ),
    "youtu-vl": inside(
        "YoutuVLForConditionalGeneration", TABLE["youtu"], {},
        ("siglip2.vision_model.encoder.layers.0.mlp.fc1.weight", "merger.mlp.0.weight"), model_type="youtu_vl",
        part=None,
    ),
    "minicpm-v-4.6": inside(
        "MiniCPMV4_6ForConditionalGeneration", Entry("Qwen3_5", {
            **FOUR, "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 64,
            "linear_value_head_dim": 64, "mtp_num_hidden_layers": 0,
        }),
        INNER,
        ("model.vision_tower.encoder.layers.0.mlp.fc1.weight", "model.merger.mlp.0.linear_1.weight"),
        model_type="minicpmv4_6",
    ),
}  # fmt: skip
