"""What programs on Macs refuse: mlx-lm, and LM Studio, which runs it beside llama.cpp."""

from __future__ import annotations

from dataclasses import replace

from quantkit.consumers.finders import AWQ, MLX, experts, layers, whole
from quantkit.consumers.row import Rule

RUN = "run: mlx 0.32.4, mlx-lm 0.32.2 on CPU"
OWN = "--to mlx-4bit or --to mlx-8bit"
LOADED = ("mlx", "awq", "plain", "gguf")
GROUPS = (32, 64, 128)  # of its kernels
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
        "mlx", "experts", experts(MLX | AWQ),
        "it holds all experts of a block in one tensor, and makes that of plain ones only",
        "--to hf-bf16, or keep experts as they are (--keep experts=bf16)", "read: mlx-lm 0.32.2, models: sanitize",
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
    *(
        replace(rule, consumer="lmstudio", source=STUDIO)
        for rule in RULES_OF_MLX if rule.name in ("experts", "kv-cache")
    ),
)  # fmt: skip
