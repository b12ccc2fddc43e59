"""Checkpoint folders whose weights are four-bit floats as they are published: gpt-oss in MXFP4, ModelOpt's NVFP4."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
from quantized_folder import MODEL, VARIANTS, WEIGHTS, plain_tensor, quantized_model, write_tensors

from quantkit.events import ignore
from quantkit.formats.containers.packed import Entry, PackedTensor, packed, values_of
from quantkit.source import open_source
from quantkit.source.folder import open_folder

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def stored_tensors(folder: Path) -> dict[str, PackedTensor]:
    """All tensors of a folder as they are stored."""
    found = open_folder(folder, ignore)
    read = {}
    for name, info in found.tensors().items():
        at = found.stored[name]
        data = at.source.read(at.offset, at.offset + info.nbytes)
        read[name] = PackedTensor(Entry(name, info.dtype, info.shape), data)
    found.close()
    return read


def say(folder: Path, quantization: Mapping[str, Any]) -> None:
    """Let config.json describe a quantization."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))


def gpt_oss(root: Path, seed: int = 0) -> tuple[Path, dict[str, np.ndarray]]:
    """gpt-oss as OpenAI published it, with random codes and scales, and the values of its stacks by plain name."""
    plain = checkpoints.build("gpt-oss", root)
    source, random = open_source(str(plain)), np.random.default_rng(seed)
    tensors, values = [], {}
    for name, info in source.tensors().items():
        if len(info.shape) != 3:
            array = source.ref(name).read(0, info.rows).reshape(info.shape)
            tensors.append(plain_tensor(name, array, info.dtype))
            continue
        experts, inputs, outputs = info.shape
        blocks = random.integers(0, 256, (experts, outputs, inputs // 32, 16), np.uint8)
        scales = random.integers(116, 124, blocks.shape[:3], np.uint8)
        tensors.append(packed(Entry(f"{name}_blocks", "U8", blocks.shape), blocks))
        tensors.append(packed(Entry(f"{name}_scales", "U8", scales.shape), scales))
        levels = np.stack([E2M1[blocks & 15], E2M1[blocks >> 4]], axis=4).reshape(experts, outputs, inputs // 32, 32)
        decoded = levels * np.float32(2) ** (scales.astype(np.float32) - 127)[..., None]
        values[name] = decoded.reshape(experts, outputs, inputs).transpose(0, 2, 1)
    source.close()
    folder = root / "published"
    shutil.copytree(plain, folder)
    write_tensors(folder / WEIGHTS, tensors)
    say(folder, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    return folder, values


def modelopt_nvfp4(folder: Path, source: Path = MODEL, layers: int | None = None, algorithm: str = "NVFP4") -> Path:
    """A checkpoint in NVFP4 as ModelOpt writes it, with static scales of inputs."""
    quantized_model(folder, VARIANTS["nvfp4"], source, layers)
    random, tensors = np.random.default_rng(1), []
    for name, tensor in stored_tensors(folder).items():
        module = name.rpartition(".")[0]
        if name.endswith(".weight_packed"):
            tensors.append(PackedTensor(Entry(f"{module}.weight", "U8", tensor.entry.shape), tensor.data))
        elif name.endswith(".weight_global_scale"):
            factor = np.float32(1) / values_of(tensor).reshape(())
            tensors.append(packed(Entry(f"{module}.weight_scale_2", "F32", ()), factor))
            scale = np.float32(random.uniform(0.01, 0.02)).reshape(())
            tensors.append(packed(Entry(f"{module}.input_scale", "F32", ()), scale))
        else:
            tensors.append(tensor)
    write_tensors(folder / WEIGHTS, tensors)
    say(folder, {"quant_method": "modelopt", "quant_algo": algorithm})
    return folder
