"""Small random LoRA adapters as PEFT saves them, and what they make of a weight, by an oracle in float64."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Array = NDArray[np.float32]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Lora:
    """How an adapter is made: `modules` are ends of names; `settings` go into adapter_config.json as they are."""

    modules: tuple[str, ...] = LINEARS
    rank: int = 4
    alpha: float = 8.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    embedding: bool = False
    saved: tuple[str, ...] = ()
    biases: bool = False
    seed: int = 0
    spread: float = 0.05

    def scale(self, module: str) -> float:
        """By its own words: patterns are ends of names here."""
        rank = self.rank_of(module)
        alphas = self.settings.get("alpha_pattern", {})
        alpha = next((value for end, value in alphas.items() if module.endswith(end)), self.alpha)
        return alpha / (sqrt(rank) if self.settings.get("use_rslora") else rank)

    def rank_of(self, module: str) -> int:
        ranks = self.settings.get("rank_pattern", {})
        return int(next((value for end, value in ranks.items() if module.endswith(end)), self.rank))


def weights_of(folder: Path) -> dict[str, Array]:
    """All tensors of a checkpoint, as float32."""
    import torch
    from safetensors.torch import load_file as load_torch

    found: dict[str, Array] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        found |= {name: tensor.to(torch.float32).numpy() for name, tensor in load_torch(path).items()}
    return found


def make_adapter(folder: Path, weights: Mapping[str, Array], lora: Lora = Lora(), base: str = "base") -> Path:
    """Write an adapter for these weights."""
    folder.mkdir(parents=True)
    tensors: dict[str, Array] = {}
    turned = bool(lora.settings.get("fan_in_fan_out"))
    for name, weight in weights.items():
        module = name.removesuffix(".weight")
        rng = np.random.default_rng(crc32(name.encode()) + lora.seed)

        def draw(*shape: int, rng: np.random.Generator = rng) -> Array:
            return (lora.spread * rng.standard_normal(shape)).astype(np.float32)

        if name in lora.saved:
            tensors[f"base_model.model.{name}"] = draw(*weight.shape)
        rank = lora.rank_of(module)
        if lora.embedding and module.endswith(("embed_tokens", "wte")):
            tensors[f"base_model.model.{module}.lora_embedding_A"] = draw(rank, weight.shape[0])
            tensors[f"base_model.model.{module}.lora_embedding_B"] = draw(weight.shape[1], rank)
        elif module.endswith(lora.modules) and weight.ndim == 2 and name.endswith(".weight"):
            out, into = weight.shape[::-1] if turned else weight.shape
            tensors[f"base_model.model.{module}.lora_A.weight"] = draw(rank, into)
            tensors[f"base_model.model.{module}.lora_B.weight"] = draw(out, rank)
            if lora.settings.get("use_dora"):
                lengths = np.linalg.norm(weight, axis=0 if turned else 1).astype(np.float32)
                tensors[f"base_model.model.{module}.lora_magnitude_vector"] = lengths * (1 + draw(out))
            if lora.biases:
                tensors[f"base_model.model.{module}.lora_B.bias"] = draw(out)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": lora.rank,
        "lora_alpha": lora.alpha, "lora_dropout": 0.0, "bias": "none",
        "target_modules": [*lora.modules, *(("embed_tokens",) if lora.embedding else ())],
        "fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": list(lora.saved) or None,
        "inference_mode": True, "use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {},
        "lora_bias": lora.biases, **lora.settings,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder


def merged(weights: Mapping[str, Array], adapters: Sequence[tuple[Path, Lora]]) -> dict[str, NDArray[np.float64]]:
    """What PEFT's merge_and_unload makes of the weights, adapter by adapter, by its formulas in float64."""
    bare = {name: weight.astype(np.float64) for name, weight in weights.items()}
    found = dict(bare)
    for folder, lora in adapters:
        parts = {
            k.removeprefix("base_model.model."): v for k, v in load_file(folder / "adapter_model.safetensors").items()
        }
        turned = bool(lora.settings.get("fan_in_fan_out"))
        for name in found:
            module = name.removesuffix(".weight")
            if name in parts:
                found[name] = parts[name].astype(np.float64)
            if name.endswith(".bias") and f"{name.removesuffix('.bias')}.lora_B.bias" in parts:
                module = name.removesuffix(".bias")
                found[name] = found[name] + lora.scale(module) * parts[f"{module}.lora_B.bias"]
                continue
            a, b = parts.get(f"{module}.lora_A.weight"), parts.get(f"{module}.lora_B.weight")
            embedding = f"{module}.lora_embedding_A" in parts
            if embedding:
                a, b = parts[f"{module}.lora_embedding_A"], parts[f"{module}.lora_embedding_B"]
            if a is None or b is None or not name.endswith(".weight"):
                continue
            delta = lora.scale(module) * (b.astype(np.float64) @ a.astype(np.float64))
            flip = turned or embedding
            weight, alone = (m.T if flip else m for m in (found[name], bare[name]))
            new = weight + delta
            if f"{module}.lora_magnitude_vector" in parts:
                lengths = np.linalg.norm(alone + delta, axis=1)
                new = (parts[f"{module}.lora_magnitude_vector"] / lengths)[:, None] * new
            found[name] = new.T if flip else new
    return found
