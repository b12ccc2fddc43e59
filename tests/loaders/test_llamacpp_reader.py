"""llama.cpp's converter, the second independent reader: it decodes what quantkit decodes, or refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from artifacts import RECIPES
from cases import Case
from comparisons import TWO_ROUNDINGS
from expected import decoded, quantization
from reference import REFERENCE
from torch import Tensor

sys.path[:0] = [str(REFERENCE), str(REFERENCE / "gguf-py")]

import gguf  # noqa: E402
from conversion import get_model_class  # noqa: E402

pytestmark = pytest.mark.reference

NVFP4 = "nvfp4a16"

# Layers whose rows the converter leaves in their order, as a GGUF file calls them.
IN_ORDER = {
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def converter(folder: Path, out: Path) -> Any:
    return get_model_class("LlamaForCausalLM")(folder, gguf.LlamaFileType.ALL_F32, out, eager=True)


def dequantized(model: Any) -> dict[str, Tensor]:
    model.dequant_model()
    return dict(model.get_tensors())


def is_read(folder: Path) -> bool:
    """What the converter's source has code for."""
    config = quantization(folder)
    if config["quant_method"] == "compressed-tensors":
        weights = config["config_groups"]["group_0"]["weights"]
        if config["format"] == "pack-quantized":
            return bool(weights["strategy"] == "group" and weights["num_bits"] in (2, 4, 8))
        return weights["strategy"] in ("channel", "block")
    return config["quant_method"] in ("fp8", "plain") or (config["quant_method"] == "gptq" and config["bits"] != 3)


@pytest.mark.parametrize("recipe", [pytest.param(r, marks=pytest.mark.xdist_group(r)) for r in RECIPES if r != NVFP4])
def test_llama_cpp_decodes_the_same_weights_or_refuses(
    recipe: str, case: Callable[[str], Case], tmp_path: Path
) -> None:
    found = case(recipe)
    model = converter(found.folder, tmp_path / "out.gguf")
    if not is_read(found.folder):
        with pytest.raises((NotImplementedError, AssertionError)):
            dequantized(model)
        return
    weights = dequantized(model)
    assert set(found.loaded.weights) <= set(weights)
    named = {name: weight for name, weight in weights.items() if name.endswith(".weight")}
    wrong = [name for name, weight in named.items() if not torch.equal(weight.float(), found.decoded[name])]
    assert not wrong, f"{len(wrong)} weights differ, the first is {wrong[0]}"


@pytest.mark.xdist_group(NVFP4)
def test_llama_cpp_repacks_nvfp4_without_loss(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    """It moves codes and scales into GGUF's NVFP4; the scale of the whole weight lies beside it there."""
    folder, out = artifact(NVFP4), tmp_path / "out.gguf"
    converter(folder, out).write()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    expected = decoded(folder)
    for block in range(4):
        for module, name in IN_ORDER.items():
            tensor = tensors[f"blk.{block}.{name}.weight"]
            assert tensor.tensor_type == gguf.GGMLQuantizationType.NVFP4
            values = gguf.dequantize(tensor.data, tensor.tensor_type) * tensors[f"blk.{block}.{name}.scale"].data
            weight = expected[f"model.layers.{block}.{module}.weight"]
            # The converter stores the inverse of the scale that divides, and so rounds twice.
            assert torch.allclose(torch.from_numpy(values), weight, rtol=TWO_ROUNDINGS, atol=0), name
