"""Statistics as an imatrix: names and shapes of the target, values of the source, through the gguf package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import build
from gguf import GGUFReader
from walks import TINY, model_of, statistics_of, windows

from quantkit.calibration.imatrix import to_imatrix
from quantkit.calibration.inputs import Text, open_calibration_model
from quantkit.calibration.text.asked import CalibrationSpec
from quantkit.calibration.text.spec import IMPORTANCE_TOKENS, prepare_samples
from quantkit.calibration.walk import walk
from quantkit.errors import InputError
from quantkit.events import ignore
from quantkit.families.model import Model
from quantkit.formats.gguf.imatrix import encode_imatrix_gguf, match_importance, read_imatrix
from quantkit.plan.describe import describe_source
from quantkit.source import open_source


def described(folder: Path) -> Model:
    return describe_source(open_source(str(folder)), pre="qwen2" if "qwen" in folder.name else None)


@pytest.mark.parametrize("name", ["llama-untied-gqa", "mixtral-4x1M", "qwen3-moe", "qwen2-moe", "gemma3", "phi3"])
def test_every_matrix_of_the_target_is_covered(name: str, tmp_path: Path) -> None:
    """Every two-dimensional weight inside blocks, and the output where the model has one of its own."""
    folder = build(name, tmp_path)
    statistics = statistics_of(model_of(folder), windows(400, count=2, seqlen=70), hessian=False)
    model = described(folder)
    imatrix = to_imatrix(statistics, model)
    shapes = {t.name: t.shape for t in model.tensors if len(t.shape) > 1 and t.name != "token_embd.weight"}
    assert set(imatrix.entries) == set(shapes)
    for tensor, shape in shapes.items():
        entry = imatrix.entries[tensor]
        experts = shape[0] if len(shape) == 3 else 1
        assert entry.sums.shape == (experts, shape[-1])
        assert entry.counts.shape == (experts,)
        assert entry.counts.sum() == 140 * (1 if experts == 1 else {4: 2, 6: 3, 12: 3}[experts])
    weights, warnings = match_importance(imatrix, shapes, {t.name for t in model.tensors})
    assert set(weights) == set(shapes)
    assert not warnings


def test_the_file_is_what_other_readers_expect(tmp_path: Path) -> None:
    """Read back by the gguf package and by our own reader."""
    samples = windows(2048, count=3, seqlen=40)
    statistics = statistics_of(model_of(TINY), samples, hessian=False)
    imatrix = to_imatrix(statistics, described(TINY), "x.gguf")
    path = tmp_path / "x.gguf"
    path.write_bytes(encode_imatrix_gguf(imatrix))
    reader = GGUFReader(path)
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.chunk_count").contents() == 3
    assert reader.get_field("imatrix.chunk_size").contents() == 40
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    for layer in range(4):
        for target, source in (("attn_k", "self_attn.k_proj"), ("ffn_down", "mlp.down_proj")):
            total = statistics.total(f"model.layers.{layer}.{source}.weight")
            found = tensors[f"blk.{layer}.{target}.weight.in_sum2"].ravel()
            assert np.array_equal(found, total.squares.numpy().astype(np.float32))
            assert tensors[f"blk.{layer}.{target}.weight.counts"].ravel().tolist() == [120]
    assert "output.weight.in_sum2" not in tensors  # tied: the file has no tensor of that name
    again = read_imatrix(path)
    assert again.entries.keys() == imatrix.entries.keys()
    assert (again.chunks, again.chunk_size, again.datasets) == (3, 40, ("tokens",))


WORDS = [
    "mailcap", "module", "reads", "files", "that", "say", "how", "programs", "react", "to", "different", "types", "of",
    "message", "body", "import", "parser", "object", "returns", "value", "string", "list",
]  # fmt: skip
FROM_LLAMA_CPP = Path(__file__).parent.parent / "data" / "llama-imatrix-tiny.gguf"


def test_values_are_those_of_llama_imatrix(tmp_path: Path) -> None:
    """The golden file: `llama-imatrix -m docs-llama-tiny-f32.gguf -f words.txt -c 128`, llama.cpp of October 2026.

    Within 1 %: llama.cpp's attention takes keys and values in float16 (measured: 0.26 % in the worst column).
    """
    chosen = [WORDS[(7 * n * n + 3 * n) % len(WORDS)] + ("." if n % 11 == 0 else "") for n in range(3000)]
    text = tmp_path / "words.txt"
    text.write_text(" ".join(chosen))
    samples = prepare_samples(open_source(str(TINY)), CalibrationSpec((str(text),), samples=1000, seqlen=128))
    ours = to_imatrix(statistics_of(model_of(TINY), samples, hessian=False), described(TINY))
    theirs = read_imatrix(FROM_LLAMA_CPP)
    assert (ours.chunks, ours.chunk_size, ours.datasets) == (46, 128, ("words.txt",))
    assert (theirs.chunks, theirs.chunk_size, theirs.datasets) == (46, 128, ("words.txt",))
    assert ours.entries.keys() == theirs.entries.keys()
    for name, entry in theirs.entries.items():
        assert np.array_equal(ours.entries[name].counts, entry.counts)
        assert np.allclose(ours.entries[name].importance(), entry.importance(), rtol=0.01, atol=0), name


def test_an_imatrix_of_another_model_is_an_error(tmp_path: Path) -> None:
    statistics = statistics_of(model_of(build("mixtral-4x1M", tmp_path)), windows(400, count=1, seqlen=8))
    other = described(TINY)
    kept = [t for t in other.tensors if "ffn" in t.name]
    with pytest.raises(InputError, match="no tensor of the model"):
        to_imatrix(statistics, Model(**{**vars(other), "tensors": tuple(kept)}))


def test_text_that_gradients_were_taken_of_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first samples showed then is the importance of that part of the text, of that model alone."""
    spec = CalibrationSpec(data=(str(TINY.parent / "calibration.jsonl"),), samples=10, seqlen=256, threads=2)
    checkpoint, model = open_source(str(TINY)), described(TINY)
    text = Text(spec, prepare_samples(checkpoint, spec))
    expected = text.part(IMPORTANCE_TOKENS).importance(checkpoint, model, ignore)
    text.downstream(open_calibration_model(checkpoint, spec), ignore)

    def never(*args: object, **more: object) -> None:
        raise AssertionError("the text is run")

    monkeypatch.setattr(walk, "walk_blocks", never)
    found = text.part(IMPORTANCE_TOKENS).importance(checkpoint, model, ignore)
    assert found.entries.keys() == expected.entries.keys()
    for name, entry in expected.entries.items():
        assert np.array_equal(found.entries[name].sums, entry.sums)
        assert np.array_equal(found.entries[name].counts, entry.counts)
    assert (found.chunks, found.chunk_size, found.datasets) == (expected.chunks, expected.chunk_size, expected.datasets)
    with pytest.raises(AssertionError, match="the text is run"):
        text.part(256).importance(checkpoint, model, ignore)
    ((digest, known),) = text.read.items()
    text.read[digest] = replace(known, model="another")
    with pytest.raises(AssertionError, match="the text is run"):
        text.part(IMPORTANCE_TOKENS).importance(checkpoint, model, ignore)
