"""quantkit release: what deployers, the Hub and auditors read of a folder, from what is in it, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import quantkit
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard
from published import require
from released import Made

from quantkit.pipeline import taken_over
from quantkit.pipeline.folder import finished_in
from quantkit.pipeline.judged import gates_of, measured_of
from quantkit.pipeline.release import ReleaseRequest, release
from quantkit.pipeline.verify import verify_artifact
from quantkit.pipeline.verify_folder import release_check
from quantkit.report.release import read_release
from quantkit.report.sealed import seal
from quantkit.storage import write_small

MODELFILES = ("src-Q4_0.Modelfile", "src-Q8_0.Modelfile", "src-BF16.Modelfile")
ALL = ("README.md", "bom.cdx.json", "release.json", "SHA256SUMS", *MODELFILES)


def released(folder: Path, *options: object) -> dict[str, Any]:
    found = quantkit("release", folder, *options, "--json")
    assert found.status == 0, found.stderr
    require(found.json)
    body = read_release(folder / "release.json")
    require(body)
    return body


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def done(kept: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A release that nobody changes, with quality, gates and a source with a card; among other files a licence."""
    folder = tmp_path_factory.mktemp("done") / "out"
    shutil.copytree(kept.out, folder)
    (folder / "LICENSE").write_text("a licence\n")
    (folder / "images").mkdir()
    (folder / "images" / "plot.svg").write_text("<svg/>")
    options = ("--against", kept.source, "--eval", kept.record, "--base-model", "org/src", "--quantized-by", "me")
    released(folder, *options, "--not-before", "2026-12-06T01:00+01:00")
    return Made(kept.source, folder, kept.record)


def test_a_release_says_what_to_deploy(done: Made) -> None:
    body = read_release(done.out / "release.json")
    assert body["order"] == done.labels
    assert (body["primary"], body["fallback"]) == (done.labels[0], done.labels[1:])
    assert body["baseline"] == {"kind": "artifact", "name": "src-BF16", "repo": None, "commit": None}
    assert body["not_before"] == "2026-12-06T00:00:00Z"
    sizes = [each["bytes"] for name in body["order"] for each in body["artifacts"] if each["name"] == name]
    assert sizes == sorted(sizes)
    assert [each["rollback_to"] for each in body["artifacts"]] == ["src-Q8_0", "src-BF16", None]
    assert [each["role"] for each in body["artifacts"]] == ["primary", "fallback", "fallback"]
    measured = json.loads(done.record.read_text())
    for each, found in zip(body["artifacts"], measured["artifacts"], strict=False):
        assert each["identity"] == found["identity"]
        for key in ("kl", "top1_agreement", "perplexity_ratio"):
            assert each["quality"][key] == found[key]
        assert each["quality"]["reference"] == measured["reference"]["sha256"]
        assert each["gates"]["verdict"] == "passed"
        told = {gate["gate"]: gate["bound"] for gate in each["gates"]["judged"]}
        assert told == {gate["gate"]: gate["bound"] for gate in found["gates"]}
    last = body["artifacts"][2]
    assert (last["quality"], last["gates"]) == (None, {"verdict": "not judged", "judged": []})
    for each in body["artifacts"]:
        assert each["verified"]
        seen = {(check["check"], check["when"]): check["ok"] for check in each["checks"]}
        assert seen["numbers", "released"] and seen["numbers", "made"] and seen["files", "released"]
        loads = {one["consumer"] for one in each["consumers"] if one["ok"]}
        assert {"llama.cpp", "ollama", "lmstudio"} <= loads
        assert "tensorrt-llm" not in loads
    assert body["license"]["ids"] == ["apache-2.0"]
    assert [(step["relation"], step["name"], step["by"]) for step in body["lineage"]] == [
        ("finetune", "org/larger-model", "card"), ("distilled", "src", "card"),
    ]  # fmt: skip
    assert body["datasets"] == ["org/texts", "other/texts"]
    assert str(done.out) not in (done.out / "release.json").read_text()  # nobody has to know this machine


def listed(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for each in body["artifacts"]:
        yield from (*each["files"], each["manifest"])
    yield from body["files"]


def test_every_file_is_listed_with_its_hash(done: Made) -> None:
    body = read_release(done.out / "release.json")
    said = {file["name"]: (file["bytes"], file["sha256"]) for file in listed(body)}
    there = {path.relative_to(done.out).as_posix(): path for path in done.out.rglob("*") if path.is_file()}
    assert said.keys() == there.keys() - {"release.json", "SHA256SUMS"}
    for name, (nbytes, sha256) in said.items():
        data = there[name].read_bytes()
        assert (nbytes, sha256) == (len(data), hashlib.sha256(data).hexdigest()), name
    roles = {file["name"]: file["role"] for file in body["files"]}
    expected = {"LICENSE": "licence", "README.md": "card", "bom.cdx.json": "bom", "images/plot.svg": "other"}
    assert roles == expected | dict.fromkeys(MODELFILES, "modelfile")
    assert [each["modelfile"] for each in body["artifacts"]] == list(MODELFILES)
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=done.out, capture_output=True, text=True, check=True
    )
    assert len(checked.stdout.splitlines()) == len(there) - 1


def test_the_same_folder_gives_the_same_bytes(made: Made) -> None:
    released(made.out, "--eval", made.record)
    first = contents(made.out)
    assert released(made.out, "--eval", made.record)
    assert contents(made.out) == first
    released(made.out)  # what a release knows of quality and gates it keeps
    assert contents(made.out) == first
    other = made.out.parent / "elsewhere" / "with another name"
    other.mkdir(parents=True)
    for name, data in reversed(first.items()):
        if name not in ALL:
            (other / name).write_bytes(data)
    released(other, "--eval", made.record)
    assert contents(other) == first
    found = quantkit("release", made.out, "--json").json["releases"][0]
    assert {file["name"]: file["state"] for file in found["files"]} == dict.fromkeys(ALL, "same")


def test_the_card_is_one_that_the_hub_reads(done: Made) -> None:
    text = (done.out / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "gguf", "text-generation")
    assert (data.base_model, data.to_dict()["base_model_relation"]) == ("org/src", "quantized")
    assert (data.language, data.datasets) == (["en", "no"], ["org/texts", "other/texts"])
    assert (data.to_dict()["quantized_by"], data.tags[0]) == ("me", "gguf")
    assert "The base model is a finetune of [org/larger-model](https://huggingface.co/org/larger-model)" in text
    assert "distilled from a larger one, as its card says" in text
    assert "- First, to some of the traffic: `src-Q4_0`." in text
    assert "- Roll back to: `src-Q8_0`, then `src-BF16`." in text
    assert "- Not before `2026-12-06T00:00:00Z`." in text
    assert "- Gates of `src-Q4_0`: kept kld\\<0.9" in text
    assert text.count("not measured") == 3
    for command in (
        "llama-cli -m src-Q4_0.gguf",
        "ollama create src:q4_0 -f src-Q4_0.Modelfile && ollama run src:q4_0",
        "lms import --copy src-Q4_0.gguf",
        "vllm serve ./src-Q4_0.gguf --tokenizer org/src",
        'file = {"gguf_file": "src-Q4_0.gguf"}',
    ):
        assert command in text, command
    assert "trtllm-serve" not in text


def test_the_bill_of_materials_is_valid(done: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (done.out / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data) is None
    body = json.loads(data)
    assert "timestamp" not in body["metadata"]
    source, *models = body["components"]
    assert source["purl"] == "pkg:huggingface/org/src"
    assert [each["name"] for each in source["pedigree"]["ancestors"]] == ["org/larger-model"]
    hashes = {file["name"]: file["hashes"][0]["content"] for file in source["components"]}
    weights = hashlib.sha256((done.source / "model.safetensors").read_bytes()).hexdigest()
    assert hashes["model.safetensors"] == weights
    release = read_release(done.out / "release.json")
    for model, each in zip(models, release["artifacts"], strict=True):
        assert model["type"] == "machine-learning-model"
        assert model["hashes"] == [{"alg": "SHA-256", "content": each["files"][0]["sha256"]}]
        assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
        assert model["pedigree"]["ancestors"][0]["name"] == "src"
        metrics = model["modelCard"].get("quantitativeAnalysis", {}).get("performanceMetrics", [])
        assert [float(one["value"]) for one in metrics] == (
            [each["quality"][key]["value"] for key in ("kl", "top1_agreement", "perplexity_ratio")]
            if each["quality"]
            else []
        )
    assert "its quality was not measured" in models[2]["modelCard"]["considerations"]["technicalLimitations"]
    broken = body | {"components": [source | {"type": "model"}]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None  # the oracle looks


def test_a_time_is_in_the_bill_where_the_environment_says_one(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764417600")
    released(made.out)
    data = (made.out / "bom.cdx.json").read_text()
    assert json.loads(data)["metadata"]["timestamp"] == "2025-11-29T12:00:00Z"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data) is None
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    found = quantkit("release", made.out)
    assert (found.status, "SOURCE_DATE_EPOCH" in found.stderr) == (2, True)
    assert "structure ok" not in found.stderr


def test_what_failed_its_gates_does_not_go_first(made: Made, failing: Callable[[str], Path]) -> None:
    body = released(made.out, "--eval", failing("src-Q4_0"))
    assert body["order"] == ["src-Q8_0", "src-BF16"]
    small = body["artifacts"][0]
    assert (small["role"], small["rollback_to"], small["gates"]["verdict"]) == ("other", "src-Q8_0", "failed")
    assert "**failed** kld\\<0.9" in (made.out / "README.md").read_text()
    for again in ((), ("--eval", failing("src-Q4_0"))):  # the release itself remembers
        found = quantkit("release", made.out, "--primary", "src-Q4_0", *again)
        assert (found.status, "did not keep its gates" in found.stderr) == (8, True)
    (made.out / "src-Q8_0.manifest.json").unlink()
    (made.out / "src-Q8_0.gguf").unlink()
    found = quantkit("release", made.out, "--eval", failing("src-Q4_0"), "--require-gates")
    assert (found.status, "nothing here can be primary" in found.stderr) == (8, True)
    assert released(made.out, "--eval", made.record)["order"] == ["src-Q4_0", "src-BF16"]  # measured anew


def test_a_modelfile_that_is_asked_for_stays(made: Made) -> None:
    """One that --include names, though its file is gone; one of a person may name what no file can be called."""
    released(made.out)
    orphan, theirs = made.out / "src-Q8_0.Modelfile", made.out / "mine.Modelfile"
    (made.out / "src-Q8_0.manifest.json").unlink()
    (made.out / "src-Q8_0.gguf").unlink()
    theirs.write_text(f"FROM ./{'x' * 300}\n")
    found = quantkit("release", made.out, "--include", orphan.name)
    assert found.status == 0, found.stderr
    assert orphan.exists()
    assert theirs.exists()
    assert "mine.Modelfile names xxx" in found.stderr


@pytest.mark.parametrize("edited", [False, True])
def test_a_modelfile_of_a_file_that_is_gone_goes_too(edited: bool, made: Made) -> None:
    """With its line in SHA256SUMS, and its place in release.json; one that somebody edited stays, and that is said."""
    released(made.out)
    orphan = made.out / "src-Q8_0.Modelfile"
    if edited:
        orphan.write_text(orphan.read_text() + "PARAMETER seed 1\n")
    (made.out / "src-Q8_0.manifest.json").unlink()
    (made.out / "src-Q8_0.gguf").unlink()
    shown = quantkit("release", made.out, "--dry-run")
    assert (f"would remove  {orphan}" in shown.stdout, orphan.exists()) == (not edited, True), shown.stdout
    found = quantkit("release", made.out, "--json")
    assert found.status == 0, found.stderr
    require(found.json)
    body = read_release(made.out / "release.json")
    sums = [line.split("  ")[1] for line in (made.out / "SHA256SUMS").read_text().splitlines()]
    there = (orphan.exists(), orphan.name in sums, orphan.name in {file["name"] for file in body["files"]})
    assert there == (edited, edited, edited)
    assert ("src-Q8_0.Modelfile names src-Q8_0.gguf, which is not here" in found.stderr) is edited
    assert set(sums) == {path.name for path in made.out.iterdir()} - {"SHA256SUMS"}
    assert release_check(made.out)[0].ok
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=made.out, capture_output=True, check=True)


def test_what_goes_first_can_be_chosen(made: Made) -> None:
    for name in ("src-Q8_0", "src-Q8_0.gguf"):
        body = released(made.out, "--primary", name)
        assert (body["order"], body["artifacts"][0]["role"]) == (["src-Q8_0", "src-BF16"], "other")
    assert released(made.out, "--eval", made.record, "--require-gates")["order"] == ["src-Q4_0", "src-Q8_0"]
    body = released(made.out, "--eval", made.record, "--require-gates")
    assert body["baseline"]["kind"] == "source"
    for status, said, options in (
        (2, 'did you mean "src-Q8_0"', ("--primary", "src-Q8")),
        (8, "judged by no gate", ("--primary", "src-BF16", "--require-gates")),
        (2, "is no date", ("--not-before", "tomorrow")),
        (2, "--adapter needs --against", ("--adapter", "x")),
        (2, "names no repository", ("--base-model", "x y")),
    ):
        found = quantkit("release", made.out, *options)
        assert (found.status, said in found.stderr) == (status, True), found.stderr
        assert status != 2 or "structure ok" not in found.stderr, "said before terabytes are read"


def test_what_nobody_compared_is_listed_and_never_first(made: Made) -> None:
    path = made.out / "src-Q4_0.manifest.json"
    body = json.loads(path.read_text()) | {"checks": []}
    body["seal"] = seal({key: value for key, value in body.items() if key != "seal"})
    path.write_text(json.dumps(body))
    (made.out / "SHA256SUMS").unlink()
    found = quantkit("release", made.out)
    assert (found.status, "listed as not verified" in found.stderr) == (0, True)
    said = read_release(made.out / "release.json")
    assert (said["order"], said["artifacts"][0]["verified"]) == (["src-Q8_0", "src-BF16"], False)
    found = quantkit("release", made.out, "--primary", "src-Q4_0")
    assert (found.status, "--no-verify" in found.stderr) == (7, True)


def changed(made: Made) -> None:
    path = made.out / "src-Q8_0.gguf"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def job(made: Made) -> None:
    (made.out / ".quantkit-0123456789ab").mkdir()


def stranger(made: Made) -> None:
    shutil.copy(made.out / "src-Q4_0.gguf", made.out / "theirs.gguf")


def link(made: Made) -> None:
    (made.out / "link.txt").symlink_to("/etc/passwd")


def key(made: Made) -> None:
    (made.out / "id.pem").write_text("-----BEGIN EC PRIVATE KEY-----\nx\n-----END EC PRIVATE KEY-----\n")


def other_source(made: Made) -> None:
    path = made.out / "src-Q8_0.manifest.json"
    body = json.loads(path.read_text())
    [weights] = [file for file in body["source"]["files"] if file["name"] == "model.safetensors"]
    weights["sha256"] = "0" * 64
    path.write_text(json.dumps(body))


def awkward(made: Made) -> None:
    (made.out / "new\nline.txt").write_text("x")


def readme(made: Made) -> None:
    (made.out / "README.md").write_text("# mine\n")


def release_json(made: Made) -> None:
    (made.out / "release.json").write_text("{}")


def bom(made: Made) -> None:
    (made.out / "bom.cdx.json").write_text('{"bomFormat": "CycloneDX"}')


def modelfile(made: Made) -> None:
    (made.out / "src-Q4_0.Modelfile").write_text("FROM mine\n")


def sums(made: Made) -> None:
    (made.out / "SHA256SUMS").unlink()
    (made.out / "SHA256SUMS").symlink_to("/etc/passwd")


REFUSED = (
    (changed, 7, "src-Q8_0 is not verified"), (job, 6, "not finished"), (stranger, 3, "theirs.gguf has no manifest"),
    (link, 3, "link.txt is a link"), (key, 3, "is a private key"), (other_source, 3, "artifacts of different sources"),
    (awkward, 3, "is no name for a file that others download"), (readme, 6, "written or edited by somebody"),
    (release_json, 6, "written or edited by somebody"), (bom, 6, "written or edited by somebody"),
    (sums, 6, "is not a checksum file"), (modelfile, 6, "written or edited by somebody"),
)  # fmt: skip


@pytest.mark.parametrize(("spoil", "status", "said"), REFUSED, ids=lambda value: getattr(value, "__name__", None))
def test_what_is_refused_leaves_the_folder_alone(
    spoil: Callable[[Made], None], status: int, said: str, made: Made
) -> None:
    spoil(made)
    before = contents(made.out)
    for options in ((), ("--dry-run",)):
        found = quantkit("release", made.out, *options)
        assert (found.status, said in found.stderr) == (status, True), found.stderr
    assert contents(made.out) == before


def test_what_was_refused_can_be_meant(made: Made) -> None:
    job(made), stranger(made), readme(made), release_json(made), bom(made), modelfile(made)
    options = ("--unfinished", "--include", "theirs.gguf", "--force")
    body = released(made.out, *options)
    assert [file["role"] for file in body["files"] if file["name"] == "theirs.gguf"] == ["other"]
    assert body["order"] == made.labels
    assert "theirs" not in json.dumps(body["artifacts"])
    found = quantkit("release", made.out, "--unfinished", "--include", "their.gguf")
    assert (found.status, 'did you mean "theirs.gguf"' in found.stderr) == (2, True)


def test_a_dry_run_writes_nothing(made: Made) -> None:
    before = contents(made.out)
    found = quantkit("release", made.out, "--dry-run", "--json").json
    require(found)
    assert contents(made.out) == before
    told = {file["name"]: (file["state"], file["bytes"]) for file in found["releases"][0]["files"]}
    body = released(made.out)
    assert told == {name: ("replaced" if name in before else "new", (made.out / name).stat().st_size) for name in ALL}
    assert body["primary"] == found["releases"][0]["primary"]
    lines = quantkit("release", made.out, "--dry-run").stdout.splitlines()
    assert lines[1].split()[:2] == ["primary", "src-Q4_0"]
    assert sum("would keep" in line for line in lines) == 7


def test_a_checkpoint_is_released_and_verifies(kept: Made, tmp_path: Path) -> None:
    out = tmp_path / "all"
    assert quantkit("convert", kept.source, "--to", "fp8", "-o", out / "fp8", "--card", "-q").status == 0
    assert quantkit("convert", kept.source, "--to", "w8a16", "-o", out / "own", "--no-verify", "-q").status == 0
    found = quantkit("release", out / "own", "--no-card")
    assert (found.status, "--no-verify" in found.stderr) == (7, True)
    assert quantkit("release", out, "--no-card").status == 7
    assert not list(out.rglob("release.json"))  # of several folders all or none
    found = quantkit("release", out, "--no-card", "--against", kept.source, "--json").json
    assert [Path(each["folder"]).name for each in found["releases"]] == ["fp8", "own"]
    for folder in (out / "fp8", out / "own"):
        assert quantkit("verify", folder, "-q").status == 0
        body = read_release(folder / "release.json")
        assert (body["order"], body["license"]["ids"]) == ([folder.name], ["apache-2.0"])
        assert {"vllm", "transformers"} <= {one["consumer"] for one in body["artifacts"][0]["consumers"] if one["ok"]}
    lineage = read_release(out / "fp8" / "release.json")["lineage"]
    assert [step["name"] for step in lineage] == ["org/larger-model", "src"]
    assert released(out / "fp8")["lineage"] == lineage  # without its source: what its card said stays
    text = (out / "fp8" / "README.md").read_text()
    assert ModelCard(text).data.license == "apache-2.0"
    assert "vllm serve" in text and "transformers import" in text and "llama-cli" not in text


def test_a_release_puts_its_card_in_the_place_of_the_sources(
    kept: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a checkpoint that was made without --card README.md is a file: then no more, as the manifest says. Killed
    before or after any write the artifact verifies, and the same command comes to the same bytes."""
    out = tmp_path / "fp8"
    make = ("convert", kept.source, "--to", "fp8", "-o", out, "-q")
    assert quantkit(*make).status == 0
    before, manifest = contents(out), json.loads((out / "model.manifest.json").read_text())
    assert before["README.md"] == (kept.source / "README.md").read_bytes()
    told = quantkit("release", out, "--dry-run", "--json").json["releases"][0]["files"]
    states = {file["name"]: (file["state"], file["bytes"]) for file in told}
    assert contents(out) == before
    body = released(out)
    whole = contents(out)
    assert states == {
        name: ("replaced" if name in before else "new", len(data))
        for name, data in whole.items()
        if data != before.get(name)
    }
    after = json.loads(whole["model.manifest.json"])
    require(after)
    [card] = [file for file in manifest["artifact"] if file["name"] == "README.md"]
    assert after["replaced"] == [card]
    assert after["artifact"] == [file for file in manifest["artifact"] if file != card]
    changed = {key for key in after if after[key] != manifest.get(key)}
    assert changed == {"artifact", "size", "replaced", "seal", "own_seal"}
    [one] = body["artifacts"]
    assert (one["identity"], one["files"]) == (manifest["identity"], after["artifact"])
    text = whole["README.md"].decode()
    assert ModelCard(text).data.license == "apache-2.0" and "vllm serve ./fp8" in text and "FP8" in text.upper()
    assert quantkit("verify", out, "--against", kept.source, "-q").status == 0
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out).returncode == 0
    assert [each["built"] for each in quantkit(*make, "--json").json["artifacts"]] == [False]
    assert contents(out) == whole
    for writes in range(len(states)):
        for path in out.iterdir():
            path.unlink()
        for name, data in before.items():
            (out / name).write_bytes(data)
        with monkeypatch.context() as patched:
            patched.setattr(taken_over, "write_small", Dying(writes))
            with pytest.raises(KeyboardInterrupt):
                release(ReleaseRequest((out,)))
        assert verify_artifact(out).ok, writes
        assert quantkit("release", out, "-q").status == 0, writes
        assert contents(out) == whole


class Dying:
    """Writes so many files, and dies before the next."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def __call__(self, path: Path, data: bytes, *, overwrite: bool) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        write_small(path, data, overwrite=overwrite)


def test_verify_sees_a_whole_release(made: Made) -> None:
    released(made.out, "--eval", made.record)
    found = quantkit("verify", made.out, "--json").json
    require(found)
    assert [check["check"] for check in found["checks"]].count("files") == 3
    for spoil, said in (
        (lambda: (made.out / "more.txt").write_text("x"), "more.txt is not in release.json"),
        (lambda: (made.out / "more.txt").unlink(), ""),
        (lambda: (made.out / "bom.cdx.json").write_text("{}"), "bom.cdx.json is not the file"),
        (lambda: (made.out / "bom.cdx.json").unlink(), "bom.cdx.json is not there"),
    ):
        spoil()
        found = quantkit("verify", made.out)
        assert (found.status, said in found.stderr) == (7 if said else 0, True), found.stdout
    assert quantkit("release", made.out, "-q").status == 0
    (made.out / "release.json").write_text((made.out / "release.json").read_text().replace("src-Q4_0", "src-Q8_0"))
    found = quantkit("verify", made.out)
    assert (found.status, "its seal is that of another text" in found.stderr) == (7, True)


def test_folders_in_folders_are_releases_of_their_own(kept: Made, made: Made, tmp_path: Path) -> None:
    """As a batch leaves them: GGUF files of a model in its folder, checkpoints in folders of that."""
    out = tmp_path / "batch"
    made.out.rename(tmp_path / "model")
    out.mkdir()
    (tmp_path / "model").rename(out / "model")
    assert quantkit("convert", kept.source, "--to", "fp8", "-o", out / "model" / "fp8", "--card", "-q").status == 0
    (out / "index.html").write_text("<html>")
    (out / ".quantkit-batch").mkdir()
    found = quantkit("release", out, "--json").json
    assert [each["folder"] for each in found["releases"]] == [str(out / "model"), str(out / "model" / "fp8")]
    names = {file["name"] for file in listed(read_release(out / "model" / "release.json"))}
    assert not any("fp8" in name for name in names)
    for folder in (out / "model", out / "model" / "fp8"):
        assert quantkit("verify", folder, "-q").status == 0
        assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0


def test_a_card_that_is_written_anew_keeps_its_line(made: Made) -> None:
    released(made.out, "--quantized-by", "me")
    assert quantkit("card", made.out, "-q").status == 0
    assert "quantized_by" not in (made.out / "README.md").read_text()
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=made.out).returncode == 0
    found = quantkit("verify", made.out)
    assert (found.status, "README.md is not the file that release.json says" in found.stderr) == (7, True)
    assert quantkit("release", made.out, "-q").status == 0
    assert quantkit("verify", made.out, "-q").status == 0


def test_a_release_is_what_it_was_before_a_file_was_taken_away(made: Made) -> None:
    """What a killed run leaves is no release that verifies, and the same command makes it one."""
    released(made.out, "--eval", made.record)
    whole = contents(made.out)
    for name in ALL[1:4]:
        (made.out / name).unlink()
        if name != "SHA256SUMS":
            assert quantkit("verify", made.out, "-q").status == (7 if name == "bom.cdx.json" else 0)
        assert quantkit("release", made.out, "--eval", made.record, "-q").status == 0
        assert contents(made.out) == whole


def spoiled(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The release with something else in the place of each of its parts."""
    for other in (None, [], {}, "x", 3, [None], [[]], [{}], [{"name": "../../etc/passwd", "bytes": 1, "sha256": 2}]):
        for key in ("artifacts", "files"):
            yield body | {key: other}
        for key in ("files", "manifest", "gates", "quality", "identity"):
            yield body | {"artifacts": [each | {key: other} for each in body["artifacts"]]}
    yield body | {"artifacts": [each | {"gates": {"judged": [{"gate": [], "ok": "no", "value": "x"}]}}
                                for each in body["artifacts"]]}  # fmt: skip


def test_a_hostile_release_is_no_bug(made: Made) -> None:
    """With a right seal, which everybody can make."""
    path = made.out / "release.json"
    body = {key: value for key, value in released(made.out).items() if key != "seal"}
    for path_of in made.out.glob("*.gguf"):  # what is in them is not the question here
        if path_of.name != "src-Q4_0.gguf":
            path_of.unlink()
            path_of.with_name(f"{path_of.stem}.manifest.json").unlink()
    for other in spoiled(body):
        path.write_text(json.dumps(other | {"seal": seal(other)}))
        assert next(iter(release_check(made.out))).ok is False
        [one] = finished_in(made.out)
        gates_of(one, {})
        measured_of(one, {})


def test_what_converts_gates_measured_counts(made: Made) -> None:
    """As convert --gate writes it into the manifest: the divergence, and each gate."""
    measured = json.loads(made.record.read_text())
    [each] = [one for one in measured["artifacts"] if one["name"].startswith("src-Q8_0")]
    judged = {"check": "gates", "ok": True, "detail": "", "gates": each["gates"], "kl": each["kl"]}
    path = made.out / "src-Q8_0.manifest.json"
    body = json.loads(path.read_text())
    body["checks"].append(judged | {"data": measured["data"]})
    body["seal"] = seal({key: value for key, value in body.items() if key != "seal"})
    path.write_text(json.dumps(body))
    (made.out / "SHA256SUMS").unlink()
    said = released(made.out)
    assert said["order"] == ["src-Q8_0", "src-BF16"]  # the smallest that passed, not the smallest
    one = said["artifacts"][1]
    rest = {"tokens": measured["data"]["tokens"], "data": measured["data"]["name"], "version": measured["version"]}
    unknown = {"top1_agreement": None, "perplexity_ratio": None, "engine": None}
    reference = measured["reference"]["sha256"]
    assert one["quality"] == {"kl": each["kl"], "held_out": True, "reference": reference, **rest, **unknown}
    assert {gate["by"] for gate in one["gates"]["judged"]} == {"convert"}
    rows = (made.out / "README.md").read_text().splitlines()
    [row] = [line for line in rows if line.startswith("| `src-Q8_0.gguf`")]
    assert row.count("not measured") == 2
    first = contents(made.out)
    released(made.out)
    assert contents(made.out) == first
