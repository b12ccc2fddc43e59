"""quantkit calibrate: what it writes, for whom, and every kind of bad input."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from checkpoints import build
from commands import TINY, Outcome, quantkit
from pyarrow import parquet
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from quantkit.calibration.statistics.file import open_statistics
from quantkit.formats.gguf.imatrix import read_imatrix
from quantkit.report.sealed import seal

SENTENCE = "The mailcap module reads files that say how programs react to files of different types. "
CHAT = "{% for m in messages %}{{ '[' + m.role + '] ' + m.content + '\n' }}{% endfor %}"
MESSAGES = [{"role": "user", "content": SENTENCE * 3}, {"role": "assistant", "content": SENTENCE * 5}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "data.txt"
    path.parent.mkdir()
    path.write_text("".join(f"{n}. {SENTENCE}" for n in range(60)))
    return path


def calibrate(model: Path, data: object, out: Path, *options: object) -> Outcome:
    small = ("--samples", 12, "--seqlen", 24)
    return quantkit("calibrate", model, "--data", data, "-o", out, *small, *options)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- what it writes --------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_data(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "x.safetensors"
    outcome = calibrate(TINY, data, out)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout == f"{out}\n"
    assert {p.name for p in out.parent.iterdir()} == {out.name, f"{out.name}.manifest.json", "SHA256SUMS"}
    with safe_open(out, "pt") as file:
        squares = file.get_tensor("model.layers.0.self_attn.q_proj.weight/0/squares")
        assert "model.layers.3.mlp.down_proj.weight/0/gram/0" in file.keys()  # noqa: SIM118
    assert (squares > 0).all()
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out.parent, check=True)
    record = json.loads((out.parent / f"{out.name}.manifest.json").read_text())
    assert record["data"]["sha256"] == sha256(data)
    assert record["data"]["tokens"] == 12 * 24
    assert len(record["data"]["ids"]) == 12
    assert "mailcap" not in json.dumps(record)


@pytest.mark.parametrize("suffix", [".gguf", ".dat"])
def test_an_imatrix_weighs_a_conversion(suffix: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / f"x{suffix}"
    assert calibrate(TINY, data, out).status == 0
    imatrix = read_imatrix(out)
    assert imatrix.datasets == ("data.txt",)
    assert imatrix.chunks == 12
    arguments = ("convert", TINY, "--to", "q2_k", "--no-verify", "--imatrix", out, "-o", tmp_path / "m.gguf")
    assert quantkit(*arguments).status == 0
    assert (out.read_bytes()[:4] == b"GGUF") == (suffix == ".gguf")


def test_a_gguf_file_is_run_as_its_checkpoint(data: Path, tmp_path: Path) -> None:
    """Its importance is that of the checkpoint that it was made of, and is for files that are made of the file."""
    model, (ours, theirs) = tmp_path / "model.gguf", (tmp_path / "a.gguf", tmp_path / "b.gguf")
    assert quantkit("convert", TINY, "--to", "bf16", "--no-verify", "-o", model).status == 0
    for source, out in ((model, ours), (TINY, theirs)):
        seen = calibrate(source, data, out)
        assert seen.status == 0, seen.stderr
    found, expected = read_imatrix(ours).entries, read_imatrix(theirs).entries
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name].sums, expected[name].sums) for name in found)
    arguments = ("convert", model, "--to", "q2_k", "--no-verify", "--imatrix", ours, "-o", tmp_path / "m.gguf")
    assert quantkit(*arguments).status == 0


@pytest.mark.slow
def test_both_kinds_of_file_tell_the_same(data: Path, tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.gguf"):
        assert calibrate(TINY, data, tmp_path / name).status == 0
    file = open_statistics(tmp_path / "x.safetensors")
    squares = file.read().total("model.layers.2.mlp.down_proj.weight").squares
    file.close()
    entry = read_imatrix(tmp_path / "x.gguf").entries["blk.2.ffn_down.weight"]
    assert np.array_equal(entry.sums[0], squares.numpy().astype(np.float32))


@pytest.mark.slow
def test_hessians_are_optional(data: Path, tmp_path: Path) -> None:
    for option, has in (("--hessian", True), ("--no-hessian", False)):
        out = tmp_path / f"{has}.safetensors"
        assert calibrate(TINY, data, out, option).status == 0
        file = open_statistics(out)
        assert {flag for flags in file.grams.values() for flag in flags} == {has}
        file.close()


@pytest.mark.parametrize("kind", ["jsonl", "messages", "parquet", "two files"])
def test_every_kind_of_data(kind: str, data: Path, tmp_path: Path) -> None:
    model, options = TINY, []
    source = tmp_path / "in" / f"rows.{'parquet' if kind == 'parquet' else 'jsonl'}"
    rows = [{"text": "".join(f"{n} {SENTENCE}" for n in range(first, first + 20))} for first in (0, 500)]
    if kind == "messages":
        model = shutil.copytree(TINY, tmp_path / "chat")
        settings = json.loads((model / "tokenizer_config.json").read_text())
        (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": CHAT}))
        rows = [{"messages": MESSAGES}] * 3
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    else:
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if kind == "two files":
        options = ["--data", data]
    outcome = calibrate(model, source, tmp_path / "x.gguf", "--json", *options)
    assert outcome.status == 0, outcome.stderr
    found = outcome.json["data"]
    assert found["documents"] == {"messages": 3, "two files": 3}.get(kind, 2)
    assert found["rendered"] == (kind == "messages")
    codes = [warning["code"] for warning in outcome.json["warnings"]]
    assert "QK-CAL-001" in codes
    assert "QK-CAL-002" in codes or kind != "messages"
    assert all(outcome.stderr.count(f"[{code}]") == 1 for code in codes)


def test_a_plan_says_what_it_takes_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "x.safetensors"
    outcome = calibrate(TINY, data, out, "--dry-run", "--json", "--activations", "disk")
    assert outcome.status == 0
    body = outcome.json
    assert (body["samples"], body["seqlen"], body["tokens"], body["hessian"]) == (12, 24, 288, True)
    hidden = json.loads((TINY / "config.json").read_text())["hidden_size"]
    assert body["activations"] == {"bytes": 288 * hidden * 4, "place": "disk"}
    assert not out.parent.exists()
    made = calibrate(TINY, data, out, "--json").json
    assert 0.9 <= body["disk_bytes"] / (2 * made["file"]["bytes"]) <= 1.1
    assert "12 x 24 = 288 tokens of data.txt" in calibrate(TINY, data, out, "--dry-run").stdout


def test_the_same_command_again_finds_it_built(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    first = calibrate(TINY, data, out, "--json").json
    stamp = out.stat().st_mtime_ns
    again = calibrate(TINY, data, out, "--json", "--threads", 1)
    assert again.status == 0
    assert again.json == {**first, "built": False}
    assert f"already built (sha256 {sha256(out)})" in again.stderr
    assert out.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("change", ["planted", "another user's", "of an older version"])
def test_only_a_record_of_ones_own_is_believed(
    change: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file and a record that agree on other statistics are not "already built", nor what nobody can check."""
    out, path = tmp_path / "x.gguf", tmp_path / "x.gguf.manifest.json"
    assert calibrate(TINY, data, out).status == 0
    before = out.read_bytes()
    record = json.loads(path.read_text())
    if change == "planted":
        out.write_bytes(before[:-100] + bytes([before[-100] ^ 1]) + before[-99:])
        record["file"]["sha256"] = sha256(out)
        record["seal"] = seal({key: value for key, value in record.items() if key != "seal"})
    elif change == "another user's":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    else:
        del record["seal"], record["own_seal"]
    path.write_text(json.dumps(record))
    sums = {name: sha256(tmp_path / name) for name in (out.name, path.name)}
    (tmp_path / "SHA256SUMS").write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))
    outcome = calibrate(TINY, data, out)
    assert (outcome.status, "already built" in outcome.stderr) == (6, False), outcome.stderr
    assert "warning[not-believed]" in outcome.stderr
    assert calibrate(TINY, data, out, "--force").status == 0
    assert out.read_bytes() == before
    assert calibrate(TINY, data, out, "--json").json["built"] is False


def test_a_link_to_nowhere_is_in_the_way_before_any_work(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    out.symlink_to("nowhere")
    refused = calibrate(TINY, data, out)
    assert (refused.status, "is a symbolic link to nowhere" in refused.stderr) == (6, True), refused.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in", "x.gguf"}


def test_another_file_in_the_way_is_kept(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    assert calibrate(TINY, data, out).status == 0
    before = sha256(out)
    refused = calibrate(TINY, data, out, "--seqlen", 32)
    assert refused.status == 6
    assert "error[exists]" in refused.stderr
    assert sha256(out) == before
    forced = calibrate(TINY, data, out, "--seqlen", 32, "--force")
    assert forced.status == 0
    assert sha256(out) != before
    record = json.loads((tmp_path / "x.gguf.manifest.json").read_text())
    assert record["file"]["sha256"] == sha256(out)
    damaged = bytearray(out.read_bytes())
    damaged[-1] ^= 1
    out.write_bytes(damaged)
    assert calibrate(TINY, data, out, "--seqlen", 32).status == 6


@pytest.mark.slow
def test_changed_weights_are_another_calibration(data: Path, tmp_path: Path) -> None:
    model = shutil.copytree(TINY, tmp_path / "model")
    out = tmp_path / "x.safetensors"
    assert calibrate(model, data, out).status == 0
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 2
    save_file(weights, model / "model.safetensors")
    assert calibrate(model, data, out).status == 6
    assert calibrate(model, data, out, "--force").status == 0


def test_threads_and_the_place_of_activations_do_not_show(data: Path, tmp_path: Path) -> None:
    hashes = set()
    for options in (("--threads", 1), ("--threads", 2), ("--threads", 3), ("--activations", "disk")):
        folder = tmp_path / "-".join(map(str, options))
        assert calibrate(TINY, data, folder / "x.safetensors", *options).status == 0
        hashes.add(sha256(folder / "x.safetensors"))
    assert len(hashes) == 1


def test_progress_and_results_are_events(data: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    assert calibrate(TINY, data, tmp_path / "x.gguf", "--events", events, "--quiet").status == 0
    found = [json.loads(line) for line in events.read_text().splitlines()]
    blocks = [e for e in found if e["event"] == "TensorProgress"]
    assert [(e["stage"], e["index"], e["count"]) for e in blocks] == [("calibrate", n, 5) for n in range(1, 6)]
    assert [e["stage"] for e in found if e["event"] == "StageFinished"] == ["plan", "calibrate"]
    assert [e["event"] for e in found[-2:]] == ["Published", "RunFinished"]


def test_coverage_of_experts_is_a_gate(data: Path, tmp_path: Path) -> None:
    """One word repeated: some of twelve experts see next to nothing of it."""
    data.write_text("dog " * 3000)
    model, out = build("qwen3-moe", tmp_path), tmp_path / "x.gguf"
    options = ("--pre", "qwen2", "--json")
    refused = calibrate(model, data, out, *options, "--require-coverage", 100)
    assert refused.status == 8
    error = refused.json["error"]
    assert error["code"] == "gate"
    assert "model.layers.0.mlp.experts." in error["message"]
    assert "--require-coverage" in error["hint"]
    assert not out.exists()
    done = calibrate(model, data, out, *options)
    assert done.status == 0
    assert "resumed" in done.stderr
    coverage = done.json["coverage"]
    assert coverage["experts"] == sum(map(len, coverage["expert_tokens"].values()))
    assert coverage["expert_percent"] == round(100 * (1 - len(coverage["rare"]) / coverage["experts"]), 2) < 100
    codes = {warning["code"] for warning in done.json["warnings"]}
    assert codes & {"QK-CAL-003", "QK-CAL-004"}
    assert "% of 24 experts reached" in done.stderr
    again = calibrate(model, data, out, *options, "--require-coverage", 100)
    assert again.status == 8  # a file that is there passes no gate either
    assert calibrate(model, data, out, *options, "--require-coverage", coverage["expert_percent"]).status == 0


def test_a_dense_model_passes_any_gate(data: Path, tmp_path: Path) -> None:
    assert calibrate(TINY, data, tmp_path / "x.gguf", "--require-coverage", 100).status == 0


# --- bad input -------------------------------------------------------------------------------------------------------


def refused(outcome: Outcome, code: str, status: int, *words: str) -> None:
    assert outcome.status == status, outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if line.startswith(("error", "hint"))]
    assert lines[0].startswith(f"error[{code}]: ")
    assert lines[1].startswith("hint: ")
    assert "Traceback" not in outcome.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.txt", None, ["missing.txt does not exist"]),
        ("empty.txt", "", ["empty.txt has no text"]),
        ("empty.jsonl", "\n\n", ["empty.jsonl has no text"]),
        ("blank.txt", " \n\t ", ["has no text"]),
        ("wrong.jsonl", '{"prompt": "x", "answer": "y"}\n', ["row 1"]),
        ("broken.jsonl", '{"text": "x"}\n{"text": \n', ["line 2 is not JSON"]),
        ("numbers.jsonl", '{"text": 7}\n', ["row 1"]),
        ("roles.jsonl", '{"messages": [{"content": "x"}]}\n', ["messages without a role"]),
        ("short.txt", "Ten words.", ["short.txt has", "one sequence takes 24"]),
        ("binary.txt", b"\xff\xfe\x00", ["is not UTF-8"]),
        ("damaged.parquet", b"PAR1 nothing PAR1", ["is not parquet"]),
        ("chat.jsonl", json.dumps({"messages": MESSAGES}), ["no chat template"]),
    ],
)  # fmt: skip
def test_bad_data_is_named(name: str, content: str | bytes | None, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    out = tmp_path / "out" / "x.gguf"
    refused(calibrate(TINY, path, out), "input", 3, *words)
    assert not out.parent.exists()


def test_wrong_columns_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "x", "label": 1}]), path)
    outcome = calibrate(TINY, path, tmp_path / "x.gguf")
    refused(outcome, "input", 3, "2 columns", "text or messages")
    assert "prompt" not in outcome.stderr  # names of columns are the user's


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", ["failed on conversation 0", "raise_exception"]),
        ("{% for m in %}", ["TemplateSyntaxError"]),
        ("{{ messages.append(1) }}", ["SecurityError"]),
    ],
)
def test_a_chat_template_that_fails(template: str, words: list[str], tmp_path: Path) -> None:
    model = shutil.copytree(TINY, tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"messages": MESSAGES}))
    refused(calibrate(model, path, tmp_path / "x.gguf"), "input", 3, "chat template", *words)


def test_a_vocabulary_of_another_model(data: Path, tmp_path: Path) -> None:
    model = shutil.copytree(TINY, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:300].clone()
    save_file(weights, model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    outcome = calibrate(model, data, tmp_path / "x.safetensors")
    refused(outcome, "input", 3, "the embedding has 300 rows")
    assert "not of the same model" in outcome.stderr


def test_weights_that_break_the_run_name_the_block(data: Path, tmp_path: Path) -> None:
    model = shutil.copytree(TINY, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][5, 3] = torch.nan
    save_file(weights, model / "model.safetensors")
    out = tmp_path / "out" / "x.safetensors"
    refused(calibrate(model, data, out), "non-finite", 3, "in block model.layers.2, first in module mlp.up_proj")
    assert not out.exists()
    [job] = out.parent.iterdir()  # the blocks before it are kept
    assert len(list(job.glob("blocks-*/*.safetensors"))) == 2


def test_a_run_that_fails_in_its_first_block_leaves_nothing(data: Path, tmp_path: Path) -> None:
    model = shutil.copytree(TINY, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][5, 3] = torch.nan
    save_file(weights, model / "model.safetensors")
    out = tmp_path / "out" / "x.safetensors"
    refused(calibrate(model, data, out), "non-finite", 3, "in block model.layers.0")
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "status", "words"),
    [
        (["--device", "tpu"], "usage", 2, ["--device \"tpu\""]),
        (["--samples", 0], "usage", 2, ["--samples 0"]),
        (["--seqlen", 1], "usage", 2, ["--seqlen 1"]),
        (["--activations", "tape"], "usage", 2, ["--activations \"tape\""]),
        (["--require-coverage", 101], "usage", 2, ["--require-coverage 101"]),
        (["-o", "x.bin"], "usage", 2, ['".bin"']),
        (["-o", "x.gguf", "--hessian"], "usage", 2, ["holds no Hessians"]),
        (["--data", "hf://nothing"], "usage", 2, ["does not name a data set"]),
        (["--data", "hf://datasets/org/name:a.txt", "--offline"], "network", 9, ["hf://datasets/org/name"]),
        (["-o", "missing/../x.gguf/y.gguf"], "not-writable", 6, ["cannot write"]),
    ],
)  # fmt: skip
def test_options_that_cannot_be(
    options: list[object], code: str, status: int, words: list[str], data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "missing").mkdir()
    (tmp_path / "x.gguf").write_text("in the way") if status == 6 else None
    outcome = calibrate(TINY, data, tmp_path / "out" / "x.safetensors", *options)
    refused(outcome, code, status, *words)
    if code == "usage" and "-o" in options and "--hessian" not in options:
        assert all(suffix in outcome.stderr for suffix in (".safetensors", ".gguf", ".dat"))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu(data: Path, tmp_path: Path) -> None:
    outcome = calibrate(TINY, data, tmp_path / "out" / "x.gguf", "--device", "cuda")
    refused(outcome, "resource", 5, "no CUDA device")
    assert "--device cpu" in outcome.stderr
    assert not list(tmp_path.glob("out/*"))


def test_a_data_set_without_the_package(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    outcome = calibrate(TINY, "hf://org/name", tmp_path / "x.gguf")
    refused(outcome, "unsupported", 4, "needs datasets, which is not installed")
    assert "quantkit-cli[data]" in outcome.stderr


def test_a_gguf_source(data: Path, tmp_path: Path) -> None:
    made = quantkit("convert", TINY, "--to", "bf16", "-o", tmp_path / "x.gguf")
    assert made.status == 0, made.stderr
    outcome = calibrate(tmp_path / "x.gguf", data, tmp_path / "out.safetensors")
    assert outcome.status == 0, outcome.stderr
    assert (tmp_path / "out.safetensors").is_file()


def test_a_damaged_record_is_no_proof(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    assert calibrate(TINY, data, out).status == 0
    record = tmp_path / "x.gguf.manifest.json"
    whole = json.loads(record.read_text())
    for damage in ({"schema": "quantkit.calibration/2"}, {"coverage": {}}, {"file": 3}, {"identity": "x"}):
        record.write_text(json.dumps({**whole, **damage}))
        outcome = calibrate(TINY, data, out)
        assert outcome.status == 6, damage  # whoever changed it is not this user
        assert "Traceback" not in outcome.stderr


@pytest.mark.slow
def test_too_little_disk_is_a_resource_error(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "x.safetensors"
    code = "from quantkit.cli.main import run; run()"
    command = ["calibrate", TINY, "--data", data, "-o", out, "--samples", 12, "--seqlen", 24, "--quiet"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))

    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        preexec_fn=limit, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert result.returncode == 5, result.stderr
    assert "File too large" in result.stderr
    assert not out.exists()
    assert calibrate(TINY, data, out).status == 0
