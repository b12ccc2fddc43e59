"""Norms of files with feedback: what manifests say of them, switched off, interrupted, refused, and what looks say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import family_table
import numpy as np
import pytest
from checkpoints import build
from commands import TINY, Outcome, quantkit
from published import require

from quantkit.calibration import inputs
from quantkit.calibration.walk import refit
from quantkit.formats.gguf.reader import read_gguf
from quantkit.pipeline import never_worse
from quantkit.storage import Job, Record

CALIB = ("--calib", TINY.parent / "calibration.jsonl", "--samples", 8, "--seqlen", 32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama-untied-gqa", tmp_path_factory.mktemp("source"), spread=0.3)


@pytest.fixture(autouse=True, scope="module")
def little() -> Iterator[None]:
    """Little text is enough; the guard is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "LEAST_JUDGED", 1)
        patch.setattr(never_worse, "LEAST_TOKENS", 1 << 30)
        yield


def convert(source: Path, out: Path, *options: str) -> Outcome:
    given = options or ("--refit-norms",)
    return quantkit("convert", source, "--to", "q4_0", "-o", out / "made.gguf", *CALIB, *given)


def norms(folder: Path) -> dict[str, bytes]:
    """The bytes of all norms of a file, by their names."""
    path = folder / "made.gguf"
    raw = path.read_bytes()
    return {t.name: raw[t.offset : t.offset + t.nbytes] for t in read_gguf(path).tensors if t.qtype == "f32"}


def others(folder: Path) -> dict[str, bytes]:
    """The bytes of all else."""
    path = folder / "made.gguf"
    raw = path.read_bytes()
    return {t.name: raw[t.offset : t.offset + t.nbytes] for t in read_gguf(path).tensors if t.qtype != "f32"}


def said(folder: Path) -> dict[str, Any] | None:
    manifest = json.loads((folder / "made.manifest.json").read_text())
    require(manifest)
    found: dict[str, Any] | None = manifest.get("norms")
    return found


def judged(monkeypatch: pytest.MonkeyPatch, change: float) -> None:
    """Whatever is fitted, the other text says so much of it."""
    plain = refit.refit

    def told(*given: Any) -> Any:
        found = plain(*given)
        return replace(found, after=found.before + change * np.arange(1, 3))

    monkeypatch.setattr(refit, "refit", told)


@pytest.fixture(scope="module")
def fitted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file whose norms are fitted, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        judged(patch, -1.0)
        found = convert(source, folder)
    assert found.status == 0, found.stderr
    return folder, found.stderr


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file whose norms are the source's."""
    folder = tmp_path_factory.mktemp("plain")
    assert convert(source, folder, "--no-refit-norms").status == 0
    return folder


def test_they_are_fitted_and_told(source: Path, plain: Path, fitted: tuple[Path, str]) -> None:
    """Matrices are those of the file without; verify and eval know that norms differ, and by how much they may."""
    folder, told = fitted
    assert "norms are refitted" in told
    facts = said(folder)
    assert facts is not None
    assert (facts["tensors"], facts["kept"], facts["other_documents"]) == (5, "refitted", True)
    assert 32 < facts["tokens"] <= (6 + 2) * 32, "two windows of the shipped text"
    assert facts["judged_tokens"] == 2 * 32
    assert facts["kld_after"] < facts["kld_before"]
    assert said(plain) is None
    before, after = norms(plain), norms(folder)
    for name, raw in before.items():
        values, moved = (np.frombuffer(one, "<f4") for one in (raw, after[name]))
        assert 0 < np.abs(moved - values).max() <= 0.1001 * np.abs(values).max(), name
    assert others(plain) == others(folder)
    seen = quantkit("verify", folder / "made.gguf", "--against", source)
    assert seen.status == 0, seen.stdout
    text = ("--data", TINY.parent / "held-out.jsonl", "--window", 32, "--tokens", 500)
    measured = quantkit("eval", folder / "made.gguf", "--against", source, *text, "--json").json["artifacts"][0]
    assert measured["weights"]["damaged"] == []


def test_verify_sees_a_norm_that_is_no_refitted_one(source: Path, fitted: tuple[Path, str], tmp_path: Path) -> None:
    """What may differ may not differ at will: here a norm is twice as long."""
    path = fitted[0] / "made.gguf"
    [norm] = [t for t in read_gguf(path).tensors if t.name == "output_norm.weight"]
    raw = bytearray(path.read_bytes())
    values = 2 * np.frombuffer(raw, "<f4", norm.nbytes // 4, norm.offset)
    raw[norm.offset : norm.offset + norm.nbytes] = values.tobytes()
    (tmp_path / "made.gguf").write_bytes(raw)
    seen = quantkit("verify", tmp_path / "made.gguf", "--against", source)
    assert seen.status == 7
    assert "output_norm.weight" in seen.stdout + seen.stderr


@pytest.mark.parametrize("change", [1.0, float("nan")])
def test_they_stay_where_other_text_does_not_gain(
    change: float, source: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, change)
    assert convert(source, tmp_path).status == 0
    facts = said(tmp_path)
    assert facts is not None
    assert facts["kept"] == "source"
    assert norms(tmp_path) == norms(plain)


def test_killed_while_they_are_written(
    source: Path, fitted: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command ends with the same file, and says the same."""
    judged(monkeypatch, -1.0)
    with monkeypatch.context() as until:
        finish, written = Job.finish, []

        def killed(self: Job, record: Record) -> None:
            if "norms_kept" in record.extra:
                written.append(record.tensor)
                if len(written) == 3:
                    raise KeyboardInterrupt
            finish(self, record)

        until.setattr(Job, "finish", killed)
        assert convert(source, tmp_path).status == 130
        assert not (tmp_path / "made.gguf").exists()
    assert convert(source, tmp_path).status == 0
    assert (tmp_path / "made.gguf").read_bytes() == (fitted[0] / "made.gguf").read_bytes()
    assert said(tmp_path) == said(fitted[0])


def test_the_classic_file_has_the_norms_of_the_source(
    source: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, -1.0)
    monkeypatch.setattr(never_worse, "LEAST_TOKENS", 1)
    measured = never_worse._measured
    monkeypatch.setattr(
        never_worse, "_measured", lambda *given: {**measured(*given), "difference": 1.0, "standard_error": 0.0}
    )
    assert convert(source, tmp_path).status == 0
    assert norms(tmp_path) == norms(plain)
    facts = said(tmp_path)
    assert facts is not None
    assert facts["kept"] == "source"


def test_half_a_classic_file_is_never_published(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while classic tensors are written, and gone on with by a command that compares nothing any more."""
    monkeypatch.setattr(never_worse, "LEAST_TOKENS", 1)
    plain = "--no-refit-norms"
    figures = dict.fromkeys(never_worse.FIGURES, 1.0) | {"tokens": 2048, "standard_error": 0.0}
    monkeypatch.setattr(never_worse, "_measured", lambda *given: figures)
    assert convert(source, tmp_path / "whole", plain).status == 0
    with monkeypatch.context() as until:
        finish, written = Job.finish, []

        def killed(self: Job, record: Record) -> None:
            written.extend([record.tensor] if "guard_kld" in record.extra else [])
            if len(written) == 4:
                raise KeyboardInterrupt
            finish(self, record)

        until.setattr(Job, "finish", killed)
        assert convert(source, tmp_path / "killed", plain).status == 130
    assert convert(source, tmp_path / "killed", plain, "--no-verify").status == 0
    whole, resumed = (tmp_path / name / "made.gguf" for name in ("whole", "killed"))
    assert resumed.read_bytes() == whole.read_bytes()
    assert json.loads(resumed.with_name("made.manifest.json").read_text())["guard"]["kept"] == "classic"


def test_statistics_leave_them_as_they_are(source: Path, tmp_path: Path) -> None:
    """Where a recipe asks for it there is no text to fit them to: the plan knows, the file says nothing."""
    known, recipe = tmp_path / "known.safetensors", tmp_path / "mine.toml"
    recipe.write_text('schema = 1\ntitle = "MINE"\n[default]\nqtype = "q4_0"\n[method]\nnorms = true\n')
    assert quantkit("calibrate", source, "--data", *CALIB[1:], "-o", known).status == 0
    assert quantkit("convert", source, "--to", recipe, "-o", tmp_path / "made.gguf", "--calib", known).status == 0
    assert said(tmp_path) is None
    [plan] = quantkit("plan", source, "--to", recipe, "--calib", known, "--json").json["plans"]
    assert "refits" not in plan
    assert plan["recipe"].endswith("--no-refit-norms")
    assert "quantkit.refit" not in {entry.key for entry in read_gguf(tmp_path / "made.gguf").metadata}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepseek-v4", "falcon-mamba", "apertus"])
def test_whatever_blocks_are_made_of_they_are_fitted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables of whole numbers, recurrences, numbers among the keys: iq4_nl fits norms without being asked."""
    monkeypatch.setattr(refit, "REFIT_STEPS", 2)
    folder = family_table.build(name, tmp_path / "source")
    ran = quantkit("convert", folder, "--to", "iq4_nl", *CALIB, "--no-verify", "-o", tmp_path / "made.gguf")
    assert ran.status == 0, ran.stderr
    figures = said(tmp_path)
    assert figures is not None
    assert np.isfinite([figures["kld_before"], figures["kld_after"]]).all()


def test_work_folders_are_packed_with_them(
    source: Path, fitted: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, -1.0)
    assert quantkit("quantize", source, "--to", "q4_0", *CALIB, "--refit-norms", "-o", tmp_path / "work").status == 0
    assert quantkit("pack", tmp_path / "work" / "Q4_0", "-o", tmp_path / "made.gguf").status == 0
    assert norms(tmp_path) == norms(fitted[0])
    assert said(tmp_path) == said(fitted[0])
