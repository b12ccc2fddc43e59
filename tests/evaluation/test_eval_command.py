"""quantkit eval as a user meets it: figures, gates, records, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from commands import quantkit

from quantkit import EvalRequest, Records
from quantkit.calibration.text.samples import Texts, Tokens
from quantkit.cli.exits import exit_code
from quantkit.errors import QuantkitError, UsageError
from quantkit.evaluation.corpus import Cutting, cut_texts
from quantkit.evaluation.figures import clusters_of
from quantkit.evaluation.gates import parse_gates, shown_number
from quantkit.pipeline.columns import cut, figure, tail, width_of
from quantkit.schemas import json_schema

TINY = Path(__file__).parent.parent / "data" / "docs-llama-tiny"
FIELDS = {"--junit": "junit", "--summary": "summary", "--append": "history"}
PROSE = Path(__file__).parent.parent.parent / "docs" / "numerics.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    assert quantkit("convert", TINY, "--to", "q8_0,q4_0", "-o", folder, "--no-verify", "-q").status == 0
    assert quantkit("convert", TINY, "--to", "fp8", "-o", folder / "fp8", "--no-verify", "-q").status == 0
    rows = PROSE.read_text().split("\n\n")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows[:60]))
    return folder


def artifact(made: Path, name: str) -> Path:
    return made / name if name == "fp8" else made / f"docs-llama-tiny-{name}.gguf"


def evaluate(made: Path, *options: object, name: str = "Q8_0", against: Path = TINY) -> Any:
    data = made / "text.jsonl"
    few = ("--data", data, "--window", 64, "--tokens", 900)
    return quantkit("eval", artifact(made, name), "--against", against, *few, *options)


def test_the_json_fits_its_schema_and_names_the_original(made: Path) -> None:
    from jsonschema import Draft202012Validator

    both = ("--json", "--gate", "kld<0.01", artifact(made, "fp8"))
    found = evaluate(made, *both)
    body = found.json
    assert [e.message for e in Draft202012Validator(json_schema("eval")).iter_errors(body)] == []
    assert found.status == 0
    assert {f["name"]: f["weights"] for f in body["reference"]["files"]}["model.safetensors"] is True
    gguf, fp8 = body["artifacts"]
    assert 0 < gguf["kl"]["value"] < 1e-4 < fp8["kl"]["value"] < 1e-2
    assert gguf["held_out"] is True
    assert fp8["inputs"].startswith("rounded in 28 layers")
    assert all(len(each["blocks"]) == 4 and len(each["worst"]) == 10 for each in body["artifacts"])
    assert all(passage["text"] for passage in gguf["worst"])


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_lines_fit_the_terminal(made: Path, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    found = evaluate(made, "--gate", "assistant", "--gate", "size<=0.6x", artifact(made, "Q4_0"))
    assert found.status == 0
    assert max(map(len, found.stdout.splitlines())) <= columns
    assert "KL divergence" in found.stdout
    assert "worst passages" in found.stdout


def test_a_breach_is_exit_8_and_everything_is_recorded(made: Path, tmp_path: Path) -> None:
    places = ("--junit", tmp_path / "j.xml", "--summary", tmp_path / "s.md", "--append", tmp_path / "h.jsonl")
    (tmp_path / "s.md").write_text("before\n")
    for _ in range(2):
        found = evaluate(made, "--gate", "kld<0.01", "--gate", "top1>=99.9%", *places, name="Q4_0")
        assert found.status == 8
    assert "error[gate]" in found.stderr
    assert "top1>=99.9%" in found.stderr
    assert "kld<0.01" not in found.stderr
    [suite] = ElementTree.fromstring((tmp_path / "j.xml").read_text())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite] == ["kld<0.01", "top1>=99.9%"]
    assert [case.find("failure") is not None for case in suite] == [False, True]
    summary = (tmp_path / "s.md").read_text()
    assert summary.startswith("before\n")
    assert summary.count("**gates do not hold**") == 2
    first, second = (json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines())
    assert first["kl"] == second["kl"]
    assert first["ok"] is False


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("klx<0.1", 'did you mean "kld"'),
        ("assistent", 'did you mean "assistant"'),
        ("kld>0.1", "less kld is better"),
        ("top1<=0.9", "more top1 is better"),
        ("kld<", "is no gate"),
        ("kld<much", '"much" is no number'),
        ("kld<nan", '"nan" is no number'),
        ("size<=big", "is not a size"),
    ],
)
def test_gates_that_are_none(made: Path, gate: str, said: str) -> None:
    found = evaluate(made, "--gate", gate)
    assert (found.status, said in found.stderr) == (2, True), found.stderr


def test_a_set_of_prompts_that_cannot_prove_a_gate_is_refused_and_one_that_can_named(made: Path) -> None:
    found = evaluate(made, "--prompts", "golden", "--gate", "json_valid>=0.98")
    assert (found.status, "--prompts json" in found.stderr) == (3, True), found.stderr


def test_the_gate_asks_the_bound_not_the_estimate(made: Path) -> None:
    kl = evaluate(made, "--json", name="Q4_0").json["artifacts"][0]["kl"]
    between = (kl["value"] + kl["high"]) / 2
    assert evaluate(made, "--gate", f"kld<{between:.9f}", name="Q4_0").status == 8
    assert evaluate(made, "--gate", f"kld<{kl['high'] * 1.001:.9f}", name="Q4_0").status == 0


def test_one_window_has_no_bound(made: Path, tmp_path: Path) -> None:
    text = tmp_path / "one.txt"
    text.write_text("A short text of one window.")
    found = evaluate(made, "--gate", "kld<1", "--data", text)
    assert quantkit("eval", artifact(made, "Q8_0"), "--against", TINY, "--data", text).status == 0
    found = quantkit("eval", artifact(made, "Q8_0"), "--against", TINY, "--data", text, "--gate", "kld<1")
    assert (found.status, "no confidence bound" in found.stderr) == (3, True)


def other_tokens(folder: Path) -> None:
    body = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = body["model"]["vocab"]
    one, two = (next(k for k, v in vocabulary.items() if v == n) for n in (700, 701))
    vocabulary[one], vocabulary[two] = 701, 700
    (folder / "tokenizer.json").write_text(json.dumps(body))
    (folder / "tokenizer.model").unlink()


def other_rope(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config.get("rope_parameters") or config)["rope_theta"] = 500.0
    (folder / "config.json").write_text(json.dumps(config))


def other_size(folder: Path) -> None:
    """Sixteen more rows, and as many tokens, as where tokens were added after the artifact was made."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = torch.cat([tensors[name], tensors[name][:16]]).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] += 16
    (folder / "config.json").write_text(json.dumps(config))


def other_weights(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (folder / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_tokens, 'token 700 is "'),
        (other_rope, "rope.freq_base"),
        (other_weights, "with other weights"),
        (other_size, "has 2,048 tokens, the source has 2,064"),
    ],
)
def test_an_artifact_of_another_model_is_refused(
    made: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(TINY, folder)
    change(folder)
    found = evaluate(made, against=folder)
    assert (found.status, said in found.stderr) == (3, True), found.stderr


def test_what_else_is_refused(made: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    file = artifact(made, "Q8_0")
    text = ("--data", made / "text.jsonl")
    for status, said, arguments in (
        (3, "has no text", (file, "--against", TINY, "--data", empty)),
        (6, "Is a directory", (file, "--against", TINY, *text, "--junit", tmp_path)),
        (6, "Is a directory", (file, "--against", TINY, *text, "--append", tmp_path)),
        (3, "does not exist", (made / "none.gguf", "--against", TINY, *text)),
        (2, "no original", (file, *text)),
        (2, "no text to measure on", (file, "--against", TINY)),
        (2, "is quantized itself", (file, "--against", made / "fp8", *text)),
        (4, "a GGUF file, as the original", (file, "--against", file, *text)),
        (2, 'did you mean "second-half"', (file, "--against", TINY, *text, "--score", "secondhalf")),
    ):
        found = quantkit("eval", *arguments)
        assert (found.status, said in found.stderr) == (status, True), found.stderr


def test_a_quantized_original_only_by_name(made: Path) -> None:
    text = ("--data", made / "text.jsonl", "--window", 64, "--tokens", 300)
    found = quantkit("eval", artifact(made, "fp8"), "--against-quantized", made / "fp8", *text, "--json")
    assert found.json["reference"]["quantized"] is True


def test_verify_gates_what_passed(made: Path, tmp_path: Path) -> None:
    asked = ("verify", artifact(made, "Q4_0"), "--against", TINY, "--data", made / "text.jsonl", "--json")
    found = quantkit(*asked, "--gate", "kld<0.1", "--gate", "size<=0.2x")
    body = json.loads(found.stdout.splitlines()[0])
    assert (found.status, body["ok"]) == (8, False)
    assert [(gate["metric"], gate["ok"]) for gate in body["gates"]] == [("kld", True), ("size", False)]
    found = quantkit("verify", artifact(made, "Q4_0"), "--against", TINY, "--gate", "kld<0.1")
    assert (found.status, "--gate needs --data" in found.stderr) == (2, True)


def test_text_that_it_was_calibrated_on_is_refused(made: Path, tmp_path: Path) -> None:
    data = made / "text.jsonl"
    out = tmp_path / "cal.gguf"
    few = ("--samples", 2, "--seqlen", 32, "--no-verify", "-q")
    assert quantkit("convert", TINY, "--to", "q8_0", "--calib", data, *few, "-o", out).status == 0
    text = ("--data", data, "--window", 64, "--tokens", 300)
    found = quantkit("eval", out, "--against", TINY, *text)
    assert (found.status, "was calibrated on text.jsonl" in found.stderr) == (2, True), found.stderr
    found = quantkit("eval", out, "--against", TINY, *text, "--seen", "--json")
    assert found.json["artifacts"][0]["held_out"] is False
    assert "warning[not-held-out]" in found.stderr


def test_the_shipped_text_has_been_seen_where_it_widens_other_text(made: Path, tmp_path: Path) -> None:
    few = ("--samples", 8, "--seqlen", 32, "--no-verify", "-q")
    command = ("convert", TINY, "--to", "q4_0", "--calib", made / "text.jsonl", *few)
    for method, seen in ((), True), (("--method", "rtn"), False):
        out = tmp_path / f"{seen}.gguf"
        assert quantkit(*command, *method, "-o", out).status == 0
        found = quantkit("eval", out, "--against", TINY, "--data", "default", "--window", 64, "--tokens", 300)
        assert ("was calibrated on the shipped text" in found.stderr) is seen, found.stderr
        assert found.status == (2 if seen else 0)
    gated = quantkit(*command, "-o", tmp_path / "gated.gguf", "--gate", "kld<1", "--eval-data", "default")
    assert (gated.status, "default is what --calib calibrates on" in gated.stderr) == (2, True), gated.stderr


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("kld<-1", "the best kld is 0"),
        ("kld<0", "the best kld is 0"),
        ("ppl<=0.9", "the best ppl is 1"),
        ("top1>=95", "--gate 'top1>=95%'"),
        ("top1>1", "the best top1 is 1"),
        ("top1>=200%", "the best top1 is 1"),
        ("top1>=95%%", "is no number"),
        ("size<=0x", "every size is above 0"),
        ("size<0.0x", "every size is above 0"),
        ("size<=0", "is 0 bytes"),
        ("ppl_ratio<=0", "every ppl_ratio is above 0"),
        ("top1>=0", "everything holds it"),
        ("top1>=0%", "everything holds it"),
        ("top1>-1", "everything holds it"),
        ("rms<=1", "everything holds it"),
        ("rms<7", "everything holds it"),
    ],
)
def test_a_limit_that_nothing_or_everything_keeps_is_refused(gate: str, said: str) -> None:
    with pytest.raises(UsageError) as found:
        parse_gates([gate])
    assert said in f"{found.value.message} {found.value.hint}"


def test_limits_at_the_very_edge_are_gates() -> None:
    gates = parse_gates(["kld<=0", "top1>=100%", "top1>0", "rms<1", "size<=0.35X", "hidden<=0"])
    assert [gate.limit for gate in gates] == [0.0, 1.0, 0.0, 1.0, 0.35, 0.0]
    assert [gate.relative for gate in gates] == [False, False, False, False, True, False]


@pytest.mark.parametrize("score", ["all", "second-half"])
def test_the_same_text_twice_proves_no_more(score: str) -> None:
    tokens = Tokens(lambda text: [ord(letter) for letter in text], 256, bos=1)
    once = [f"document {number} of some length" for number in range(9)]
    found = []
    for documents in (once, [*once, *once]):
        corpus = cut_texts(Texts(tuple(documents), "t", "0" * 64), tokens, Cutting(window=8, score=score, tokens=None))
        found.append(clusters_of(corpus)[0].max() + 1)
        assert score == "second-half" or corpus.tokens == sum(map(len, once))
    assert found == [9, 9]


def test_artifacts_once_and_under_names_that_differ(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / artifact(made, "Q4_0").name
    shutil.copy(artifact(made, "Q4_0"), copy)
    found = evaluate(
        made, artifact(made, "Q8_0"), made / "fp8", copy, made / "fp8" / "model.safetensors", "--json", name="Q4_0"
    )
    assert [each["name"] for each in found.json["artifacts"]] == [
        str(artifact(made, "Q4_0")),
        artifact(made, "Q8_0").name,
        "fp8",
        str(copy),
    ]


def test_records_harm_nothing_that_is_there(made: Path, tmp_path: Path) -> None:
    notes, elsewhere = tmp_path / "notes", tmp_path / "run.jsonl"
    notes.write_text("no json")
    elsewhere.write_text('{"text": "other"}')
    file, data = artifact(made, "Q8_0"), made / "text.jsonl"
    for status, said, options in (
        (6, "is an input", ("--junit", file)),
        (6, "is an input", ("--summary", data)),
        (6, "is an input", ("--append", data)),
        (6, "is an input", ("--summary", TINY / "config.json")),
        (6, "is an input", ("--junit", made / "fp8" / "config.json")),
        (6, "is no XML", ("--junit", notes)),
        (6, "is no history", ("--append", notes)),
        (6, "is no history", ("--append", elsewhere)),
        (6, "no regular file", ("--junit", "/dev/null")),
        (6, "Not a directory", ("--junit", notes / "j.xml")),
        (6, "name too long", ("--junit", tmp_path / ("j" * 300))),
        (2, "are one file", ("--junit", tmp_path / "one", "--summary", tmp_path / "one")),
    ):
        places = [option for option in ("--junit", "--summary", "--append") if option in options]
        records = Records(**{FIELDS[place]: Path(options[options.index(place) + 1]) for place in places})
        request = EvalRequest((file, made / "fp8"), str(TINY), data=(str(data),))
        with pytest.raises(QuantkitError, match=said) as found:
            records.require_writable(request)
        assert exit_code(found.value) == status
        if len(places) == 1:
            assert f"with {places[0]}" in (found.value.hint or "")
    assert (notes.read_text(), elsewhere.read_text()) == ("no json", '{"text": "other"}')


def test_records_go_into_folders_that_are_made(made: Path, tmp_path: Path) -> None:
    files = tmp_path / "a" / "j.xml", tmp_path / "b" / "s.md", tmp_path / "c" / "d" / "h"
    places = ("--junit", files[0], "--summary", files[1], "--append", files[2])
    assert evaluate(made, *places).status == 0
    assert all(file.stat().st_size for file in files)
    for option in ("--log-file", "--events"):
        assert quantkit("schemes", option, tmp_path / option / "log").status == 0


def test_an_empty_original_is_none(made: Path) -> None:
    for option in ("--against", "--against-quantized"):
        found = quantkit("eval", artifact(made, "Q8_0"), option, "", "--data", made / "text.jsonl")
        assert (found.status, "no original" in found.stderr) == (2, True), found.stderr


def test_what_cannot_be_judged_is_said_before_any_model_runs(made: Path, tmp_path: Path) -> None:
    text = tmp_path / "one.txt"
    text.write_text("A short text of one window.")
    for command in ("eval", "verify"):
        found = quantkit(command, artifact(made, "Q8_0"), "--against", TINY, "--data", text, "--gate", "kld<1")
        assert (found.status, "which kld<1 asks" in found.stderr) == (3, True), found.stderr
        assert "lockstep" not in found.stderr
    found = quantkit("verify", artifact(made, "Q8_0"), "--against", TINY / "none", "--data", text, "--gate", "klx<1")
    assert (found.status, 'did you mean "kld"' in found.stderr) == (2, True), found.stderr


def test_figures_of_a_model_that_is_sure_of_wrong_tokens_fit_a_line() -> None:
    assert (figure(1.9424e130), shown_number("ppl", 1.9424e130)) == ("1.94e+130", "1.942e+130")
    assert (figure(55.19), shown_number("ppl", 55.19)) == ("55.19", "55.1900")


def test_passages_in_wide_letters_fit_the_terminal() -> None:
    for room in range(2, 40):
        for shorter in (cut, tail):
            for text in ("漢字とかな" * 9, "a漢b字" * 9, "plain letters " * 4):
                assert room - 1 <= width_of(shorter(text, room)) <= room, (shorter, room, text)
    assert (cut("漢字", 4), tail("漢字", 4), cut("漢字と", 4), tail("漢字と", 4)) == ("漢字", "漢字", "漢…", "…と")


def test_one_of_several_texts_was_calibrated_on(made: Path, tmp_path: Path) -> None:
    text, more, out = tmp_path / "one.jsonl", tmp_path / "more.jsonl", tmp_path / "cal.gguf"
    text.write_bytes((made / "text.jsonl").read_bytes())
    more.write_text('{"text": "something else altogether"}')
    few = ("--samples", 2, "--seqlen", 32, "--no-verify", "-q", "--gate", "kld<1")
    convert = ("convert", TINY, "--to", "q8_0", "--calib", made / "text.jsonl", "-o", out)
    for data in (("--eval-data", text), ("--eval-data", more, "--eval-data", text)):
        found = quantkit(*convert, *few, *data)
        assert (found.status, "--calib calibrates on" in found.stderr) == (2, True), found.stderr
    assert not out.exists()
    assert quantkit(*convert, *few[:-2]).status == 0
    found = quantkit("eval", out, "--against", TINY, "--data", more, "--data", text)
    assert (found.status, "was calibrated on text.jsonl" in found.stderr) == (2, True), found.stderr


def test_text_that_was_calibrated_on_among_other_is_known(tmp_path: Path) -> None:
    """By the hash of each file of a calibration, by statistics in the place of text, and document by document."""
    rows = [json.dumps({"text": f"{number} {PROSE.read_text()[number * 200 :][:600]}"}) for number in range(12)]
    parts = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for part, lines in zip(parts, (rows[:6], rows[6:]), strict=True):
        part.write_text("\n".join(lines))
    (tmp_path / "some.jsonl").write_text("\n".join([*rows[4:6], *(row.replace("a", "o") for row in rows)]))
    (tmp_path / "other.jsonl").write_text("\n".join(row.replace("a", "o") for row in rows))
    few = ("--samples", 6, "--seqlen", 64)
    both = ("--calib", parts[0], "--calib", parts[1])
    assert quantkit("convert", TINY, "--to", "q4_0", "-o", tmp_path / "x.gguf", *both, *few, "--no-verify").status == 0
    statistics = tmp_path / "s.safetensors"
    given = ("--data", parts[0], "--data", parts[1])
    assert quantkit("calibrate", TINY, *given, *few, "-o", statistics).status == 0
    known = ("--calib", statistics, "--no-verify")
    assert quantkit("convert", TINY, "--to", "q4_0", "-o", tmp_path / "y.gguf", *known).status == 0
    for name in ("x.gguf", "y.gguf"):
        ask = ("eval", tmp_path / name, "--against", TINY, "--window", 64, "--json")
        found = quantkit(*ask, "--data", parts[1])
        assert (found.status, "was calibrated on a.jsonl, b.jsonl" in found.stderr) == (2, True), found.stderr
        found = quantkit(*ask, "--data", tmp_path / "some.jsonl")
        [one] = found.json["artifacts"]
        text, *wider = one["calibration"]
        assert one["held_out"] is False
        assert (text["same_text"], text["name"]) == (False, "a.jsonl, b.jsonl")
        shipped = ["the shipped text"] if name == "x.gguf" else []  # widens text, and not statistics
        assert [(also["same_text"], also["name"]) for also in wider] == [(False, known) for known in shipped]
        assert 1 <= text["seen_documents"] <= 2
        assert "warning[not-held-out]" in found.stderr
        manifest = json.loads((tmp_path / name).with_suffix(".manifest.json").read_text())["calibration"]
        record = manifest["data"][0] if "data" in manifest else manifest
        assert (text["sha256"], text["token_sha256"]) == (record["sha256"], record["token_sha256"])
        [one] = quantkit(*ask, "--data", tmp_path / "other.jsonl").json["artifacts"]
        assert (one["held_out"], one["calibration"][0]["seen_documents"]) == (True, 0)


def test_too_few_tokens_of_much_text_are_told_from_too_little_text(made: Path, tmp_path: Path) -> None:
    ask = ("eval", next(made.glob("*.gguf")), "--against", TINY, "--window", 16, "--gate", "kld<0.1")
    few = quantkit(*ask, "--data", TINY.parent / "held-out.jsonl", "--tokens", 16)
    assert (few.status, "take more of the text: --tokens 32" in few.stderr) == (3, True), few.stderr
    (tmp_path / "short.txt").write_text("a few words")
    short = quantkit(*ask, "--data", tmp_path / "short.txt")
    assert (short.status, "give more text" in short.stderr) == (3, True), short.stderr


def test_verify_refuses_text_for_gates_before_it_looks(made: Path, tmp_path: Path) -> None:
    """Bad data is known at once: the artifact is not even opened."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "one.txt").write_text("a few words, of one window")
    gate = ("--against", TINY, "--gate", "kld<0.1")
    for data, status in (("absent.jsonl", 3), ("empty.jsonl", 3), ("one.txt", 3)):
        found = quantkit("verify", made / "no-such.gguf", *gate, "--data", tmp_path / data)
        assert (found.status, data.partition(".")[0] in found.stderr or "one window" in found.stderr) == (status, True)
        assert "no-such" not in found.stderr
