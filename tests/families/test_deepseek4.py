"""DeepSeek V4 as it is published: most linears in FP8, experts in FP4, both with powers of two for scales."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints
import family_table
import numpy as np
import pytest
from commands import quantkit
from family_table import TABLE
from gguf import GGMLQuantizationType, GGUFReader
from oracles import ggml

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.describe import find_family

NAME = "deepseek-v4"
PRE = ("--pre", checkpoints.PRE)
SAID = {
    "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128],
}  # fmt: skip
IN_FP8 = (".wq_a.weight", ".wq_b.weight", ".wkv.weight", ".wo_a.weight", ".wo_b.weight")
MXFP4, I32, Q8_0 = GGMLQuantizationType.MXFP4, GGMLQuantizationType.I32, GGMLQuantizationType.Q8_0


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_table.build(NAME, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def published(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with random codes and scales."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("published") / NAME
    shutil.copytree(plain, folder)
    random, found = torch.Generator().manual_seed(4), {}

    def powers(*shape: int) -> torch.Tensor:
        return torch.randint(118, 122, shape, generator=random, dtype=torch.uint8).view(torch.float8_e8m0fnu)

    for name, tensor in load_file(folder / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if ".experts." in name:
            rows, cols = tensor.shape
            found[name] = torch.randint(-128, 128, (rows, cols // 2), generator=random, dtype=torch.int8)
            found[f"{module}.scale"] = powers(rows, cols // 32)
        elif name.endswith(IN_FP8) and "compressor" not in name:
            found[name] = (tensor.float() * 32).to(torch.float8_e4m3fn)
            found[f"{module}.scale"] = powers(*(-(-size // 128) for size in tensor.shape))
        else:
            found[name] = tensor
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"quantization_config": SAID, "expert_dtype": "fp4"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tensors_of(path: Path) -> dict[str, tuple[GGMLQuantizationType, np.ndarray]]:
    return {str(t.name): (t.tensor_type, np.array(t.data)) for t in GGUFReader(path).tensors}


@pytest.mark.reference
def test_experts_are_carried_over_and_the_rest_is_that_of_the_reference(published: Path, tmp_path: Path) -> None:
    reference, out = tmp_path / "reference.gguf", tmp_path / "out.gguf"
    script = Path(checkpoints.__file__).with_name("convert_reference.py")
    jobs = json.dumps([[str(published), str(reference), "q8_0", checkpoints.PRE]])
    done = subprocess.run([sys.executable, str(script)], input=jobs, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    keep = ("--keep", r"ffn_(gate|up|down)_exps=mxfp4")
    made = quantkit("convert", published, "--to", "q8_0", *keep, *PRE, "-o", out)
    assert made.status == 0, made.stderr
    assert "12 tensors (6,291,456 weights) are carried over, lossless: codes and scales of MXFP4" in made.stderr
    expected, found = tensors_of(reference), tensors_of(out)
    assert found.keys() == expected.keys()
    alike = {name for name, (kind, _) in expected.items() if found[name][0] == kind}
    assert {name for name, (kind, _) in expected.items() if kind in (MXFP4, I32)} <= alike
    assert len([name for name, (kind, _) in expected.items() if kind == Q8_0 and name in alike]) == 4 * 5 + 2
    for name in alike:
        assert np.array_equal(found[name][1], expected[name][1]), name
    with ggml.Model(out) as model:
        assert np.isfinite(model.last_logits([3, 17, 40])).all()


def test_names_and_numbers_of_transformers_are_read_like_those_of_deepseek(plain: Path, tmp_path: Path) -> None:
    """transformers 5.24 saves other names than it reads, and lists of words in place of numbers."""
    import transformers

    saved = tmp_path / NAME
    model = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype="bfloat16")
    model.save_pretrained(saved)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(plain / file, saved / file)
    metadata = []
    for number, folder in enumerate((plain, saved)):
        out = tmp_path / f"{number}.gguf"
        ran = quantkit("convert", folder, "--to", "bf16", *PRE, "-o", out, "--no-verify")
        assert ran.status == 0, ran.stderr
        metadata.append({k: f.contents() for k, f in GGUFReader(out).fields.items() if k.startswith("deepseek4.")})
    told, expected = metadata[1], metadata[0]
    expected["deepseek4.attention.compress_ratios"] = expected["deepseek4.attention.compress_ratios"][:4]
    assert told == expected
    first, second = (tensors_of(tmp_path / f"{number}.gguf") for number in range(2))
    first.pop("blk.0.exp_probs_b_vl.bias")  # of the model that sees: transformers does not know it
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name][1], second[name][1]) for name in first)


@pytest.mark.parametrize("number", [4, -1])
def test_a_token_goes_to_no_expert_that_is_not_there(plain: Path, number: int, tmp_path: Path) -> None:
    """Neither into a file nor through a block: the tensor and the number are named."""
    from safetensors.torch import load_file, save_file
    from walks import logits_after, model_of, windows

    folder, name = tmp_path / NAME, "layers.0.ffn.gate.tid2eid"
    shutil.copytree(plain, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name][7, 1] = number
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    what = f'tensor "{name}" holds {number}, expected numbers from 0 to 3'
    ran = quantkit("convert", folder, "--to", "bf16", *PRE, "-o", tmp_path / "out.gguf")
    assert (ran.status, what in ran.stderr, (tmp_path / "out.gguf").exists()) == (3, True, False), ran.stderr
    with pytest.raises(InputError, match=what) as caught:
        logits_after(model_of(folder), windows(390, count=1, seqlen=8))
    assert caught.value.tensor == name


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"compress_ratios": [0, 4]}, "compress_ratios"),
        ({"compress_ratios": [0, 8, 4, 4]}, "llama.cpp compresses 0, 4, 128 tokens"),
        ({"compress_ratios": None, "layer_types": ["odd"] * 4}, "layer_types has 'odd'"),
        ({"compress_ratios": [0, None, 4, 4]}, "compress_ratios has None"),
        ({"compress_ratios": None, "layer_types": [None] * 4}, "layer_types has None"),
        ({"compress_ratios": None, "layer_types": "odd"}, "layer_types is 'odd'"),
        ({"compress_ratios": None, "layer_types": ["sliding_attention"]}, "layer_types is .*a word for each layer"),
        ({"mlp_layer_types": ["moe", "hash_moe", "moe", "moe"]}, "mlp_layer_types"),
    ],
)
def test_what_does_not_fit_is_called_by_its_name(change: dict[str, object], what: str) -> None:
    config = {**TABLE[NAME].config, "architectures": ["DeepseekV4ForCausalLM"], **change}
    with pytest.raises((InputError, UnsupportedError), match=what):
        find_family(config).family.hparams(config)
