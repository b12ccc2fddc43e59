"""Checkpoints of MLX: bytes of its own quantizer, its configuration, and folders read by its documentation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import weights
from commands import quantkit
from safetensors.torch import load_file

from quantkit.errors import NonFiniteError, UnsupportedError
from quantkit.formats.containers.base import Written
from quantkit.formats.containers.declared import declared
from quantkit.formats.containers.mlx import BITS, WRITTEN_GROUPS, MLXLayout
from quantkit.formats.containers.packed import values_of
from quantkit.formats.containers.table import layout_of, writing
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.schemes.affine import Affine
from quantkit.source import open_source

MODEL = Path(__file__).parent.parent / "data" / "docs-llama-tiny"
M = "model.layers.0.mlp.up_proj"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CASES = ("gaussian", "zeros", "minus-zeros", "positive", "negative", "mixed-scales", "denormal", "halves")


def stored(layout: MLXLayout, w: np.ndarray) -> list[np.ndarray]:
    """Words, scales and biases of a rounded weight, each in its shape."""
    return [values_of(tensor) for tensor in layout.pack(M, layout.scheme.encode(w))]


RISING = (np.arange(32, dtype=np.float32) - 10)[None] / 8


@pytest.mark.parametrize(
    ("w", "bits", "words", "scale", "bias"),
    [
        (RISING, 4, [0xBCCDDEEF, 0x8899AAAB, 0x44556677, 0x00112233], -0.2625, 2.625),
        (-RISING, 3, [0x6DDB6FFF, 0x36DC925B, 0x00124A49], 0.525, -2.625),
    ],
)
def test_words_scales_and_biases_that_mlx_gave(w, bits, words, scale, bias):
    found = stored(MLXLayout(Affine(bits, 32, "F32")), w)
    assert found[0].tolist() == [words]
    assert found[1:] == [np.array([[scale]], np.float32), np.array([[bias]], np.float32)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", BITS)
def test_bytes_and_values_are_those_of_mlx(bits, dtype):
    mx = pytest.importorskip("mlx.core", reason="no wheel of mlx for this machine")
    for case in CASES:
        w = torch.from_numpy(np.array(weights.weights(case, (4, 256)), np.float32)).to(DTYPES[dtype]).float().numpy()
        given = mx.array(w).astype({"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}[dtype])
        for group in WRITTEN_GROUPS:
            layout = MLXLayout(Affine(bits, group, dtype))
            words, scales, biases = mx.quantize(given, group, bits)
            found = stored(layout, w)
            assert np.array_equal(found[0], np.array(words)), (case, group)
            assert np.array_equal(found[1], np.array(scales.astype(mx.float32))), (case, group)
            assert np.array_equal(found[2], np.array(biases.astype(mx.float32))), (case, group)
            wide = (scales.astype(mx.float32), biases.astype(mx.float32))
            decoded = np.array(mx.dequantize(words, *wide, group, bits))
            # One multiplication and one addition: with or without a fused one the last bit may differ.
            assert np.allclose(layout.scheme.encode(w).values(), decoded, rtol=1e-6, atol=1e-7 * np.abs(w).max())


def test_weights_that_no_scale_reaches_are_refused():
    w = np.zeros((1, 64), np.float32)
    w[0, :2] = 3e38, -3e38
    with pytest.raises(NonFiniteError, match=r"a scale of -?inf"):
        Affine(4, 64, "F32").encode(w)
    with pytest.raises(NonFiniteError, match="a bias of 70000"):
        Affine(8, 64, "F16").encode(np.full((1, 64), 70000, np.float32))


@pytest.mark.parametrize(
    ("bits", "group", "key"), [(7, 64, "bits"), (4, 16, "group"), (4, 256, "group"), (4, -1, "group")]
)
def test_what_mlx_has_no_kernel_for_is_refused(bits, group, key):
    with pytest.raises(UnsupportedError) as caught:
        MLXLayout(Affine(bits, group)).entries(M, 64, 256)
    assert caught.value.key == key


def test_recipes_without_biases_are_refused():
    with pytest.raises(UnsupportedError) as caught:
        layout_of("mlx", Weights(symmetry="symmetric", group=64), "BF16")
    assert 'symmetry = "asymmetric"' in str(caught.value.hint)
    assert caught.value.key == "symmetry"


def test_layers_that_differ_are_named_in_the_configuration():
    """As mlx-lm writes it; under the second key the Hub looks for quantized models."""
    rare = MLXLayout(Affine(8, 32, "BF16"))
    layouts = dict.fromkeys("abc", MLXLayout(Affine(4, 64, "BF16"))) | {"d": rare}
    config = writing("mlx").config(Written(layouts, ("lm_head",), (), "quantkit:1"))
    assert config["quantization"] == config["quantization_config"] == {
        "group_size": 64, "bits": 4, "mode": "affine", "d": {"group_size": 32, "bits": 8, "mode": "affine"},
    }  # fmt: skip
    said = declared(json.loads(json.dumps(config)), {})
    assert said is not None
    assert said["quant_method"] == "mlx"


RECIPE = """schema = 1
container = "mlx"

[weights]
type = "int"
bits = {bits}
group = {group}
symmetry = "asymmetric"

[[rule]]
roles = ["ffn_down"]
weights = {{ bits = 6, group = 32 }}
"""


def by_the_documentation(words: np.ndarray, scales: np.ndarray, biases: np.ndarray, bits: int) -> np.ndarray:
    """MLX's formula, code by code: the first in the lowest bits, w = scale * code + bias."""
    out = []
    for row, scale, bias in zip(words, scales, biases, strict=True):
        text = "".join(f"{int(word):032b}"[::-1] for word in row)
        codes = [int(text[at : at + bits][::-1], 2) for at in range(0, len(text), bits)]
        size = len(codes) // len(scale)
        out.append([float(scale[n // size]) * code + float(bias[n // size]) for n, code in enumerate(codes)])
    return np.array(out)


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 128), (8, 64)])
def test_a_folder_holds_what_the_documentation_reads(bits, group, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(RECIPE.format(bits=bits, group=group))
    out = tmp_path / "out"
    assert quantkit("convert", MODEL, "--to", recipe, "-o", out).status == 0
    said = json.loads((out / "config.json").read_text())["quantization"]
    assert (said["bits"], said["group_size"]) == (bits, group)
    tensors = load_file(out / "model.safetensors")
    original, again = open_source(str(MODEL)), open_source(str(out))
    rounded = [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]
    assert {name for name in rounded if name in said} == {name for name in rounded if name.endswith("down_proj")}
    assert len(rounded) == 28
    for name in (M, M.replace("up", "down")):
        own = said.get(name, said)
        parts = [tensors[f"{name}.{part}"] for part in ("scales", "biases")]
        assert {part.dtype for part in parts} == {torch.bfloat16}
        words = tensors[f"{name}.weight"].numpy()[:8]
        values = by_the_documentation(words, *(part.float().numpy()[:8] for part in parts), own["bits"])
        ref = original.ref(f"{name}.weight")
        step = np.repeat(np.abs(parts[0].float().numpy()[:8]), own["group_size"], axis=1)
        # Half a step; one more where the scale, which was changed for zero's sake, does not reach the far end; and
        # what scale and bias lose in bfloat16 on the way to the last code.
        assert (np.abs(values - ref.read(0, 8)) <= step * (1.5 + (1 << own["bits"]) * 2**-8)).all()
        assert np.allclose(again.ref(f"{name}.weight").read(0, 8), values, rtol=1e-6, atol=1e-7)
    assert again.tensors()[f"{M}.weight"].stored_as == f"mlx w{bits}g{group} asymmetric"
