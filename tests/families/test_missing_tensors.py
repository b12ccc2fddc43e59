"""No tensor of a checkpoint may be missing without a word: headers alone, made from the rows, one taken away."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import checkpoints
import pytest
from described import Tokens
from encoder_table import ENCODERS
from family_table import TABLE
from row_headers import headers

from quantkit.errors import InputError
from quantkit.families.describe import Named, describe, find_family
from quantkit.families.rows import NUMBER
from quantkit.tensors import TensorInfo

OF_VARIANTS = {
    "deepseek-v3": "DeepseekV3ForCausalLM", "deepseek-v2": "DeepseekV2ForCausalLM", "falcon": "FalconForCausalLM",
    "falcon-groups": "FalconForCausalLM", "lfm2-moe": "Lfm2MoeForCausalLM", "mamba2": "Mamba2ForCausalLM",
    "pythia": "GPTNeoXForCausalLM", "gpt-oss": "GptOssForCausalLM", "minimax-m2": "MiniMaxM2ForCausalLM",
}  # fmt: skip


def configurations() -> Mapping[str, dict[str, Any]]:
    found: dict[str, tuple[Mapping[str, Any], str]] = {
        **{name: (entry.config, entry.architecture) for name, entry in TABLE.items()},
        **{name: (entry.config, entry.model) for name, entry in ENCODERS.items()},
        **{name: (checkpoints.VARIANTS[name].config, hf) for name, hf in OF_VARIANTS.items()},
    }
    made = {}
    for name, (config, hf) in found.items():
        said = {"architectures": [hf], **json.loads(json.dumps(config))}
        family = find_family(said).family
        kinds = [kind for kind in family.defaults if kind == name.partition("-")[0]]  # umt5
        made[name] = {"model_type": [*kinds, *family.defaults][0], **said}
    return made


CONFIGURATIONS = configurations()


def described(tensors: Mapping[str, TensorInfo], config: dict[str, Any], named: Named) -> None:
    size = config.get("text_config", config).get("vocab_size", 400)
    describe(tensors, config, lambda name: None, named, Tokens(size), name="x")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_whatever_is_missing_is_named(name: str) -> None:
    config = CONFIGURATIONS[name]
    named = find_family(config)
    tensors = {info.name: info for info in headers(named.family, named.family.hparams(config))}
    described(tensors, config, named)
    last = {NUMBER.sub("{}", name): name for name in tensors}  # of each kind the one of the last block and expert
    for missing in last.values():
        with pytest.raises(InputError) as caught:
            described({n: info for n, info in tensors.items() if n != missing}, config, named)
        assert missing in caught.value.message


def test_what_may_be_missing_is_so_in_all_blocks() -> None:
    config = CONFIGURATIONS["pythia"]
    named = find_family(config)
    hparams = named.family.hparams(config)
    tensors = {info.name: info for info in headers(named.family, hparams)}
    bias = "gpt_neox.layers.0.attention.dense.bias"
    hidden = hparams.count("hidden_size")
    with pytest.raises(InputError, match=r"no tensor \"gpt_neox\.layers\.1\.attention\.dense\.bias\""):
        described({**tensors, bias: TensorInfo(bias, "BF16", (hidden,), 2 * hidden)}, config, named)
