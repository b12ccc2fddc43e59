"""What layers keep of tokens: numbers written down from published configurations and from what engines allocate."""

from __future__ import annotations

from typing import Any

import pytest

from quantkit.families.cache import Cache, LayerCache, read_cache
from quantkit.families.model import Shape
from quantkit.plan.sizes import kv_bytes, kv_bytes_per_token

LLAMA = {"num_hidden_layers": 32, "num_key_value_heads": 8, "head": 128}
GEMMA3_27B = {"num_hidden_layers": 62, "num_key_value_heads": 16, "head": 128, "sliding_window": 1024}
GEMMA2 = {"num_hidden_layers": 26, "num_key_value_heads": 4, "head": 256, "sliding_window": 4096}
DEEPSEEK_V3 = {"num_hidden_layers": 61, "num_key_value_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
QWEN3_NEXT = {"num_hidden_layers": 48, "num_key_value_heads": 2, "head": 256, "full_attention_interval": 4}
GPT_OSS = {
    "num_hidden_layers": 24, "num_key_value_heads": 8, "head": 64, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}  # fmt: skip
QWEN2 = {"num_hidden_layers": 28, "num_key_value_heads": 4, "head": 128, "sliding_window": 4096}


def shape(values: dict[str, Any], model_type: str) -> Shape:
    return Shape(0, 0, 0, 0, 0, cache=read_cache(values, model_type))


@pytest.mark.parametrize(
    ("values", "model_type", "context", "expected"),
    [
        (LLAMA, "llama", 32768, 32768 * 131072),
        # 10 layers keep everything, 52 a window of 1,024 tokens and the batch of 512
        (GEMMA3_27B, "gemma3_text", 32768, (10 * 32768 + 52 * 1536) * 2 * 16 * 128 * 2),
        (GEMMA3_27B, "gemma3_text", 1000, 62 * 1000 * 2 * 16 * 128 * 2),
        ({**GEMMA3_27B, "sliding_window_pattern": 1}, "gemma3_text", 32768, 62 * 32768 * 2 * 16 * 128 * 2),
        (GEMMA2, "gemma2", 8192, 13 * (8192 + 4608) * 2 * 4 * 256 * 2),
        (DEEPSEEK_V3, "deepseek_v3", 32768, 61 * 32768 * 576 * 2),  # 70,272 bytes a token
        (QWEN3_NEXT, "qwen3_next", 32768, 12 * 32768 * 2 * 2 * 256 * 2),
        (GPT_OSS, "gpt_oss", 32768, 12 * (32768 + 640) * 2 * 8 * 64 * 2),
        ({**QWEN2, "use_sliding_window": False}, "qwen2", 32768, 28 * 32768 * 2 * 4 * 128 * 2),
        ({**LLAMA, "sliding_window": 4096}, "mistral", 32768, 32768 * 131072),  # llama.cpp keeps everything
        ({**LLAMA, "num_kv_shared_layers": 8}, "gemma3n_text", 1024, 24 * 1024 * 4096),
        ({**LLAMA, "layers_block_type": ["mamba"] * 28 + ["attention"] * 4}, "granitemoehybrid", 1024, 4 * 1024 * 4096),
        ({**LLAMA, "attn_layer_period": 8, "attn_layer_offset": 4}, "jamba", 1024, 4 * 1024 * 4096),
        ({**LLAMA, "full_attn_idxs": [2, 5, 8]}, "lfm2", 1024, 3 * 1024 * 4096),
    ],
)  # fmt: skip
def test_bytes_of_a_cache(values: dict[str, Any], model_type: str, context: int, expected: int) -> None:
    assert kv_bytes(shape(values, model_type), context) == expected
    assert kv_bytes(shape(values, model_type), context, slots=3) == 3 * expected


def test_types_of_a_cache() -> None:
    deepseek = shape(DEEPSEEK_V3, "deepseek_v3")
    assert kv_bytes_per_token(deepseek, "q8_0") == 61 * 576 // 32 * 34
    assert kv_bytes_per_token(deepseek, "fp8") == 61 * 576


@pytest.mark.parametrize("said", [None, "x", -1, True, 2.5, [], ["full_attention"], {"a": 1}])
def test_what_is_no_number_means_nothing(said: object) -> None:
    """Nothing that a stranger writes into config.json is a crash; where nothing is known, everything is kept."""
    keys = ("sliding_window", "layer_types", "sliding_window_pattern", "kv_lora_rank", "num_kv_shared_layers")
    found = read_cache({**LLAMA, **dict.fromkeys(keys, said)}, "llama")
    assert found.layers == (LayerCache(((8, 128), (8, 128))),) * 32


def test_a_cache_in_words() -> None:
    found = read_cache({**GEMMA3_27B, "num_hidden_layers": 6}, "gemma3_text")
    assert found.words == "5 layers of 16 x 128 keys and values, a window of 1,024; 1 layer of 16 x 128 keys and values"
    assert read_cache(DEEPSEEK_V3, "deepseek_v3").words == "61 layers of one latent row of 576"
    assert Cache((), 2, 1).words.startswith("2 layers with a state of fixed size")
