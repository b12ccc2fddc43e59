"""Two examples for the help of every command."""

from __future__ import annotations

EXAMPLES = {
    "convert": (
        "quantkit convert ./My-Model --to q4_k_m -o out",
        "quantkit convert ./My-Model --to gptq-w4g128 --calib text.jsonl -o out-gptq",
    ),
    "plan": (
        "quantkit plan ./My-Model --to q4_k_m,q6_k",
        "quantkit plan ./My-Model --fit rtx4090 --ctx 32768",
    ),
    "calibrate": (
        "quantkit calibrate ./My-Model --data text.jsonl -o imatrix.gguf",
        "quantkit calibrate ./My-Model --data text.jsonl -o text.safetensors",
    ),
    "quantize": (
        "quantkit quantize ./My-Model --to q4_k_m -o work",
        "quantkit quantize ./My-Model --to q4_k_m,q8_0 -o work",
    ),
    "pack": (
        "quantkit pack work/Q4_K_M -o out",
        "quantkit pack work/Q4_K_M --dry-run",
    ),
    "verify": (
        "quantkit verify out/My-Model-Q4_K_M.gguf --against ./My-Model",
        "quantkit verify out-gptq --against ./My-Model --engine torch",
    ),
    "inspect": (
        "quantkit inspect ./My-Model",
        "quantkit inspect out/My-Model-Q4_K_M.gguf --tensors",
    ),
    "schemes": (
        "quantkit schemes",
        "quantkit schemes --json-schema convert",
    ),
    "recipes": (
        "quantkit recipes",
        "quantkit recipes q4_k_m",
    ),
    "doctor": (
        "quantkit doctor",
        "quantkit doctor out --json",
    ),
}  # fmt: skip


def epilog(command: str) -> str:
    """The examples of a command as the last paragraphs of its help."""
    return "\n".join(("Examples:", *EXAMPLES[command]))
