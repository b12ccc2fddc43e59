"""bitsandbytes' own quantizer writes the same bytes, and peft trains on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from artifacts import SOURCE
from bitsandbytes import functional
from loaders import TEXT, load
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer

FOUR_BITS = {"nf4": ("nf4", False), "nf4-double": ("nf4", True), "fp4": ("fp4", False)}


def stored(folder: Path) -> dict[str, Tensor]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict


def linear_weights() -> dict[str, Tensor]:
    return {name: weight for name, weight in stored(SOURCE).items() if "_proj." in name}


@pytest.mark.parametrize("recipe", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FOUR_BITS])
def test_four_bits_are_what_bitsandbytes_writes(recipe: str, artifact: Callable[[str], Path]) -> None:
    found = stored(artifact(recipe))
    table, double = FOUR_BITS[recipe]
    for name, weight in linear_weights().items():
        codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type=table, compress_statistics=double)
        assert torch.equal(found.pop(name), codes), name
        for part, value in state.as_dict(packed=True).items():
            ours = found.pop(f"{name}.{part}")
            # The description is JSON of a fixed length, so that the size of the file is known beforehand.
            same = bytes(ours).rstrip() == bytes(value) if part.startswith("quant_state") else torch.equal(ours, value)
            assert same, f"{name}.{part}"
    assert not [name for name in found if "_proj." in name], "nothing else is stored"


@pytest.mark.xdist_group("int8")
def test_llm_int8_is_what_bitsandbytes_writes(artifact: Callable[[str], Path]) -> None:
    found = stored(artifact("int8"))
    for name, weight in linear_weights().items():
        codes, absmax, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
        assert torch.equal(found[name], codes), name
        assert torch.equal(found[name.replace(".weight", ".SCB")], absmax), name


@pytest.mark.parametrize("recipe", [pytest.param(r, marks=pytest.mark.xdist_group(r)) for r in ("nf4", "nf4-double")])
def test_peft_trains_a_lora_on_nf4(recipe: str, artifact: Callable[[str], Path]) -> None:
    torch.manual_seed(0)
    folder = artifact(recipe)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(prepare_model_for_kbit_training(load(folder)), lora)
    adapters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(adapters) == 2 * 2 * 4, "two matrices for two layers of four blocks"
    before = {name: weight.detach().clone() for name, weight in adapters.items()}
    frozen = {name: weight.detach().clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    optimizer = torch.optim.AdamW(adapters.values(), lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(input_ids=tokens, labels=tokens).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(not torch.equal(weight, before[name]) for name, weight in adapters.items())
    assert losses[-1] < losses[0]
    assert all(torch.equal(weight, frozen[name]) for name, weight in model.named_parameters() if name in frozen)
