"""May it be published? One answer for release and push: verified bytes, compared with their source, gates kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import quantkit
from released import Made

from quantkit.errors import GateError, InputError, VerificationError
from quantkit.pipeline.judged import measured_in
from quantkit.pipeline.publishing import publishable, require_publishable
from quantkit.report.sealed import seal


def without_checks(path: Path) -> None:
    """A manifest as convert --no-verify writes it."""
    with_checks(path, [])


def with_checks(path: Path, checks: list[dict[str, Any]]) -> None:
    body = json.loads(path.read_text()) | {"checks": checks}
    body["seal"] = seal({key: value for key, value in body.items() if key != "seal"})
    path.write_text(json.dumps(body))


def test_what_is_verified_and_kept_its_gates_may_be_published(made: Made) -> None:
    found = require_publishable(made.out, records=[made.record])
    assert [one.label for one in found] == made.labels
    assert [one.gated for one in found] == [True, True, None]
    assert {gate.gate for one in found for gate in one.gates} == {"kld<0.9", "ppl_ratio<3"}
    [one] = require_publishable(made.out / "src-Q8_0.gguf")
    assert (one.label, one.gated, one.as_json()["ok"]) == ("src-Q8_0", None, True)
    with pytest.raises(GateError, match="judged by no gate"):
        require_publishable(made.out / "src-Q8_0.gguf", gated=True)


def test_a_failed_gate_is_in_the_way(made: Made, failing: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"src-Q4_0 did not keep its gates: kld<0\.9"):
        require_publishable(made.out, records=[failing("src-Q4_0")])
    one, other, _ = publishable(made.out, records=[failing("src-Q4_0")])
    assert (one.ok, one.verified, one.gated, other.ok) == (False, True, False, True)
    each = json.loads(made.record.read_text())["artifacts"][0]
    line = {
        "schema": "quantkit.eval-history/1", "time": "2026-01-01T00:00:00Z", "version": "1", "reference": "0" * 64,
        "data": "1" * 64, "ok": False,
        **{key: each[key] for key in ("name", "identity", "bytes", "tokens", "kl", "kl_quantiles", "perplexity",
                                      "perplexity_ratio", "top1_agreement")},
    }  # fmt: skip
    history = tmp_path / "history.jsonl"
    history.write_text(json.dumps(line))
    with pytest.raises(GateError, match="gates of a run"):
        require_publishable(made.out, records=[history])
    later = line | {"time": "2026-01-02T00:00:00Z", "ok": True}
    history.write_text(f"{json.dumps(later)}\n{json.dumps(line)}\n")  # the later run of the same text counts
    assert require_publishable(made.out, records=[history])
    for other in ({"engine": "llama.cpp"}, {"reference": "2" * 64}):  # which says nothing of the run that failed
        history.write_text(f"{json.dumps(line)}\n{json.dumps(later | other)}\n")
        with pytest.raises(GateError, match="gates of a run"):
            require_publishable(made.out, records=[history])


LATER = "2026-02-01T00:00:00+00:00"
OTHERS: dict[str, dict[str, Any]] = {
    "the same": {},
    "another text": {"data": {"token_sha256": "2" * 64}},
    "other windows": {"data": {"window": 32}},
    "another original": {"reference": {"sha256": "3" * 64}},
}


@pytest.mark.parametrize("changed", OTHERS)
@pytest.mark.parametrize("turned", [False, True], ids=["in order", "the newer one first"])
def test_of_one_gate_on_one_text_the_newest_judgement_counts(
    turned: bool, changed: str, made: Made, failing: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whatever order records are given in. A failure on another text stays one, and one that was judged anew fails."""
    old = failing("src-Q4_0")
    old.write_text(json.dumps(json.loads(old.read_text()) | {"time": "2026-01-01T00:00:00+00:00"}))
    body = json.loads(made.record.read_text())
    assert body["time"], "what eval prints says when"
    newer = tmp_path / "newer.json"
    other = {key: body[key] | facts for key, facts in OTHERS[changed].items()}
    newer.write_text(json.dumps(body | {"time": LATER} | other))
    records = [newer, old] if turned else [old, newer]
    assert publishable(made.out / "src-Q4_0.gguf", records=records)[0].ok is (changed == "the same")
    old.write_text(json.dumps(json.loads(old.read_text()) | {"time": "2026-03-01T00:00:00+00:00"}))
    assert not publishable(made.out / "src-Q4_0.gguf", records=records)[0].ok, "the failure is the newer one now"


def test_what_was_measured_last_is_the_quality(made: Made, tmp_path: Path) -> None:
    body = json.loads(made.record.read_text())
    for path, time, value in ((tmp_path / "a", LATER, 0.5), (tmp_path / "b", "2026-01-01T00:00:00+00:00", 0.1)):
        for each in body["artifacts"]:
            each["kl"] = {"value": value, "standard_error": None, "low": None, "high": None}
        path.write_text(json.dumps(body | {"time": time}))
    found = measured_in([tmp_path / "a", tmp_path / "b"])
    assert {known.kl["value"] for known in found.values()} == {0.5}


def test_changed_bytes_are_in_the_way(made: Made) -> None:
    path = made.out / "src-Q8_0.gguf"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationError, match=r"src-Q8_0 is not verified: files: src-Q8_0\.gguf has sha256"):
        require_publishable(made.out)
    path.write_bytes(b"GGUF")
    with pytest.raises(VerificationError, match="src-Q8_0 is not verified"):
        require_publishable(path)
    assert require_publishable(made.out / "src-Q4_0.gguf")  # the others are what they were


def test_what_nobody_compared_with_its_source_is_not_verified(made: Made) -> None:
    without_checks(made.out / "src-Q4_0.manifest.json")
    (made.out / "SHA256SUMS").unlink()
    with pytest.raises(VerificationError, match="converted with --no-verify"):
        require_publishable(made.out)
    [one] = publishable(made.out / "src-Q4_0.gguf", against=str(made.source))
    assert one.ok, one.as_json()  # compared now
    with pytest.raises(InputError, match="does not exist"):
        publishable(made.out / "src-Q4_0.gguf", against=str(made.source / "none"))


@pytest.mark.parametrize("figures", [{}, {"compared_tensors": 0}, {"compared_tensors": 7}], ids=str)
def test_a_look_that_compared_nothing_is_none(figures: dict[str, Any], made: Made) -> None:
    """It is neither good nor bad where no reader knows a type; where scales were moved, most weights are compared."""
    numbers = {"check": "numbers", "ok": None, "detail": "nobody reads it back", **figures}
    with_checks(made.out / "src-Q4_0.manifest.json", [{"check": "structure", "ok": True, "detail": ""}, numbers])
    (made.out / "SHA256SUMS").unlink()
    one, *_ = publishable(made.out / "src-Q4_0.gguf")
    assert one.verified is (figures.get("compared_tensors") == 7)
    assert one.verified or "nothing compared its numbers with its source: nobody reads it back" in str(one.unverified)


def test_what_is_no_artifact_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (made.out / "src-Q4_0.manifest.json").unlink()
    for path, said in (
        (tmp_path / "empty", "no artifact with a manifest"),
        (tmp_path / "none", "does not exist"),
        (made.out / "src-Q4_0.gguf", "no manifest beside it"),
    ):
        with pytest.raises(InputError, match=said):
            require_publishable(path)


def test_a_checkpoint_is_what_its_folder_holds(made: Made, tmp_path: Path) -> None:
    quiet = ("--card", "-q")
    assert quantkit("convert", made.source, "--to", "fp8", "-o", tmp_path / "fp8", *quiet).status == 0
    [one] = require_publishable(tmp_path / "fp8")
    assert (one.label, one.artifact.gguf) == ("fp8", False)
    (tmp_path / "fp8" / "config.json").write_text("{}")
    with pytest.raises(VerificationError, match="fp8 is not verified"):
        require_publishable(tmp_path / "fp8")
