"""Language models that transformers has only inside one that sees or hears, and encoders, with a head of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantkit.records import record

# Model types of parts for text -> what transformers 5.24 makes of them.
KINDS: Mapping[str, str] = {
    "deepseek_ocr": "deepseek_ocr2_text", "exaone4_5_text": "exaone4", "qwen3_asr_text": "qwen3",
}  # fmt: skip
# Those whose classes AutoModel does not find, or finds with a decoder.
CLASSES: Mapping[str, str] = {
    "deepseek_ocr2_text": "DeepseekOcr2TextModel",
    "mt5": "MT5EncoderModel",
    "paddleocr_vl_text": "PaddleOCRTextModel",
    "qwen2_5_omni_text": "Qwen2_5OmniThinkerTextModel",
    "qwen3_omni_moe_text": "Qwen3OmniMoeThinkerTextModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
# Parts that no logits go through: what reads the first token alone, and is not in every file; what makes tokens of
# images.
BESIDE = ("pooler", "vqmodel")


class Headed(nn.Module):
    """A language model without a head, and the head that the class around it has; an encoder and its embeddings.

    Tokens that stand for images (Chameleon) are never predicted: the head's bias, which no file has, takes their logits
    to the lowest float32, as the class around it does with logits of a whole vocabulary.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.model, self.config = inner, inner.config
        for part in BESIDE:
            if hasattr(inner, part):
                setattr(inner, part, None)
        embedding = inner.get_input_embeddings()
        self.lm_head = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False)
        if self.config.tie_word_embeddings:
            self.lm_head.weight = embedding.weight
        if hasattr(inner, "vocabulary_mapping"):
            bias = torch.zeros(embedding.num_embeddings, device="cpu")
            bias[inner.vocabulary_mapping.image_tokens] = torch.finfo(bias.dtype).min
            head: Any = self.lm_head
            del head.bias
            head.bias = bias  # no parameter

    def get_decoder(self) -> Any:
        return self.model

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def _init_weights(self, module: nn.Module) -> None:
        self.model._init_weights(module)

    def forward(self, input_ids: Tensor, use_cache: bool) -> Predicted:
        """Logits of the ids; scaled and capped where the configuration says so, as Muse Glimmer's class does it."""
        logits = self.lm_head(self.model(input_ids=input_ids, use_cache=use_cache).last_hidden_state)
        logits = logits * getattr(self.config, "output_multiplier", 1.0)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return Predicted(logits if cap is None else torch.tanh(logits / cap) * cap)


@record
class Predicted:
    """What a model with a head gives."""

    logits: Tensor


def headed(config: Any) -> Headed:
    """The language model of a configuration, and its head, on the device of the context. Raises ValueError where
    transformers has no such class."""
    import transformers

    name = CLASSES.get(config.model_type)
    build = transformers.AutoModel.from_config if name is None else getattr(transformers, name)._from_config
    return Headed(one_table(build(config, dtype=torch.float32, attn_implementation="sdpa")))


def one_table(model: Any) -> Any:
    """A model that looks up tokens in one module, where T5 has tables for each stack beside that of all."""
    if hasattr(model, "shared"):
        model.set_input_embeddings(model.shared)
    return model


def positions_of(decoder: Any, rows: Tensor) -> dict[str, Tensor]:
    """The positions that RoBERTa's class counts from the ids of tokens, for rows that are no such ids."""
    embeddings: Any = getattr(decoder, "embeddings", None)
    if not hasattr(embeddings, "create_position_ids_from_input_ids"):
        return {}
    first = embeddings.padding_idx + 1
    return {"position_ids": torch.arange(first, first + rows.shape[1], device=rows.device).unsqueeze(0)}
