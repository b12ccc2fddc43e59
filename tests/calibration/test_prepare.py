"""From options to samples: what decides them, and every option that cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from walks import TINY

from quantkit.calibration.inputs import open_calibration_model
from quantkit.calibration.text.asked import CalibrationSpec
from quantkit.calibration.text.spec import (
    ANY_TOKEN,
    embedding_rows,
    last_position,
    longest_context,
    prepare_samples,
    shipped_beside,
    shipped_samples,
    window_length,
)
from quantkit.errors import InputError, UnsupportedError, UsageError
from quantkit.evaluation.corpus import cutting
from quantkit.events import Warned
from quantkit.source import open_source
from quantkit.source.memory import MemoryCheckpoint

SENTENCE = "The quick brown fox jumps over the lazy dog. "


def spec(folder: Path, *texts: str, **options: object) -> CalibrationSpec:
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return CalibrationSpec(tuple(map(str, paths)), **{"samples": 8, "seqlen": 16, **options})


def test_several_files_are_one_stream(tmp_path: Path) -> None:
    checkpoint = open_source(str(TINY))
    both = prepare_samples(checkpoint, spec(tmp_path, SENTENCE * 9, SENTENCE * 7, samples=99))
    assert both.record.documents == 2
    assert both.record.name == "0.txt, 1.txt"
    first = prepare_samples(checkpoint, spec(tmp_path, SENTENCE * 9, samples=99))
    assert np.array_equal(both.tokens[: len(first.tokens)], first.tokens)
    assert len(both.tokens) > len(first.tokens)


def test_the_digest_stands_for_tokens_and_data(tmp_path: Path) -> None:
    checkpoint = open_source(str(TINY))
    wanted = spec(tmp_path, SENTENCE * 40)
    digest = prepare_samples(checkpoint, wanted).record.digest
    assert prepare_samples(checkpoint, replace(wanted, threads=3, activations="disk")).record.digest == digest
    for other in (replace(wanted, samples=7), replace(wanted, seqlen=17), spec(tmp_path, SENTENCE * 40 + "x")):
        assert prepare_samples(checkpoint, other).record.digest != digest


def test_another_tokenizer_is_another_digest(tmp_path: Path) -> None:
    """The same file, cut into as many tokens, but others."""
    wanted = spec(tmp_path, "a b c d e f g h " * 30)
    found = []
    for swapped in (False, True):
        tokenizer = json.loads((TINY / "tokenizer.json").read_text())
        if swapped:
            vocabulary = tokenizer["model"]["vocab"]
            one, other = ("▁a", "▁b")
            vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        files = {"tokenizer.json": json.dumps(tokenizer).encode()}
        weights = {"model.embed_tokens.weight": np.zeros((2048, 4), np.float32)}
        config = json.loads((TINY / "config.json").read_text())
        found.append(prepare_samples(MemoryCheckpoint(config, weights, files), wanted).record)
    assert found[0].tokens == found[1].tokens
    assert found[0].digest != found[1].digest


def test_data_warnings_are_emitted(tmp_path: Path) -> None:
    heard: list[object] = []
    prepare_samples(open_source(str(TINY)), spec(tmp_path, SENTENCE * 40, seqlen=256), heard.append)
    assert [event.code for event in heard if isinstance(event, Warned)] == ["QK-CAL-001"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "--samples 0"),
        ({"seqlen": 1}, "--seqlen 1"),
        ({"device": "tpu"}, '--device "tpu"'),
        ({"activations": "tape"}, '--activations "tape"'),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], words: str, tmp_path: Path) -> None:
    wanted = spec(tmp_path, SENTENCE * 40, **options)
    for use in (prepare_samples, open_calibration_model):
        with pytest.raises(UsageError, match=words) as caught:
            use(open_source(str(TINY)), wanted)
        assert caught.value.hint
    with pytest.raises(UsageError, match="no calibration data"):
        prepare_samples(open_source(str(TINY)), replace(wanted, data=()))


def test_tokens_beyond_the_embedding_are_found_before_the_walk(tmp_path: Path) -> None:
    config = json.loads((TINY / "config.json").read_text())
    files = {"tokenizer.json": (TINY / "tokenizer.json").read_bytes()}
    small = MemoryCheckpoint(config, {"model.embed_tokens.weight": np.zeros((40, 4), np.float32)}, files)
    with pytest.raises(InputError, match="the embedding has 40 rows") as caught:
        prepare_samples(small, spec(tmp_path, SENTENCE * 40))
    assert "not of the same model" in (caught.value.hint or "")


def test_another_container_is_refused(tmp_path: Path) -> None:
    checkpoint = replace(MemoryCheckpoint({}, {"x": np.zeros((2, 2), np.float32)}), kind="gguf")
    with pytest.raises(UnsupportedError, match="does not run gguf files"):
        prepare_samples(checkpoint, spec(tmp_path, SENTENCE * 40))


@pytest.mark.parametrize(
    ("config", "tensor", "rows"),
    [
        ({"vocab_size": 9}, "model.embed_tokens.weight", 7),
        ({"vocab_size": 9}, "model.language_model.embed_tokens.weight", 7),
        ({"vocab_size": 9, "text_config": {"vocab_size": 8}}, "wte.weight", 8),
        ({"vocab_size": 9}, "model.not_embed_tokens.weight", 9),
        ({"vocab_size": True}, "wte.weight", ANY_TOKEN),
        ({"vocab_size": -4}, "wte.weight", ANY_TOKEN),
    ],
)
def test_rows_of_an_embedding(config: dict, tensor: str, rows: int) -> None:
    assert embedding_rows(MemoryCheckpoint(config, {tensor: np.zeros((7, 2), np.float32)})) == rows


SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 9, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("architecture", "config", "context", "last"),
    [
        ("LlamaForCausalLM", {**SMALL, "max_position_embeddings": 64}, 64, 0),
        ("LlamaForCausalLM", SMALL, 2048, 0),  # of its class
        ("Gemma3ForConditionalGeneration", {"text_config": {**SMALL, "max_position_embeddings": 32}}, 32, 0),
        ("MambaForCausalLM", SMALL, 1 << 20, 0),  # what llama.cpp is told
        ("GPT2LMHeadModel", {"n_embd": 64, "n_head": 4, "n_layer": 1, "vocab_size": 9, "n_positions": 96}, 96, 96),
        ("GPT2LMHeadModel", {"n_embd": 64, "n_head": 4, "n_layer": 1, "vocab_size": 9}, 1024, 1024),
        ("MPTForCausalLM", {"d_model": 64, "n_heads": 4, "n_layers": 1, "vocab_size": 9, "max_seq_len": 128}, 128, 128),
        ("BertModel", {**SMALL, "max_position_embeddings": 130}, 130, 130),
        ("RobertaModel", {**SMALL, "max_position_embeddings": 130, "pad_token_id": 1}, 128, 128),
    ],
)
def test_how_far_a_model_reads(architecture: str, config: dict, context: int, last: int) -> None:
    checkpoint = MemoryCheckpoint({"architectures": [architecture], **config}, {"x": np.zeros((7, 2), np.float32)})
    assert (longest_context(checkpoint), last_position(checkpoint)) == (context, last)
    assert window_length(checkpoint, None, 512, "seqlen") == min(512, last or 512)
    assert window_length(checkpoint, last or 512, 512, "seqlen") == (last or 512)
    if last:
        with pytest.raises(UsageError, match=rf"--seqlen {last + 1:,}: the model has {last:,} positions") as caught:
            window_length(checkpoint, last + 1, 512, "seqlen")
        assert f"--seqlen {last}" in (caught.value.hint or "")


def test_windows_are_cut_to_the_positions_that_a_model_has(tmp_path: Path) -> None:
    """Of calibration, and of what is measured; where as many as are asked for do not fit, nothing is run."""
    config = {"architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_head": 4, "n_layer": 1, "n_positions": 96}
    files = {"tokenizer.json": (TINY / "tokenizer.json").read_bytes()}
    few = MemoryCheckpoint({**config, "vocab_size": 2048}, {"wte.weight": np.zeros((2048, 64), np.float32)}, files)
    wanted = spec(tmp_path, SENTENCE * 100, seqlen=None, samples=9)
    assert prepare_samples(few, wanted).tokens.shape[1] == 96
    assert shipped_samples(few, wanted, 9).tokens.shape[1] == 96
    assert cutting(few, None).window == 96
    for cut in (lambda: prepare_samples(few, replace(wanted, seqlen=97)), lambda: cutting(few, 97)):
        with pytest.raises(UsageError, match=r"--(seqlen|window) 97: the model has 96 positions"):
            cut()


@pytest.mark.parametrize("samples", [1, 128, 2048])
def test_text_of_other_kinds_shares_no_document_with_what_widens(samples: int, tmp_path: Path) -> None:
    """However much of the shipped text that is; of the shipped text itself there is none."""
    checkpoint, wanted = open_source(str(TINY)), spec(tmp_path, SENTENCE, seqlen=128, samples=999)
    widening = shipped_samples(checkpoint, wanted, samples)
    found = shipped_beside(checkpoint, wanted, widening)
    assert found is not None
    assert 4096 <= found.tokens.size <= 16384
    taken = {n for a, b in (widening.documents if widening else ()) for n in range(a, b + 1)}
    own = [set(range(a, b + 1)) for a, b in found.documents]
    assert not taken & set().union(*own)
    assert len(set().union(*own)) > 30, "from all over it"
    assert len(set(found.record.ids)) == len(found.tokens)
    few = shipped_beside(checkpoint, replace(wanted, samples=9), widening)
    assert few is not None and len(few.tokens) == 5
    assert shipped_beside(checkpoint, replace(wanted, data=("default",)), None) is None


def test_samples_need_no_torch(tmp_path: Path) -> None:
    wanted = spec(tmp_path, SENTENCE * 40)
    code = (
        "import sys; from quantkit.source import open_source; from quantkit.calibration.text.spec import *\n"
        f"prepare_samples(open_source({str(TINY)!r}), CalibrationSpec({wanted.data!r}, seqlen=16))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
