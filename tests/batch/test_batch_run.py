"""Batches from the matrix to the folder, with real conversions in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from commands import TINY, quantkit
from matrices import written
from published import require

from quantkit.batch.ledger import Ledger
from quantkit.pipeline import batch_measured
from quantkit.report.text import terminal_width

# Floats need no compiler in the children, which begin in a second.
MATRIX = """
models = ["alpha", "beta"]
recipes = ["bf16", "f16", "hf-bf16"]
exclude = [{model = "beta", recipe = "hf*"}]
[batch]
verify = false
"""


def hashes(folder: Path) -> dict[str, str]:
    """Of all artifacts' files in a folder, by their paths."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".gguf", ".safetensors")
    }


def records(out: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text()) for path in (out / ".quantkit-batch" / "tasks").iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose batch was made, with what it printed."""
    folder = tmp_path_factory.mktemp("batch")
    path = written(folder, MATRIX)
    plan = quantkit("batch", "plan", path, "--json")
    run = quantkit("batch", "run", path, "--json", "--junit", folder / "junit.xml", "--events", folder / "e.jsonl")
    assert run.status == 0, run.stderr
    (folder / "plan.json").write_text(plan.stdout)
    (folder / "run.json").write_text(run.stdout)
    return folder


def test_what_was_planned_is_what_there_is_to_the_byte(made: Path) -> None:
    plan = json.loads((made / "plan.json").read_text())
    require(plan)
    planned = {path: each for task in plan["tasks"] for each in task["artifacts"] for path in each["paths"]}
    assert all(Path(path).exists() for path in planned)
    for task in plan["tasks"]:
        for each in task["artifacts"]:
            assert sum(Path(path).stat().st_size for path in each["paths"]) == each["bytes"]
    assert plan["bytes"] == sum(task["bytes"] for task in plan["tasks"])
    assert {task["state"] for task in plan["tasks"]} == {"waiting"}


def test_a_task_is_the_command_line_that_it_shows(made: Path, tmp_path: Path) -> None:
    """The same arguments by hand give the same bytes."""
    run = json.loads((made / "run.json").read_text())
    [task] = [task for task in run["tasks"] if task["id"] == "beta.gguf"]
    words = [word.replace(str(made / "out"), str(tmp_path)) for word in task["command"].split()[1:]]
    assert quantkit(*words).status == 0
    assert hashes(tmp_path / "beta") == hashes(made / "out" / "beta")


def test_the_folder_has_an_index_checksums_and_a_page(made: Path) -> None:
    out = made / "out"
    index = json.loads((out / "index.json").read_text())
    require(index)
    listed = {file["path"]: file for each in index["artifacts"] for file in each["files"]}
    assert {name: file["sha256"] for name, file in listed.items() if name in hashes(out)} == hashes(out)
    assert all((out / name).stat().st_size == file["bytes"] for name, file in listed.items())
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()} == set(listed)
    page = (out / "index.html").read_text()
    assert all(name in page for name in ("alpha-BF16.gguf", "beta-F16.gguf", "not measured", "3 done"))
    assert "<script" not in page


def test_junit_events_and_records_say_what_happened(made: Path) -> None:
    suite = ET.parse(made / "junit.xml").getroot()
    assert suite.tag == "testsuites"
    assert [case.get("name") for case in suite.iter("testcase")] == ["alpha.gguf", "alpha.hf-bf16", "beta.gguf"]
    assert suite.get("tests") == "3"
    assert not list(suite.iter("failure"))
    events = [json.loads(line) for line in (made / "e.jsonl").read_text().splitlines()]
    for event in events:
        require(event)
    assert {e["task"] for e in events if e["event"] == "TaskFinished"} == set(records(made / "out"))
    assert {e["number"] for e in events if e["event"] == "TaskFinished"} == {1, 2, 3}
    assert events[0]["command"] == "batch run"
    for name, record in records(made / "out").items():
        require(record)
        assert record["exit"] == 0
        lines = (made / "out/.quantkit-batch/events" / f"{name}.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["event"] == "RunFinished"


def test_what_is_done_is_not_begun_again(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made / "out/.quantkit-batch").rglob("*") if path.is_file()}
    again = quantkit("batch", "run", made / "matrix.toml", "--json")
    assert again.status == 0
    require(again.json)
    assert again.json["states"]["done"] == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {t["state"] for t in quantkit("batch", "plan", made / "matrix.toml", "--json").json["tasks"]} == {"done"}


def test_what_eval_measured_later_is_in_the_index_and_on_the_page(made: Path) -> None:
    """By the identity of the artifact, the newest of each; a record that cannot be read is said, and left out."""
    out, path = made / "out", made / "matrix.toml"
    files = sorted((out / "alpha").glob("*.gguf"))
    text = ("--data", TINY.parent / "held-out.jsonl", "--tokens", 128, "--window", 64, "--gate", "kld<0.9")
    measured = quantkit("eval", *files, "--against", made / "alpha", *text, "--json")
    assert measured.status == 0, measured.stderr
    first, later, broken = out / "first.eval.json", out / "alpha" / "nightly.eval.jsonl", out / "beta" / "x.eval.json"
    first.write_text(measured.stdout)
    broken.write_text("{}\n")
    run = quantkit("batch", "run", path)
    assert (run.status, "warning[not-read]" in run.stderr) == (0, True)
    found = {each["identity"]: each for each in measured.json["artifacts"]}
    index = json.loads((out / "index.json").read_text())
    require(index)
    listed = {each["identity"]: each for each in index["artifacts"]}
    data = measured.json["data"]["token_sha256"]
    for identity, each in found.items():
        there = listed[identity]
        assert (there["kl"], there["kl_error"]) == (each["kl"]["value"], each["kl"]["standard_error"])
        assert (there["gates"], there["data"]) == (["kld<0.9"], data)
    assert [each["kl"] for each in index["artifacts"] if each["identity"] not in found] == [None, None, None]
    page = (out / "index.html").read_text()
    assert f"alpha, measured on the text of hash {data[:16]}." in page
    keys = ("name", "identity", "bytes", "tokens", "kl", "kl_quantiles", "perplexity", "perplexity_ratio",
            "top1_agreement")  # fmt: skip
    one = measured.json["artifacts"][0]
    line = {
        "schema": "quantkit.eval-history/1", "time": "2999-01-01T00:00:00+00:00", "version": "1", "reference": "0" * 64,
        "data": "1" * 64, "ok": False, **{key: one[key] for key in keys}, "kl": one["kl"] | {"value": 0.25},
    }  # fmt: skip
    later.write_text(json.dumps(line | {"time": "2000-01-01T00:00:00+00:00"}) + "\n")
    assert quantkit("batch", "status", path, "--json").json["tasks"][0]["artifacts"][0]["kl"] == one["kl"]["value"]
    later.write_text(json.dumps(line) + "\n")
    newest = quantkit("batch", "status", path, "--json").json["tasks"][0]["artifacts"][0]
    assert (newest["kl"], newest["gates"]) == (0.25, ["a gate FAILED"])
    for record in (first, later, broken):
        record.unlink()
    assert quantkit("batch", "run", path, "--quiet").status == 0
    assert {each["kl"] for each in json.loads((out / "index.json").read_text())["artifacts"]} == {None}


def test_records_of_eval_beyond_the_most_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_measured, "MAX_RECORDS", 2)
    for name in "abc":
        (tmp_path / f"{name}.eval.json").write_text("{}\n")
    first, *others = batch_measured.measurements_in(tmp_path, []).unread
    assert "1 record of eval behind the first 2" in first
    assert [name in said for name, said in zip("ab", others, strict=True)] == [True, True]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_tables_fit_the_terminal(made: Path, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert terminal_width() == columns
    for command in ("plan", "status"):
        said = quantkit("batch", command, made / "matrix.toml")
        assert max(map(len, said.stdout.splitlines())) <= columns, said.stdout
        assert "alpha.gguf" in said.stdout
        assert "done" in said.stdout


FAILING = """
models = ["alpha", "beta"]
recipes = ["bf16", "f16"]
[batch]
verify = false
"""


def test_failures_leave_the_others_and_are_told_and_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign file stands where beta's first artifact goes: exit 10 of the task, and of the batch."""
    path, out = written(tmp_path, FAILING), tmp_path / "out"
    (out / "beta").mkdir(parents=True)
    (out / "beta" / "beta-BF16.gguf").write_bytes(b"something else")
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run = quantkit("batch", "run", path, "--json", "--junit", tmp_path / "j.xml")
    assert run.status == 10
    result, error = map(json.loads, run.stdout.splitlines())
    require(result)
    require(error)
    assert "batch retry" in error["error"]["hint"]
    states = {task["id"]: task for task in result["tasks"]}
    assert states["alpha.gguf"]["state"] == "done"
    assert states["beta.gguf"]["state"] == "failed"
    [failure] = states["beta.gguf"]["failures"]
    assert (failure["code"], failure["exit"], failure["recipe"]) == ("exists", 6, "bf16")
    assert failure["hint"]
    assert [made["recipe"] for made in states["beta.gguf"]["artifacts"]] == ["f16"]  # which could be made
    assert "1 task failed" in summary.read_text()
    assert summary.read_text().count("###") == 1  # children append nothing
    [case] = [
        case for case in ET.parse(tmp_path / "j.xml").getroot().iter("testcase") if case.find("failure") is not None
    ]
    assert case.get("name") == "beta.gguf"
    assert "exists" in case.find("failure").get("type")  # type: ignore[union-attr]
    status = quantkit("batch", "status", path)
    assert status.status == 0
    assert "error[exists]" in status.stdout
    index = json.loads((out / "index.json").read_text())
    assert index["failed"][0]["task"] == "beta.gguf"
    assert "beta/beta-BF16.gguf" not in (out / "SHA256SUMS").read_text()
    assert "What failed" in (out / "index.html").read_text()
    alone = quantkit("batch", "run", path, "--task", "beta.gguf", "--json")
    assert (alone.status, alone.stdout.count("quantkit.error/1")) == (6, 1), "as its command line, not 10"
    assert json.loads(alone.stdout.splitlines()[-1])["error"]["code"] == "exists"

    first = records(out)["alpha.gguf"]["time"]
    (out / "beta" / "beta-BF16.gguf").unlink()
    assert "alpha/alpha-F16.gguf" in (out / "SHA256SUMS").read_text()
    (out / "alpha" / "alpha-F16.gguf").unlink()  # of a task that retry leaves
    assert quantkit("batch", "retry", path).status == 0
    assert "alpha/alpha-F16.gguf" not in (out / "SHA256SUMS").read_text()
    assert records(out)["alpha.gguf"]["time"] == first
    assert "beta/beta-BF16.gguf" in (out / "SHA256SUMS").read_text()


def test_one_task_alone_and_what_changes_is_made_again(tmp_path: Path) -> None:
    path, out = written(tmp_path, FAILING), tmp_path / "out"
    wrong = quantkit("batch", "run", path, "--task", "beta.guff")
    assert wrong.status == 2
    assert 'did you mean "beta.gguf"' in wrong.stderr
    alone = quantkit("batch", "run", path, "--task", "beta.gguf", "--json", "--junit", tmp_path / "j.xml")
    assert alone.status == 0
    assert [task["id"] for task in alone.json["tasks"]] == ["beta.gguf"]
    require(alone.json)
    assert [case.get("name") for case in ET.parse(tmp_path / "j.xml").getroot().iter("testcase")] == ["beta.gguf"]
    assert not (out / "index.json").exists()
    assert set(records(out)) == {"beta.gguf"}
    # a manifest that is gone: not done any more, and the command finds the files
    before = hashes(out)
    next((out / "beta").glob("*F16.manifest.json")).unlink()
    states = {task["id"]: task["state"] for task in quantkit("batch", "status", path, "--json").json["tasks"]}
    assert states == {"alpha.gguf": "waiting", "beta.gguf": "waiting"}
    assert Ledger(out).read("alpha.gguf") is None
    record = out / ".quantkit-batch/tasks/beta.gguf.json"
    for damaged in (b"", b"{", b"[]", b'{"schema": "quantkit.batch_task/1"}', os.urandom(200)):
        record.write_bytes(damaged)
        assert quantkit("batch", "status", path, "--json").json["states"]["waiting"] == 2
    assert hashes(out) == before


def test_a_file_of_a_task_that_is_done_is_nobody_elses(tmp_path: Path) -> None:
    """A recipe that comes to the matrix later must not make the file of one that is not begun any more."""
    text = 'models = ["alpha"]\nrecipes = [{to = "bf16", name = "a"}%s]\n[batch]\nverify = false\n'
    path = written(tmp_path, text % "")
    assert quantkit("batch", "run", path).status == 0
    path.write_text(text % ', {to = "bf16", name = "b", keep = "output=f16"}')
    before = hashes(tmp_path / "out")
    for force in ([], ["--force"]):
        said = quantkit("batch", "run", path, *force)
        assert said.status == 2
        assert "would write one file" in said.stderr
        assert "alpha.gguf" in said.stderr
    assert hashes(tmp_path / "out") == before


# Between the tests and a command: what a process is told of its peak includes that of the one it was forked from.
PEAK = """import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)"""


@pytest.mark.slow
def test_a_child_takes_no_more_memory_than_planned(tmp_path: Path) -> None:
    path = written(tmp_path, 'models = ["alpha"]\nrecipes = ["q4_k_m", "q6_k", "fp8"]\n')
    plan = quantkit("batch", "plan", path, "--threads", 1, "--json").json
    place = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "compiled")}  # empty: the first task of each kind compiles
    for task in plan["tasks"]:
        words = [sys.executable, "-m", "quantkit", *task["command"].split()[1:], "--threads", "1", "--quiet"]
        measured = [sys.executable, "-S", "-c", PEAK, *words]
        ran = subprocess.run(measured, capture_output=True, text=True, check=True, env=place)
        peak = 1024 * int(ran.stdout.splitlines()[-1])
        assert 0.5 * task["needs"]["memory_bytes"] < peak <= task["needs"]["memory_bytes"], task["id"]


@pytest.mark.slow
def test_gates_are_measured_and_shown(tmp_path: Path) -> None:
    """A gate that does not hold is exit 8 of its task alone; what was measured stands in index and page."""
    documents = (Path(__file__).parents[1] / "data" / "held-out.jsonl").read_text("utf-8").splitlines()
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text("\n".join(documents[:1]), "utf-8")
    recipes = '["q8_0", "f16", {to = "q2_k", folder = "strict", gate = "kld<0.0001"}]'
    text = f'models = ["alpha"]\nrecipes = {recipes}\n[batch]\ngate = "kld<5"\neval_data = "{held_out}"\n'
    run = quantkit("batch", "run", written(tmp_path, text))
    assert run.status == 10
    assert "exit 8  error[gate]" in run.stdout
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    figures = {each["recipe"]: (each["kl"], each["kl_error"], each["gates"]) for each in index["artifacts"]}
    assert 0 <= figures["f16"][0] < figures["q8_0"][0] < 0.01
    assert figures["q8_0"][1] > 0
    assert figures["q8_0"][2] == ["kld<5"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<svg" in page
    assert "kld&lt;0.0001" in page
    # a failed gate does not pass by itself: run leaves it, and so does the exit code
    record = records(tmp_path / "out")
    assert quantkit("batch", "run", tmp_path / "matrix.toml").status == 10
    assert records(tmp_path / "out") == record
