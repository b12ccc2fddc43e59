"""What programs on Macs refuse: mlx-lm, and LM Studio, which runs it beside llama.cpp."""

from __future__ import annotations

from dataclasses import replace

from quantkit.consumers.finders import AWQ, EXPERTS, MLX, Found, experts, fused, layers, unlike, whole
from quantkit.consumers.row import (
    DRAFT_NEAREST,
    DRAFT_REASON,
    ENCODERS,
    T5,
    T5_NEAREST,
    T5_REASON,
    Rule,
    drafting,
    turned,
)
from quantkit.consumers.subject import Subject

RUN = "run: mlx 0.32.4, mlx-lm 0.32.2 on CPU"
OWN = "--to mlx-4bit or --to mlx-8bit"
LOADED = ("mlx", "awq", "plain", "gguf")
GROUPS = (32, 64, 128)  # of its kernels
EXPERTS_NEAREST = "--to hf-bf16, or keep experts as they are (--keep experts=bf16)"
UNSTACKED = frozenset({"Qwen3MoeForCausalLM"})  # others that quantkit reads stack words, scales and biases alike


def unstacked(subject: Subject, tp: int) -> Found | None:
    """An objection to a rounded expert where mlx-lm stacks plain weights only."""
    return experts(MLX)(subject, tp) if subject.architecture in UNSTACKED else None


RULES_OF_MLX = (
    Rule(
        "mlx", "gguf", whole(lambda subject: subject.container == "gguf"), "mlx-lm does not read GGUF files", OWN,
        "read: mlx-lm 0.32.2, utils.py, load_model",
    ),
    Rule(
        "mlx", "container", whole(lambda subject: subject.container not in LOADED),
        "of quantized checkpoints it loads those of MLX, and AWQ", OWN, RUN,
    ),
    Rule(
        "mlx", "t5", whole(lambda subject: subject.architecture in T5 and subject.container != "gguf"), T5_REASON,
        T5_NEAREST, "read: mlx-lm 0.32.2, models",
    ),
    Rule(
        "mlx", "encoders", whole(lambda subject: subject.architecture in ENCODERS), T5_REASON, T5_NEAREST,
        "read: mlx-lm 0.32.2, models",
    ),
    Rule(
        "mlx", "drafts", drafting(), DRAFT_REASON, DRAFT_NEAREST, "read: mlx-lm 0.32.2, models, which has none of them",
        refuses=False,
    ),
    Rule(
        "mlx", "turned", turned(MLX),
        "it turns each matrix of {architecture} as it is loaded, one that is stored rounded, too, and stops",
        "--to hf-bf16", RUN,
    ),
    Rule(
        "mlx", "experts", unstacked,
        "it holds all experts of a block in one tensor, and makes that of plain ones only in {architecture}",
        EXPERTS_NEAREST, RUN,
    ),
    Rule(
        "mlx", "experts-awq", experts(AWQ),
        "it holds all experts of a block in one tensor, and does not make that of AWQ", EXPERTS_NEAREST, RUN,
    ),
    Rule(
        "mlx", "experts-unlike", fused(lambda group: unlike(group) if EXPERTS in group[0].name else None),
        "it holds all experts of a block in one tensor: all of them must be stored alike", "one rule for all experts",
        "read: mlx-lm 0.32.2, models: sanitize",
    ),
    Rule(
        "mlx", "kv-cache", whole(lambda subject: subject.kv_cache),
        "it stops at scales of keys and values", "the same recipe without kv_cache", RUN,
    ),
    Rule(
        "mlx", "awq-group", layers(AWQ, lambda it: it.group not in GROUPS),
        "its kernels have groups of 32, 64 or 128, not {groups}", "group = {group_to_128}",
        "read: mlx 0.32.4, documentation of quantize",
    ),
)  # fmt: skip

STUDIO = "read: documentation of LM Studio, 2026"
RULES_OF_LM_STUDIO = (
    Rule(
        "lmstudio", "safetensors", whole(lambda subject: subject.container not in ("gguf", "mlx")),
        "it runs GGUF files, and of safetensors only those of MLX", "a GGUF file of its own (--to q4_k_m)", STUDIO,
    ),
    Rule(
        "lmstudio", "macs", whole(lambda subject: subject.container == "mlx"),
        "it runs checkpoints of MLX on Macs only", "a GGUF file of its own (--to q4_k_m)", STUDIO, refuses=False,
    ),
    Rule(
        "lmstudio", "folders", whole(lambda subject: subject.container == "gguf"),
        "it finds a file by two folders, PUBLISHER/MODEL/FILE.gguf, an encoder beside it",
        "--layout lmstudio, or lms import", f"{STUDIO}, import models; lmstudio-js #387, bug tracker #356",
        refuses=False,
    ),
    *(
        replace(rule, consumer="lmstudio", source=STUDIO)
        for rule in RULES_OF_MLX if rule.name in ("t5", "encoders", "turned", "experts", "experts-unlike", "kv-cache")
    ),
)  # fmt: skip
