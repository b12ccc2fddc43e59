"""Checkpoints of families in which scales can be moved, by their names, and their families."""

from __future__ import annotations

FAMILY = {
    "llama-untied-gqa": "llama",
    "qwen2-tied": "qwen2",
    "mixtral-4x1M": "mixtral",
    "qwen3-moe": "qwen3_moe",
    "qwen2-moe": "qwen2_moe",
    "qwen3-vl-moe": "qwen3_vl_moe",
    "olmo2": "olmo2",
    "gemma2": "gemma2",
    "phi3": "phi3",
    "phi-2": "phi2",
    "stablelm": "stablelm",
    "stablelm-parallel": "stablelm",
    "olmo": "olmo",
    "starcoder2": "starcoder2",
    "nemotron": "nemotron",
    "jais2": "jais2",
    "granite-4-h-dense": "granite_hybrid",
    "falcon-h1": "falcon_h1",
    "nemotron-h": "nemotron_h",
    "gpt-oss": "gpt_oss",
    "dbrx": "dbrx",
}
# What is run in both directions, or stored turned round: scales move, and columns are not evened.
MOVED = {
    **FAMILY,
    "gpt2": "gpt2",
    "chameleon": "chameleon",
    "chameleon-swin": "chameleon",
    "bert-mean": "bert",
    "distilbert": "distilbert",
    "modernbert": "modernbert",
    "eurobert": "eurobert",
}
