"""Names of classes in config.json that transformers has not: what opens them all the same.

transformers chooses the class by the model type, and never asks for the name; vLLM goes by the name, and knows some
that transformers does not have. Sources: transformers 5.23.0, models/auto; vLLM, 2026, models/registry.py (the names of
MPT, RW and StableLMEpoch: in a version of this year, with MiMoV2ForCausalLM; not among what was removed up to 0.26.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from quantkit.consumers.finders import Finder, Found
from quantkit.consumers.subject import Subject
from quantkit.records import record

Opened = Literal["text", "sights", "sounds"]


@record
class Name:
    """A name that transformers lacks. It opens checkpoints of the model types `types`, as the class `known` ("" where
    it has none for what is published under the name), with the loader of models that write `text`, that see
    (AutoModelForImageTextToText), or that hear and speak; `vllm` says that vLLM's registry has the name."""

    types: tuple[str, ...] = ()
    known: str = ""
    vllm: bool = False
    opened: Opened = "text"


NAMES: Mapping[str, Name] = {
    "BailingMoeV3ForCausalLM": Name(("bailing_hybrid",), "BailingHybridForCausalLM", vllm=True),
    "ChameleonForCausalLM": Name(("chameleon",), "ChameleonForConditionalGeneration", opened="sights"),
    "DeepseekOCRForCausalLM": Name(vllm=True),
    "DeepseekOCR2ForCausalLM": Name(
        ("deepseek_ocr2",), "DeepseekOcr2ForConditionalGeneration", vllm=True, opened="sights"
    ),
    "Ernie4_5_ForCausalLM": Name(("ernie4_5",), "Ernie4_5ForCausalLM"),
    "ExaoneMoEForCausalLM": Name(("exaone_moe",), "ExaoneMoeForCausalLM"),
    "JinaEmbeddingsV5Model": Name(),  # vLLM's class of this name is a Qwen3, not a EuroBERT
    "LFM2ForCausalLM": Name(("lfm2",), "Lfm2ForCausalLM"),
    "LLaMAForCausalLM": Name(("llama",), "LlamaForCausalLM", vllm=True),
    "MPTForCausalLM": Name(("mpt",), "MptForCausalLM", vllm=True),
    "MiMoV2ForCausalLM": Name(("mimo_v2_flash",), "MiMoV2FlashForCausalLM", vllm=True),
    "MiniMaxM1ForCausalLM": Name(("minimax",)),  # in vLLM up to 0.23.0, as the next
    "MiniMaxText01ForCausalLM": Name(("minimax",)),
    "MiniMaxM3SparseForCausalLM": Name(("minimax_m3_vl_text",), vllm=True),
    "NemotronHPuzzleForCausalLM": Name(vllm=True),
    "OLMoForCausalLM": Name(("olmo",), "OlmoForCausalLM"),
    "PhiMoEForCausalLM": Name(("phimoe",), "PhimoeForCausalLM", vllm=True),
    "Qwen2_5OmniModel": Name(("qwen2_5_omni",), "Qwen2_5OmniForConditionalGeneration", vllm=True, opened="sounds"),
    "RWForCausalLM": Name(("falcon",), "FalconForCausalLM", vllm=True),
    "StableLMEpochForCausalLM": Name(("stablelm",), "StableLmForCausalLM", vllm=True),
    "T5WithLMHeadModel": Name(("t5", "mt5", "umt5"), "T5ForConditionalGeneration"),
    "UnlimitedOCRForCausalLM": Name(
        ("unlimited_ocr",), "UnlimitedOcrForConditionalGeneration", vllm=True, opened="sights"
    ),
    "VLlama3ForCausalLM": Name(("llama",), "LlamaForCausalLM"),
}


def opened_as(architecture: object) -> Opened:
    """What loader of transformers opens the class of a name: of most that of models that write text."""
    found = NAMES.get(str(architecture))
    return "text" if found is None else found.opened


def known_as(architecture: str) -> str:
    """What transformers calls the class of a name that it lacks, "" where it has none."""
    found = NAMES.get(architecture)
    return "" if found is None else found.known


def unopened(*, by_vllm: bool) -> Finder:
    """An objection to a name, beside a model type, that transformers makes no model of; `by_vllm` says whether vLLM
    makes one."""

    def find(subject: Subject, tp: int) -> Found | None:
        name = NAMES.get(subject.architecture)
        if name is None or name.vllm is not by_vllm:
            return None
        opens = subject.model_type in name.types if subject.model_type else bool(name.types)
        return None if opens else Found()

    return find


def unlisted(*, renamed: bool) -> Finder:
    """An objection to a name that vLLM lacks, too; `renamed` says whether it knows the model by another name."""

    def find(subject: Subject, tp: int) -> Found | None:
        name = NAMES.get(subject.architecture)
        return Found() if name is not None and not name.vllm and bool(name.known) is renamed else None

    return find
