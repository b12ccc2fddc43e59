"""The ctypes declarations of the oracle agree with the library: checked by behaviour, since headers may move."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from oracles import ggml
from reference import REFERENCE


def test_structs_have_the_declared_layout():
    so = ggml.library().so
    model, context = so.llama_model_default_params(), so.llama_context_default_params()
    assert (model.n_gpu_layers, model.split_mode, model.load_mode, model.main_gpu) == (-1, 1, -1, 0)
    assert (model.vocab_only, model.check_tensors, model.use_extra_bufts) == (False, False, True)
    assert (context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max) == (512, 2048, 512, 1)


@pytest.mark.parametrize("name", sorted(ggml.TYPE_IDS))
def test_type_numbers_and_sizes_agree_with_the_gguf_package(name):
    number = ggml.TYPE_IDS[name]
    if number not in set(gguf.GGMLQuantizationType):
        pytest.skip(f"the gguf package does not know {name} yet")
    qtype = gguf.GGMLQuantizationType(number)
    assert qtype.name.lower() == name
    block, nbytes = gguf.GGML_QUANT_SIZES[qtype]
    assert ggml.row_size(qtype.value, 3 * block) == 3 * nbytes


@pytest.mark.parametrize("name", ["q4_0", "q6_k"])
def test_dequantize_agrees_with_the_gguf_package(name):
    w = np.random.default_rng(1).standard_normal((3, 512)).astype(np.float32)
    raw = ggml.quantize(ggml.TYPE_IDS[name], w)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(ggml.TYPE_IDS[name]))
    assert np.array_equal(ggml.dequantize(ggml.TYPE_IDS[name], raw, 512), expected)


def test_validate_rejects_an_infinite_scale():
    raw = ggml.quantize(ggml.TYPE_IDS["q8_0"], np.ones((1, 32), np.float32))
    assert ggml.validate(ggml.TYPE_IDS["q8_0"], raw)
    raw[0, :2] = np.array([np.inf], np.float16).view(np.uint8)
    assert not ggml.validate(ggml.TYPE_IDS["q8_0"], raw)


def test_bad_arguments_are_refused_before_ggml_aborts():
    with pytest.raises(ValueError, match="multiple"):
        ggml.quantize(ggml.TYPE_IDS["q4_k"], np.ones((1, 100), np.float32))
    with pytest.raises(ValueError, match="importance"):
        ggml.quantize(ggml.TYPE_IDS["q4_k"], np.ones((1, 256), np.float32), np.ones(255, np.float32))
    with pytest.raises(ValueError, match="non-finite"):
        ggml.quantize(ggml.TYPE_IDS["q4_k"], np.full((1, 256), np.nan, np.float32))


def test_a_file_that_llama_cpp_refuses_is_an_error(tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(RuntimeError, match=r"broken\.gguf"):
        ggml.Model(path)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["llama-spm", "qwen2"])
def test_tokenize_gives_the_ids_that_ship_with_the_vocabularies(name):
    path = REFERENCE / "models" / f"ggml-vocab-{name}.gguf"
    texts = path.with_suffix(".gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = [
        [int(i) for i in line.split()]
        for line in path.with_suffix(".gguf.out").read_text().removesuffix("\n").split("\n")
    ]
    with ggml.Model(path, vocab_only=True) as model:
        assert [model.tokenize(text) for text in texts[: len(expected)]] == expected
