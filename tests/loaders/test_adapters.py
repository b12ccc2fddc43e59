"""Merged adapters are what PEFT itself merges: merge_and_unload in float32, for every kind of adapter."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from adapters import Lora, make_adapter, weights_of
from transformers import AutoModelForCausalLM

from quantkit.source import open_source

DORA = {"use_dora": True}
KINDS: dict[str, tuple[str, tuple[Lora, ...]]] = {
    "plain": ("llama-untied-gqa", (Lora(),)),
    "rslora": ("llama-untied-gqa", (Lora(settings={"use_rslora": True}),)),
    "patterns": (
        "llama-untied-gqa",
        (Lora(settings={"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"up_proj": 3.0}}),),
    ),
    "embedding": ("llama-untied-gqa", (Lora(embedding=True),)),
    "modules-to-save": ("llama-untied-gqa", (Lora(saved=("lm_head.weight",)),)),
    "dora": ("llama-untied-gqa", (Lora(settings=DORA),)),
    "two": ("llama-untied-gqa", (Lora(), Lora(modules=("q_proj", "up_proj"), rank=2, seed=1))),
    "two-dora": ("llama-untied-gqa", (Lora(settings=DORA), Lora(settings=DORA, seed=1))),
    "biases": ("qwen2-untied", (Lora(modules=("q_proj", "v_proj"), biases=True),)),
    "transposed": ("gpt2", (Lora(modules=("c_attn", "c_fc"), settings={"fan_in_fan_out": True}),)),
    "transposed-dora": ("gpt2", (Lora(modules=("c_attn",), settings={"fan_in_fan_out": True, **DORA}),)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_merged_as_peft_merges(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft
    from peft.tuners.lora import gptq

    monkeypatch.setattr(gptq, "is_gptqmodel_available", lambda: False, raising=False)
    name, loras = KINDS[kind]
    base = checkpoints.build(name, tmp_path)
    folders = [make_adapter(tmp_path / f"a{n}", weights_of(base), lora) for n, lora in enumerate(loras)]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(model, folders[0], adapter_name="a0")
    for number, folder in enumerate(folders[1:], 1):
        adapted.load_adapter(folder, adapter_name=f"a{number}")
    names = [f"a{number}" for number in range(len(folders))]
    expected = adapted.merge_and_unload(adapter_names=names).state_dict()
    source = open_source(str(base), adapters=[str(folder) for folder in folders])
    for tensor, info in source.tensors().items():
        got = source.ref(tensor).read(0, info.rows).reshape(info.shape)
        np.testing.assert_allclose(got, expected[tensor].numpy(), rtol=1e-6, atol=6e-8, err_msg=tensor)
    source.close()
