"""Run llama.cpp's converter over many checkpoints in one process: its imports cost more than the conversions.

Reads a JSON list of [folder, output, outtype, pre, told, target] from standard input and does for each what
`convert_hf_to_gguf.py folder --outfile output --outtype outtype` does. `pre` stands in for the name of the
pre-tokenizer, which the converter knows only for published vocabularies; null leaves it to the converter, and
"--mmproj" asks for the file of the encoder. `told`, if there is a fifth, is what it takes for config.json as it is,
instead of what transformers makes of it; `target`, if there is a sixth, is the folder of the model that this one
drafts for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from reference import REFERENCE

sys.path[:0] = [str(REFERENCE), str(REFERENCE / "gguf-py")]

import gguf  # noqa: E402
import torch  # noqa: E402
from conversion import LazyTorchTensor, ModelBase, ModelType, TextModel, get_model_architecture, get_model_class  # noqa: E402
from gguf.tensor_mapping import TensorNameMap  # noqa: E402

OUTTYPES = {
    "f32": gguf.LlamaFileType.ALL_F32, "auto": gguf.LlamaFileType.GUESSED, "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}  # fmt: skip
MMPROJ = "--mmproj"
own_pre = TextModel.get_vocab_base_pre
# Vocabularies that the converter reads otherwise: from the model's own code, or with an assertion.
VOCABULARY = {
    "DeciLMForCausalLM", "DeepseekV32ForCausalLM", "HunYuanMoEV1ForCausalLM", "QWenLMHeadModel", "XverseForCausalLM",
}  # fmt: skip
RADIO = {
    "hidden_size": "hidden_size", "intermediate_size": "intermediate_size", "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}  # fmt: skip
SIZED = {"Step3VLVisionModel"}
own_blocks = dict(TensorNameMap.block_mappings_cfg)  # names of one architecture stay for all that follow


baichuan = get_model_class("BaichuanForCausalLM").modify_tensors


def baichuan_tensors(self: Any, data_torch: Any, name: str, bid: int | None) -> Any:
    """Without the endless recursion of all but one kind of tensor."""
    own = name.endswith("W_pack.weight")
    return baichuan(self, data_torch, name, bid) if own else TextModel.modify_tensors(self, data_torch, name, bid)


def plain_experts(self: Any, bid: int, proj: str, tensor_key: Any) -> list[str]:
    """Experts of DeepSeek V4 as they are: the converter reads them in four bits alone."""
    names = [f"layers.{bid}.ffn.experts.{n}.{proj}.weight" for n in range(self.hparams["n_routed_experts"])]
    stacked = torch.stack([LazyTorchTensor.to_eager(self.model_tensors[name]()) for name in names])
    kind = gguf.GGMLQuantizationType.BF16
    self.gguf_writer.add_tensor(
        self.format_tensor_name(tensor_key, bid), stacked.view(torch.int16).numpy().view("uint8"), raw_dtype=kind
    )
    return names


packed_experts = get_model_class("DeepseekV4ForCausalLM")._write_mxfp4_expert_tensor


def deepseek4_experts(self: Any, bid: int, proj: str, tensor_key: Any) -> list[str]:
    packed = f"layers.{bid}.ffn.experts.0.{proj}.scale" in self.model_tensors
    return (packed_experts if packed else plain_experts)(self, bid, proj, tensor_key)


def narrow_heads(rows: bool) -> Any:
    """What the converter does to queries (`rows`) or to what attention gives of PLaMo 1, of heads of any size: it asks
    for those of 13 B."""

    def shuffled(self: Any, weight: Any) -> Any:
        width = self.hparams["hidden_size"]
        parts = (8, 5, width // 40, width) if rows else (width, 8, 5, width // 40)
        return weight.reshape(parts).permute((1, 0, 2, 3) if rows else (0, 2, 1, 3)).reshape(width, width)

    return shuffled


plamo = get_model_class("PlamoForCausalLM")
plamo.shuffle_attn_q_weight, plamo.shuffle_attn_output_weight = narrow_heads(rows=True), narrow_heads(rows=False)
BITNET_NORMS = {
    gguf.MODEL_TENSOR.ATTN_SUB_NORM: ("model.layers.{bid}.self_attn.attn_sub_norm",),
    gguf.MODEL_TENSOR.FFN_SUB_NORM: ("model.layers.{bid}.mlp.ffn_sub_norm",),
}


def without_assertions(encoder: Any) -> Any:
    """The class as its module defines it without assertions, which hold it to the sizes of one published model."""
    module = sys.modules[encoder.__module__]
    source = Path(str(module.__file__))
    exec(compile(source.read_text(encoding="utf-8"), source, "exec", optimize=1), vars(module))
    return vars(module)[encoder.__name__]


def encoder_class(hparams: dict[str, Any]) -> Any:
    """The class that writes the encoder of a model with this config.json."""
    found = get_model_class(get_model_architecture(hparams, ModelType.MMPROJ), mmproj=True)
    if found.__name__ == "NemotronNanoV2VLModel":  # it has the numbers of one published model
        for name, key in RADIO.items():
            setattr(found, f"_vit_{name}", hparams["vision_config"][key])
    return without_assertions(found) if found.__name__ in SIZED else found


def text_class(hparams: dict[str, Any], architecture: str) -> Any:
    """The class that writes the language model of a model with this config.json."""
    found = get_model_class(architecture)
    if hparams["architectures"][0] == "MERaLiON2ForConditionalGeneration":  # whose encoder alone it reads by itself
        own = found.filter_tensors

        def filtered(cls: Any, item: tuple[str, Any]) -> tuple[str, Any] | None:
            name, tensor = item
            inner = name.removeprefix("text_decoder.")
            return None if name.startswith(("speech_", "ln_speech.")) else own((inner, tensor))

        found.filter_tensors = classmethod(filtered)
    return found


def convert(
    folder: Path, output: Path, outtype: str, pre: str | None, told: dict[str, Any] | None = None,
    target: str | None = None,
) -> None:  # fmt: skip
    TextModel.get_vocab_base_pre = own_pre if pre is None else lambda self, tokenizer: pre
    hparams = told or ModelBase.load_hparams(folder, is_mistral_format=False)
    if pre == MMPROJ:
        encoder_class(hparams)(folder, OUTTYPES[outtype], output, hparams=None).write()
        return
    architecture = get_model_architecture(hparams, ModelType.TEXT)
    model_class = text_class(hparams, architecture)
    TensorNameMap.block_mappings_cfg = dict(own_blocks)
    if architecture == "BitNetForCausalLM":  # whose norms transformers calls otherwise than the first checkpoints
        TensorNameMap.block_mappings_cfg |= BITNET_NORMS
    if architecture in VOCABULARY and not [*folder.glob("*.tiktoken")]:
        pieces = (folder / "tokenizer.model").is_file()
        model_class.set_vocab = TextModel._set_vocab_sentencepiece if pieces else TextModel._set_vocab_gpt2
    if architecture == "BaichuanForCausalLM":
        model_class.modify_tensors = baichuan_tensors
    if architecture == "DeepseekV4ForCausalLM":
        model_class._write_mxfp4_expert_tensor = deepseek4_experts
    if architecture == "MiniMaxText01ForCausalLM":  # it looks for tokens without embeddings in an index of shards
        model_class._get_suppress_tokens = lambda self: None
    said = told
    for _ in range(3):
        if hasattr(model_class, "lerp_weights"):
            model_class.lerp_weights = {}  # it keeps those of the model before: converters are one process for each
        try:
            beside = Path(target) if target else None
            model_class(folder, OUTTYPES[outtype], output, hparams=said, target_model_dir=beside).write()
        except KeyError:  # transformers 5 renames what the converter reads; without it config.json is read as it is
            said = json.loads((folder / "config.json").read_text())
        except AssertionError:  # it asks for the blocks that predict further tokens, unless told that there are none
            model_class.no_mtp = True
        else:
            break
    else:
        raise RuntimeError(folder)
    model_class.no_mtp = False


if __name__ == "__main__":
    with torch.inference_mode():
        for source, target, file_type, pre_tokenizer, *more in json.load(sys.stdin):
            convert(Path(source), Path(target), file_type, pre_tokenizer, *more)
