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
from quantkit.calibration.text.spec import ANY_TOKEN, CalibrationSpec, embedding_rows, longest_context, prepare_samples
from quantkit.errors import InputError, UnsupportedError, UsageError
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
    ("config", "tensor", "rows", "context"),
    [
        ({"vocab_size": 9, "max_position_embeddings": 64}, "model.embed_tokens.weight", 7, 64),
        ({"vocab_size": 9}, "model.language_model.embed_tokens.weight", 7, 0),
        ({"vocab_size": 9, "text_config": {"vocab_size": 8}}, "wte.weight", 8, 0),
        ({"vocab_size": 9}, "model.not_embed_tokens.weight", 9, 0),
        ({"vocab_size": True}, "wte.weight", ANY_TOKEN, 0),
        ({"vocab_size": -4}, "wte.weight", ANY_TOKEN, 0),
        ({"text_config": {"max_position_embeddings": 32}}, "embed_tokens.weight", 7, 32),
    ],
)
def test_what_a_checkpoint_says_of_its_sizes(config: dict, tensor: str, rows: int, context: int) -> None:
    checkpoint = MemoryCheckpoint(config, {tensor: np.zeros((7, 2), np.float32)})
    assert (embedding_rows(checkpoint), longest_context(checkpoint)) == (rows, context)


def test_samples_need_no_torch(tmp_path: Path) -> None:
    wanted = spec(tmp_path, SENTENCE * 40)
    code = (
        "import sys; from quantkit.source import open_source; from quantkit.calibration.text.spec import *\n"
        f"prepare_samples(open_source({str(TINY)!r}), CalibrationSpec({wanted.data!r}, seqlen=16))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
