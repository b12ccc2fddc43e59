"""The engine check of models that predict nothing: vectors that llama.cpp makes of tokens, and scores that heads
of classes make of texts, on small random encoders (`encoder_table`)."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import checkpoints
import encoder_table
import gguf
import pytest
from commands import quantkit

from quantkit.calibration.walk.classes import load_classes
from quantkit.calibration.walk.model import open_model
from quantkit.errors import InputError
from quantkit.evaluation.engine_check import check_llama_cpp
from quantkit.evaluation.source_run import SourceRun
from quantkit.families.model import Model, Rows
from quantkit.pipeline import prepare
from quantkit.plan.describe import describe_source
from quantkit.quality.checks.base import Check, VerifyOptions
from quantkit.source import open_source

OPTIONS = VerifyOptions(engine="llama.cpp", threads=2)
PRE = {"bpe": "roberta-bpe", "modern": "modern-bert"}
# a kind of positions each: learned, learned behind the padding, rotary in windows, distances, rotary in Gemma's
QUICK = (("bert-labels", "f32"), ("roberta-reranker", "q8_0"), ("modernbert", "q8_0"), ("t5-encoder", "f32"))
SLOW = (
    ("embedding-gemma", "q8_0"), ("xlm-roberta", "f32"), ("distilbert", "q8_0"), ("eurobert", "f32"),
    ("bert-mean", "f32"), ("bert-labels", "q8_0"), ("xlm-roberta-reranker", "q8_0"), ("modernbert-reranker", "q8_0"),
)  # fmt: skip
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


def pre(name: str) -> str | None:
    return PRE.get(encoder_table.ENCODERS[name].tokenizer)


def checked(name: str, recipe: str, folder: Path) -> Check:
    """What the check says of a file of this encoder."""
    source = encoder_table.build(name, folder)
    named = ["--pre", pre(name)] if pre(name) else []
    made = quantkit("convert", source, "-o", folder / "made.gguf", "--to", recipe, *named, "--no-verify")
    assert made.status == 0, made.stderr
    with closing(open_source(str(source))) as opened:
        run = SourceRun(opened, prepare.describe_source(opened, pre(name)))
        return check_llama_cpp([folder / "made.gguf"], run, OPTIONS)


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_sound_files_pass(name: str, recipe: str, tmp_path: Path) -> None:
    found = checked(name, recipe, tmp_path)
    assert found.ok, found.detail
    assert found.data["contexts"] > 500
    if recipe == "f32":
        assert found.data["own_turned"] < 1e-5 < found.data["own_turned_limit"]
        assert found.data["turned_mean"] < 2e-5
    else:  # inputs rounded to 8 bits: measured in our run, and seen in the engine to the same extent
        assert 1e-5 < found.data["own_turned"] < found.data["own_turned_limit"]
        assert found.data["own_turned"] < 1.3 * found.data.get("arithmetic_turned", 1)
        assert found.data["turned_mean"] > found.data["own_turned"]
    assert ("own_moved" in found.data) is encoder_table.ENCODERS[name].score
    if "own_moved" in found.data:
        assert "to the scores that its weights give" in found.detail
        assert found.data["windows"] >= 4
        if recipe == "f32":
            assert found.data["own_moved"] < 1e-3
        else:
            assert found.data["own_moved"] < 2 * found.data["arithmetic_moved"]


def test_scores_of_a_language_model_that_judges_are_not_compared(tmp_path: Path) -> None:
    """Two rows of its output head, whose softmax llama.cpp gives: it is said."""
    source, path = checkpoints.build("a-reranker-by-its-card", tmp_path), tmp_path / "made.gguf"
    assert quantkit("convert", source, "-o", path, "--to", "f32", "--pre", "qwen2", "--no-verify").status == 0
    ran = quantkit("verify", path, "--against", source, "--pre", "qwen2", "--engine", "llama.cpp")
    assert ran.status == 0, ran.stderr
    assert "1 - cosine" in ran.stdout
    assert "its scores are not compared" in ran.stdout


@pytest.mark.parametrize(("key", "value"), [("classifier_activation", "nope"), ("classifier_pooling", "max")])
def test_settings_of_a_head_that_make_no_sense_are_refused_by_name(key: str, value: str, tmp_path: Path) -> None:
    source = encoder_table.build("modernbert-reranker", tmp_path)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, key: value}))
    with closing(open_source(str(source))) as opened, pytest.raises(InputError, match=f"config.json: .*{value}"):
        load_classes(open_model(opened), 1)


def test_of_what_does_not_run_here_tokens_alone_are_asked(tmp_path: Path) -> None:
    found = checked("jina-bert-v2", "q8_0", tmp_path)
    assert found.ok
    assert "its vectors are not compared, for it does not run here" in found.detail
    assert "turned_mean" not in found.data


# Mistakes of a writer that believes something wrong: the check shares none of it but the names.
def other_names(model: Model) -> Model:
    names = {"blk.0.attn_q.weight": "blk.0.attn_v.weight", "blk.0.attn_v.weight": "blk.0.attn_q.weight"}
    return replace(model, tensors=tuple(replace(t, name=names.get(t.name, t.name)) for t in model.tensors))


def other_positions(model: Model) -> Model:
    """The rows of the padding are taken, too, as if a text began there."""

    def moved(rows: Rows) -> Rows:
        return replace(rows, start=0, stop=rows.stop - rows.start)

    return replace(
        model,
        tensors=tuple(
            replace(t, parts=tuple(moved(part) for part in t.parts if isinstance(part, Rows)))
            if t.name == "position_embd.weight"
            else t
            for t in model.tensors
        ),
    )


def other_labels(model: Model) -> Model:
    """The rows of the head's last matrix lie in another order than the names of labels."""

    def turned(rows: Rows) -> tuple[Rows, ...]:
        return tuple(Rows(rows.tensor, row, row + 1) for row in reversed(range(rows.start, rows.stop)))

    return replace(
        model,
        tensors=tuple(
            replace(t, parts=tuple(row for part in t.parts if isinstance(part, Rows) for row in turned(part)))
            if t.name == "cls.output.weight"
            else t
            for t in model.tensors
        ),
    )


@pytest.mark.parametrize(("name", "wrong"), [("bert-mean", other_names), ("roberta", other_positions)])
def test_mistakes_of_the_writer_fail(
    name: str, wrong: Callable[[Model], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "describe_source", lambda source, pre=None: wrong(describe_source(source, pre)))
    found = checked(name, "q8_0", tmp_path)
    assert found.ok is False, found.detail
    assert found.data["own_turned"] > 2 * found.data["own_turned_limit"]


def test_a_head_that_is_written_wrong_fails_by_its_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "describe_source", lambda source, pre=None: other_labels(describe_source(source, pre)))
    found = checked("bert-labels", "q8_0", tmp_path)
    assert found.ok is False, found.detail
    assert "to the scores that its weights give" in found.detail
    assert found.data["own_turned"] < found.data["own_turned_limit"]
    assert found.data["own_moved"] > 2 * found.data["own_moved_limit"]


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    """The command as a whole: what cannot be run is a look that fails, beside the one that says which tensor."""
    source, path = encoder_table.build("bert-mean", tmp_path), tmp_path / "made.gguf"
    assert quantkit("convert", source, "-o", path, "--to", "q8_0", "--no-verify").status == 0
    data = bytearray(path.read_bytes())
    [at] = [t.data_offset for t in gguf.GGUFReader(path).tensors if t.name == "token_embd_norm.weight"]
    data[at : at + 4] = struct.pack("<f", math.nan)
    path.write_bytes(bytes(data))
    outcome = quantkit("verify", path, "--against", source, "--engine", "llama.cpp")
    assert outcome.status == 7, outcome.stderr
    assert "worst token_embd_norm.weight" in outcome.stderr
    assert "llama.cpp: llama.cpp: vectors that are no numbers" in outcome.stderr


def test_what_runs_the_encoder_of_t5_otherwise_is_told(tmp_path: Path) -> None:
    """The mean of llama-server's vectors of this very model is at a cosine of 0.79 to that of the model's."""
    for name, told in (("t5-encoder", True), ("bert-mean", False)):
        said = quantkit("plan", encoder_table.build(name, tmp_path), "--to", "q8_0").stderr
        assert (
            "warning[engine-differs]" in said and "llama-server gives other vectors than this encoder" in said
        ) is told


def test_a_file_as_a_source_is_asked_for_tokens_alone(tmp_path: Path) -> None:
    source = encoder_table.build("bert-mean", tmp_path)
    assert quantkit("convert", source, "-o", tmp_path / "a.gguf", "--to", "f32", "--no-verify").status == 0
    made = quantkit("convert", tmp_path / "a.gguf", "-o", tmp_path / "b.gguf", "--to", "q8_0", "--engine", "llama.cpp")
    assert made.status == 0, made.stderr
    assert "its vectors are not compared with those of a GGUF file" in made.stderr
