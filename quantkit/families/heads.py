"""Checkpoints without an output head: what AutoModel and sentence-transformers save of a language model.

Their architecture is that of the model's inside ("Qwen3Model" for "Qwen3ForCausalLM"), the prefix "model." is missing
from the names of tensors, and there is no lm_head even where the configuration does not tie it to the embeddings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from quantkit.families.hparams import Hparams, nested_part
from quantkit.families.known import families_with
from quantkit.tensors import TensorInfo

HEAD = "lm_head.weight"
SUFFIX = "ForCausalLM"
TIED = "tie_word_embeddings"
OWN_TEXT = frozenset({  # whose part for text names an older architecture
    "KimiK3ForConditionalGeneration", "DeepseekOCRForCausalLM", "DeepseekOCR2ForCausalLM", "UnlimitedOCRForCausalLM",
    "Exaone4_5_ForConditionalGeneration", "Eagle3Speculator", "Eagle3DraftModel", "DSparkDraftModel",
    "DSparkSpeculator",
})  # fmt: skip


def headed(inside: str) -> str | None:
    """The model with its head that has this inside ("Qwen3ForCausalLM" has "Qwen3Model"); None where none has it."""
    said = next((family.inside[inside] for family in families_with(inside) if inside in family.inside), None)
    whole = inside.removesuffix("Model") + SUFFIX
    if said is None and inside.endswith("Model") and any(whole in family.hf for family in families_with(whole)):
        return whole
    return said


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """The first name in `architectures`, a nested `text_config`'s before the root's; None without one."""
    inner, outer = (first_named(each) for each in (nested_part(config) or {}, config))
    return outer if outer in OWN_TEXT else inner or outer


def first_named(config: Mapping[str, Any]) -> str | None:
    """The first name in `architectures` of this part of config.json alone; None without one."""
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def lacks_head(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the checkpoint has no output head and need not have one."""
    architecture = architecture_of(config)
    inside = architecture is not None and headed(architecture) is not None
    return inside and not any(name.endswith(HEAD) for name in tensors)


def needs_no_head(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the head is the embeddings where no matrix is stored for it: the checkpoint lacks it, or config.json says
    so at its root. What the part for the language model says counts only beside a root that says nothing."""
    return lacks_head(config, tensors) or (config.get(TIED) is True and not stored_head(tensors))


def without_head(config: Mapping[str, Any], hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> Hparams:
    """The numbers of a checkpoint; of one that needs no head, as if this were tied to the embeddings."""
    if needs_no_head(config, tensors):
        return replace(hparams, values={**hparams.values, TIED: True})
    return hparams


def stored_head(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the checkpoint has a matrix of its own for the head.

    Then this is the head, whatever config.json says: transformers 5 ties two stored matrices only where they are
    equal, and llama.cpp takes the one in the file.
    """
    return any(name == HEAD or name.endswith(f".{HEAD}") for name in tensors)


def head_warnings(
    config: Mapping[str, Any], hparams: Hparams, tensors: Mapping[str, TensorInfo], dropped: Collection[str]
) -> tuple[tuple[str, str], ...]:
    """A word on a head that neither is there nor is the embeddings: the file computes embeddings, but no text.

    And on one that is there although config.json says that it is the embeddings.
    """
    if stored_head(tensors) and hparams.flag(TIED) and config.get(TIED) is not False:
        left_out = any(name.endswith(HEAD) for name in dropped)
        what = "it is left out, since llama.cpp takes the embeddings" if left_out else "it is used and takes its bytes"
        said = f"config.json ties the output head to the embeddings, and {HEAD} is stored: {what}"
        return (("tied-head", said),)
    if not lacks_head(config, tensors) or hparams.flag(TIED):
        return ()
    what = f"{architecture_of(config)} has no output head: right for embeddings, but text made with it is not its own"
    return (("no-head", what),)
