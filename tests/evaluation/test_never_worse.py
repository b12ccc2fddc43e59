"""A file with feedback is measured on held-out text beside the classic one, and becomes that where it is worse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import build
from commands import TINY, Outcome, quantkit
from published import require

from quantkit.calibration.text.samples import samples_of
from quantkit.filling import blocks
from quantkit.formats.gguf.reader import read_gguf
from quantkit.pipeline import never_worse
from quantkit.storage import Job, Record

CALIB = ("--calib", TINY.parent / "calibration.jsonl", "--samples", 2, "--seqlen", 64)
DAMAGED = "blk.1."


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama-untied-gqa", tmp_path_factory.mktemp("source"), spread=0.3)


def convert(source: Path, out: Path, *more: object) -> Outcome:
    return quantkit("convert", source, "--to", "q4_0", "-o", out / "made.gguf", *CALIB, *more)


def tensors(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Types and bytes of a file's tensors by their names."""
    path = folder / "made.gguf"
    raw = path.read_bytes()
    return {t.name: (t.qtype, raw[t.offset : t.offset + t.nbytes]) for t in read_gguf(path).tensors}


def guard(folder: Path) -> dict[str, Any]:
    manifest = json.loads((folder / "made.manifest.json").read_text())
    require(manifest)
    found: dict[str, Any] = manifest["guard"]
    return found


@pytest.fixture(scope="module")
def classic(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with an importance matrix of the same text."""
    folder = tmp_path_factory.mktemp("classic")
    assert convert(source, folder, "--method", "rtn").status == 0
    return folder


@pytest.mark.slow
def test_the_better_file_is_kept_and_told(
    source: Path, classic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic file's figure is that of the very file, measured by eval on other text of the same kind."""
    monkeypatch.setattr(never_worse, "BEYOND_DOUBT", np.inf)
    found = convert(source, tmp_path)
    assert found.status == 0, found.stderr
    said = guard(tmp_path)
    assert said["kept"] == "feedback"
    assert said["tokens"] == never_worse.TOKENS // 64 * 63
    assert said["difference"] == pytest.approx(said["kld"] - said["classic_kld"], rel=1e-6)
    assert 0 < said["kld"] < said["classic_kld"]
    assert tensors(tmp_path) != tensors(classic)
    text = ("--data", TINY.parent / "held-out.jsonl", "--window", 64, "--tokens", 4000)
    told = quantkit("eval", classic / "made.gguf", "--against", source, *text, "--json").json["artifacts"][0]["kl"]
    assert said["classic_kld"] == pytest.approx(told["value"], rel=0.2)
    assert "guard" not in json.loads((classic / "made.manifest.json").read_text())


@pytest.mark.slow
def test_a_part_of_the_text_will_do_without_doubt(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(never_worse, "BEYOND_DOUBT", 0.0)
    assert convert(source, tmp_path).status == 0
    assert guard(tmp_path)["tokens"] == never_worse.FIRST_TOKENS // 64 * 63


@pytest.mark.parametrize(
    ("shape", "first"),
    [((16, 256), (8, 129)), ((8, 512), (8, 129)), ((64, 64), (16, 64)), ((5, 1024), None), ((8, 129), None)],
)
def test_beginnings_are_measured_first(shape: tuple[int, int], first: tuple[int, int] | None) -> None:
    """In eight windows at least, which a standard error takes; then all of the text, not only the rest."""
    text = samples_of(np.arange(np.prod(shape), dtype=np.int32).reshape(shape))
    *before, last = never_worse._in_turn(text)
    assert last is text
    assert [one.tokens.tolist() for one in before] == ([text.tokens[: first[0], : first[1]].tolist()] if first else [])


def test_windows_of_an_encoder_and_its_decoder_stay_whole() -> None:
    text = replace(samples_of(np.zeros((16, 256), np.int32)), middle=(1, 0))
    first, last = never_worse._in_turn(text)
    assert last is text
    assert np.array_equal(first.tokens, text.tokens[:8])


def damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the matrices of a layer are written in the wrong places."""
    plain = blocks.put_layer

    def put(work: Any, unit: Any, quantized: Any, *more: Any) -> None:
        if unit.name.startswith(DAMAGED):
            quantized = replace(quantized, codes=np.ascontiguousarray(quantized.codes[::-1]))
        plain(work, unit, quantized, *more)

    monkeypatch.setattr(blocks, "put_layer", put)


@pytest.mark.slow
def test_a_worse_file_becomes_the_classic_one_killed_or_not(
    source: Path, classic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when some tensors are classic already, the same command ends with the same file and the same figures."""
    damage(monkeypatch)
    for name in ("whole", "killed"):
        folder = tmp_path / name
        if name == "killed":
            with monkeypatch.context() as until:
                plain, written = Job.finish, []

                def finish(self: Job, record: Record, plain: Any = plain, written: list[str] = written) -> None:
                    if "guard_kld" in record.extra:
                        written.append(record.tensor)
                        if len(written) == 4:
                            raise KeyboardInterrupt
                    plain(self, record)

                until.setattr(Job, "finish", finish)
                assert convert(source, folder).status == 130
                assert not (folder / "made.gguf").exists()
        found = convert(source, folder)
        assert found.status == 0, found.stderr
        assert "feedback does more damage" in found.stderr
        assert guard(folder)["kept"] == "classic"
        assert tensors(folder) == tensors(classic)
    assert guard(tmp_path / "whole") == guard(tmp_path / "killed")
    assert (tmp_path / "whole" / "made.gguf").read_bytes() == (tmp_path / "killed" / "made.gguf").read_bytes()


@pytest.mark.slow
def test_without_held_out_text_there_is_no_guard(source: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps({"text": "A short text, all of which is needed. " * 8}) + "\n")
    arguments = ("--calib", few, "--samples", 1, "--seqlen", 32)
    assert quantkit("convert", source, "--to", "q4_0", "-o", tmp_path / "made.gguf", *arguments).status == 0
    assert "guard" not in json.loads((tmp_path / "made.manifest.json").read_text())
