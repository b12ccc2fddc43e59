"""Where artifacts go: what is replaced as one, what is in the way, what is an input, whose work is believed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_folder
import numpy as np
import pytest
from commands import quantkit

from quantkit.jsontext import canonical_json
from quantkit.report.sealed import seal

PLAIN = ("--no-verify", "--quiet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder.write(tmp_path_factory.mktemp("places") / "model")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def status(*arguments: object) -> int:
    return quantkit(*arguments).status


def reseal(path: Path, change: Callable[[dict[str, Any]], object], *, sums: bool = True) -> None:
    """Change a manifest as somebody would who knows the format: with a seal and a line in SHA256SUMS that fit."""
    body = json.loads(path.read_text())
    change(body)
    del body["seal"]
    body["seal"] = seal(body)
    path.write_text(json.dumps(body, indent=1))
    if sums:
        lines = (path.parent / "SHA256SUMS").read_text().splitlines()
        files = [line.split("  ", 1)[1] for line in lines]
        hashes = [hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in files]
        text = "".join(f"{sha256}  {name}\n" for sha256, name in zip(hashes, files, strict=True))
        (path.parent / "SHA256SUMS").write_text(text)


# Replacing


def test_a_forced_checkpoint_leaves_nothing_of_the_older_one(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = ["convert", model, "--to", "fp8", "--max-shard-size", "30K", "-o", out, *PLAIN]
    assert status(*first) == 0
    older = names(out)
    assert status("convert", model, "--to", "w8a16", "-o", out, *PLAIN) == 6
    again = ["convert", model, "--to", "w8a16", "-o", out, "--force", *PLAIN]
    outcome = quantkit(*again)
    assert outcome.status == 0, outcome.stderr
    assert status("convert", model, "--to", "w8a16", "-o", tmp_path / "fresh", *PLAIN) == 0
    assert names(out) == names(tmp_path / "fresh") != older
    listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert listed == names(out) - {"SHA256SUMS"}
    assert status("verify", out) == 0


@pytest.mark.parametrize("name", ["quantize_config.json", "chat_template.jinja", "adapter.bin", "extra.txt"])
def test_what_nobody_lists_is_named_and_stops_the_run(name: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["convert", model, "--to", "w8a16", "-o", out, *PLAIN]
    assert status(*command) == 0
    (out / name).write_text("{}")
    (out / "NOTES.md").write_text("mine")
    before = {path: path.read_bytes() for path in out.iterdir()}
    for more in (["--force"], []):
        outcome = quantkit(*command, *more)
        assert outcome.status == 6, outcome.stderr
        assert name in outcome.stderr
        assert "NOTES.md" not in outcome.stderr
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    outcome = quantkit("verify", out)
    assert (outcome.status, name in outcome.stderr) == (7, True)
    (out / name).unlink()
    assert status("verify", out) == 0
    assert status(*command, "--force") == 0


def test_a_file_of_the_older_artifact_that_was_changed_since_is_not_removed(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert status("convert", model, "--to", "fp8", "--max-shard-size", "30K", "-o", out, *PLAIN) == 0
    index = out / "model.safetensors.index.json"
    index.write_text(index.read_text() + " ")
    outcome = quantkit("convert", model, "--to", "w8a16", "-o", out, "--force", *PLAIN)
    assert (outcome.status, index.name in outcome.stderr) == (6, True)
    assert index.exists()


def test_a_split_artifact_and_a_whole_one_have_a_manifest_each(model: Path, tmp_path: Path) -> None:
    command = ["convert", model, "--to", "q8_0", "-o", tmp_path, *PLAIN]
    for more in ([], ["--split-max-size", "60K"], ["--split-max-size", "1K"]):
        assert status(*command, *more) == 0
    firsts = [path for path in tmp_path.glob("*.gguf") if "-of-" not in path.name or "-00001-of-" in path.name]
    assert len(firsts) == len(list(tmp_path.glob("*.manifest.json"))) == 3
    assert [status("verify", path) for path in firsts] == [0, 0, 0]


def test_a_checkpoint_and_a_file_do_not_share_a_manifest(model: Path, tmp_path: Path) -> None:
    assert status("convert", model, "--to", "q8_0", "-o", tmp_path / "model.gguf", *PLAIN) == 0
    for more in ([], ["--force"]):
        outcome = quantkit("convert", model, "--to", "w8a16", "-o", tmp_path, *PLAIN, *more)
        assert outcome.status == 6, outcome.stderr
    assert status("verify", tmp_path / "model.gguf") == 0


@pytest.mark.parametrize("limit", ["1K", "45K", "60K", "100K", "1M"])
def test_no_shard_is_larger_than_asked_for(limit: str, model: Path, tmp_path: Path) -> None:
    """But for a header or a tensor that is larger by itself."""
    assert status("convert", model, "--to", "q8_0", "-o", tmp_path, "--split-max-size", limit, *PLAIN) == 0
    most = int(limit[:-1]) * {"K": 1000, "M": 10**6}[limit[-1]]
    manifest = json.loads(next(tmp_path.glob("*.manifest.json")).read_text())
    for number, file in enumerate(manifest["artifact"]):
        held = [t for t in manifest["tensors"] if t["file"] == number]
        assert file["bytes"] <= most or len(held) <= 1, file
        assert file["bytes"] <= most or number or not held, "the header is alone"
    assert (len(manifest["artifact"]) == 1) == (most == 10**6)


# Inputs


@pytest.mark.parametrize("way", ["same", "dots", "link", "folder link", "hard link"])
def test_an_input_is_never_overwritten(way: str, model: Path, tmp_path: Path) -> None:
    source = tmp_path / "s" / "a.gguf"
    assert status("convert", model, "--to", "f16", "-o", source, *PLAIN) == 0
    before = source.read_bytes()
    (tmp_path / "other").symlink_to(source.parent)
    (tmp_path / "link.gguf").symlink_to(source)
    os.link(source, tmp_path / "hard.gguf")
    out = {
        "same": source,
        "dots": source.parent / ".." / "s" / "a.gguf",
        "link": tmp_path / "link.gguf",
        "folder link": tmp_path / "other" / "a.gguf",
        "hard link": tmp_path / "hard.gguf",
    }[way]
    for more in (["--force"], []):
        outcome = quantkit("convert", source, "--to", "q8_0", "-o", out, *PLAIN, *more)
        assert (outcome.status, "input of this command" in outcome.stderr) == (6, True), outcome.stderr
    assert source.read_bytes() == before


def test_a_checkpoint_is_not_written_over_its_source(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(model, source)
    (tmp_path / "link").symlink_to(source)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    for out in (source, tmp_path / "link", source / ".." / "model"):
        assert status("convert", source, "--to", "w8a16", "-o", out, "--force", *PLAIN) == 6
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    assert status("convert", source, "--to", "q8_0", "-o", source, *PLAIN) == 0, "a file beside it is no danger"


# Places that cannot be written are found before any work


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as found:
        here = Path.cwd()
        os.chdir(path.parent)  # paths of sockets are short
        try:
            found.bind(path.name)
        finally:
            os.chdir(here)


THINGS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": listen,
    "link": lambda path: path.symlink_to("elsewhere"),
}


@pytest.mark.parametrize("name", ["m.gguf", "m.manifest.json", "SHA256SUMS"])
@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_file_is_refused_before_any_work(thing: str, name: str, model: Path, tmp_path: Path) -> None:
    THINGS[thing](tmp_path / name)
    before = (tmp_path / name).lstat()
    events = tmp_path / "events"
    outcome = quantkit("convert", model, "--to", "q8_0", "-o", tmp_path / "m.gguf", "--events", events, *PLAIN)
    if (thing, name) == ("link", "m.manifest.json"):
        assert outcome.status == 0, "a link in place of a manifest is replaced, not followed"
        assert not (tmp_path / name).is_symlink()
        return
    assert outcome.status == 6, outcome.stderr
    assert "quantize" not in events.read_text()
    assert (tmp_path / name).lstat().st_ino == before.st_ino
    assert names(tmp_path) == {name, "events"}


@pytest.mark.parametrize("name", ["x.gguf", "x.gguf.manifest.json", "SHA256SUMS"])
@pytest.mark.parametrize("thing", ["pipe", "folder"])
def test_what_is_no_file_is_refused_before_a_calibration(thing: str, name: str, model: Path, tmp_path: Path) -> None:
    THINGS[thing](tmp_path / name)
    events = tmp_path / "events"
    arguments = ("--data", model / "config.json", "-o", tmp_path / "x.gguf", "--force", "--events", events)
    outcome = quantkit("calibrate", model, *arguments)
    assert outcome.status == 6, outcome.stderr
    assert "StageFinished" not in events.read_text()
    assert names(tmp_path) == {name, "events"}


@pytest.mark.parametrize("thing", THINGS)
def test_a_stray_that_is_no_file_blocks_nothing(thing: str, model: Path, tmp_path: Path) -> None:
    stray = tmp_path / ".quantkit-0123456789abcdef.tmp"
    THINGS[thing](stray)
    assert status("convert", model, "--to", "q8_0", "-o", tmp_path / "m.gguf", *PLAIN) == 0
    assert os.path.lexists(stray), "it is not ours"


def test_names_too_long_for_the_manifest_are_found_before_any_work(model: Path, tmp_path: Path) -> None:
    for length in (250, 247):  # .gguf fits, .manifest.json does not
        outcome = quantkit("convert", model, "--to", "q8_0", "-o", tmp_path / ("n" * (length - 5) + ".gguf"), *PLAIN)
        assert outcome.status == 6, outcome.stderr
        assert names(tmp_path) == set()


def test_a_secret_behind_a_link_is_not_published(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("SECRET LINE\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "SHA256SUMS").symlink_to(tmp_path / "secret")
    assert status("convert", model, "--to", "q8_0", "-o", out, *PLAIN) == 6
    assert (tmp_path / "secret").read_text() == "SECRET LINE\n"


# Whose work is believed


def test_an_artifact_that_was_planted_with_its_manifest_is_not_already_built(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    command = ["convert", model, "--to", "q8_0", "-o", target, *PLAIN, "--json"]
    assert status(*command) == 0
    manifest = tmp_path / "m.manifest.json"
    raw = bytearray(target.read_bytes())
    victim = json.loads(manifest.read_text())["tensors"][-3]
    at = victim["offset"] + victim["bytes"] // 2
    raw[at : at + 8] = bytes(8)
    target.write_bytes(raw)

    def plant(body: dict[str, Any]) -> None:
        body["artifact"][0]["sha256"] = hashlib.sha256(raw).hexdigest()
        for tensor in body["tensors"]:
            data = raw[tensor["offset"] : tensor["offset"] + tensor["bytes"]]
            tensor["sha256"] = hashlib.sha256(data).hexdigest()

    reseal(manifest, plant)
    assert status("verify", target) == 0, "nothing in the folder contradicts it"
    outcome = quantkit(*command)
    assert (outcome.status, "already built" in outcome.stderr) == (6, False), outcome.stderr
    assert status(*command, "--force") == 0
    assert quantkit(*command).json["artifacts"][0]["built"] is False


@pytest.mark.parametrize("recipe", ["q4_k_m", "w8a16"])
def test_the_work_of_another_user_is_compared_with_the_source(
    recipe: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["convert", model, "--to", recipe, "-o", tmp_path / "out", *PLAIN, "--json"]
    assert status(*command) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    [artifact] = quantkit(*command).json["artifacts"]
    assert artifact["built"] is False
    assert status("verify", artifact["files"][0]["path"]) == 0
    path = Path(artifact["files"][0]["path"])
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    assert status(*command) == 6


def test_without_a_home_everything_works(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere" / "\0"[:0]))
    monkeypatch.setattr("quantkit.storage.keys._places", lambda: iter(()))
    command = ["convert", model, "--to", "q8_0", "-o", tmp_path / "out", *PLAIN, "--json"]
    assert [quantkit(*command).json["artifacts"][0]["built"] for _ in range(2)] == [True, False]


def test_checks_that_were_not_made_are_made_when_asked_for(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    command = ["convert", model, "--to", "q8_0", "-o", target, "--quiet", "--json"]
    [made] = quantkit(*command, "--no-verify").json["artifacts"]
    assert (made["built"], made["checks"]) == (True, [])
    [found] = quantkit(*command).json["artifacts"]
    assert found["built"] is False
    assert {c["check"] for c in found["checks"]} == {"structure", "tokenizer", "numbers"}
    manifest = tmp_path / "m.manifest.json"
    assert json.loads(manifest.read_text())["checks"] == found["checks"]
    assert status("verify", target) == 0
    before = manifest.read_bytes()
    assert status(*command) == 0
    assert manifest.read_bytes() == before, "and not again"


def test_the_paranoid_make_everything_again(model: Path, tmp_path: Path) -> None:
    command = ["convert", model, "--to", "q8_0", "-o", tmp_path / "m.gguf", *PLAIN, "--json"]
    first = quantkit(*command).json["artifacts"][0]
    again = quantkit(*command, "--paranoid").json["artifacts"][0]
    assert (again["built"], again["files"]) == (True, first["files"])
    assert names(tmp_path) == {"m.gguf", "m.manifest.json", "SHA256SUMS"}


# One fate for each recipe


def test_one_recipe_that_fails_leaves_the_others(model: Path, tmp_path: Path) -> None:
    tensors = llama_folder.weights()
    broken = llama_folder.write(tmp_path / "big", llama_folder.replaced(tensors, llama_folder.UP, 5, 1e5))
    outcome = quantkit("convert", broken, "--to", "q4_0,f16,q8_0", "-o", tmp_path / "out", "--json")
    assert outcome.status == 10, outcome.stderr
    found, error = map(json.loads, outcome.stdout.splitlines())
    assert [artifact["recipe"] for artifact in found["artifacts"]] == ["q4_0", "q8_0"]
    [failure] = found["failures"]
    assert (failure["recipe"], failure["code"], failure["exit"]) == ("f16", "non-finite", 3)
    assert error["error"]["exit"] == 10
    assert "f16" in error["error"]["message"]
    for artifact in found["artifacts"]:
        assert status("verify", artifact["files"][0]["path"], "--against", broken) == 0
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".gguf", ".json", ""}
    assert not list((tmp_path / "out").glob(".quantkit-*"))
    assert status("convert", broken, "--to", "f16", "-o", tmp_path / "one") == 3
    assert quantkit("convert", broken, "--to", "q4_0,f16,q8_0", "-o", tmp_path / "out", "--json").status == 10


def test_one_output_in_the_way_leaves_the_others(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model-Q8_0.gguf").write_text("mine")
    outcome = quantkit("convert", model, "--to", "q4_0,q8_0", "-o", tmp_path, *PLAIN)
    assert outcome.status == 10, outcome.stderr
    assert "q8_0" in outcome.stderr
    assert status("verify", tmp_path / "model-Q4_0.gguf") == 0
    assert (tmp_path / "model-Q8_0.gguf").read_text() == "mine"


# Names


@pytest.mark.parametrize("name", [b"n\xff\xfe", "日本".encode(), "中国".encode(), b"a b'\"$", "😀".encode()])
@pytest.mark.parametrize("recipe", ["q8_0", "w8a16"])
def test_a_source_of_any_name(name: bytes, recipe: str, model: Path, tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(name)
    shutil.copytree(model, source)
    out = tmp_path / os.fsdecode(b"o\xff")
    outcome = quantkit("convert", source, "--to", recipe, "-o", out, *PLAIN, "--json")
    assert outcome.status == 0, outcome.stderr
    [artifact] = outcome.json["artifacts"]
    path = Path(artifact["files"][0]["path"])
    assert path.is_file(), "names in JSON lead to the file"
    assert json.loads(Path(artifact["manifest"]).read_text())["source"]["name"] == source.name
    assert status("verify", path, "--against", source) == 0
    assert status("convert", source, "--to", recipe, "-o", out, *PLAIN) == 0


def test_different_names_give_different_files(model: Path, tmp_path: Path) -> None:
    for name in ("日本", "中国", "é", "è", os.fsdecode(b"\xff"), os.fsdecode(b"\xfe")):
        shutil.copytree(model, tmp_path / name)
        assert status("convert", tmp_path / name, "--to", "q8_0", "-o", tmp_path / "out", *PLAIN) == 0
    assert len(list((tmp_path / "out").glob("*.gguf"))) == 6
    assert (tmp_path / "out" / "日本-Q8_0.gguf").is_file()


# Manifests


def test_every_flipped_bit_of_the_records_is_noticed(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    assert status("convert", model, "--to", "q8_0", "-o", target, *PLAIN) == 0
    dice = random.Random(2)
    for path in (tmp_path / "m.manifest.json", tmp_path / "SHA256SUMS"):
        raw = path.read_bytes()
        for bit in dice.sample(range(8 * len(raw)), 60):
            changed = bytearray(raw)
            changed[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(changed)
            assert status("verify", target) in {3, 7}, (path.name, bit)
        path.write_bytes(raw)
    assert status("verify", target) == 0


def other(text: str) -> str:
    return ("0" if text[0] != "0" else "1") + text[1:]


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "identity": lambda body: body.update(identity=other(body["identity"])),
    "recipe": lambda body: body["recipe"].update(name="f16"),
    "version": lambda body: body["tool"].update(version="9.9"),
    "tensor hash": lambda body: body["tensors"][3].update(sha256=other(body["tensors"][3]["sha256"])),
    "tensor type": lambda body: body["tensors"][3].update(type="q4_0"),
    "tensor offset": lambda body: body["tensors"][3].update(offset=body["tensors"][3]["offset"] + 32),
    "tensor shape": lambda body: body["tensors"][3].update(shape=[1] * 5),
    "tensor gone": lambda body: body["tensors"].pop(),
    "file hash": lambda body: body["artifact"][0].update(sha256=other(body["artifact"][0]["sha256"])),
    "bytes": lambda body: body["size"].update(bytes=1),
    "bits": lambda body: body["size"].update(bits_per_weight=1.0),
    "header": lambda body: body["size"].update(header_bytes=32, padding_bytes=0),
    "types": lambda body: body["size"]["types"][0].update(weights=1),
    "artifact": lambda body: body.update(artifact=[]),
    "method": lambda body: body.update(method=5),
    "warnings": lambda body: body.update(warnings=5, checks=[{"a": 1}], timings=[]),
    "source size": lambda body: body["size"].update(source_bytes=0),
    "huge": lambda body: body["tensors"][0].update(offset=2**63 - 1, bytes=2**63 - 1),
    "infinite": lambda body: body["size"].update(bits_per_weight=float("inf")),
}
WITH_SOURCE: dict[str, Callable[[dict[str, Any]], object]] = {
    "source hash": lambda body: body["source"]["files"][0].update(sha256=other(body["source"]["files"][0]["sha256"])),
    "source gone": lambda body: body["source"]["files"].pop(),
    "plan": lambda body: body.update(plan_digest=other(body["plan_digest"])),
    "tokenizer": lambda body: body.update(tokenizer_sha256=other(body["tokenizer_sha256"])),
}


def with_identity(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    """The change, and the identity that follows from it."""

    def changed(body: dict[str, Any]) -> None:
        change(body)
        files = sorted(f"{f['sha256']} {f['bytes']} {f['name']}" for f in body["source"]["files"])
        body["identity"] = hashlib.sha256("\n".join([body["plan_digest"], *files]).encode()).hexdigest()

    return changed


@pytest.mark.parametrize("what", [*FORGED, *WITH_SOURCE])
def test_a_manifest_that_was_forged_is_found(what: str, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    assert status("convert", model, "--to", "q4_0", "-o", target, *PLAIN) == 0
    change = FORGED[what] if what in FORGED else with_identity(WITH_SOURCE[what])
    reseal(tmp_path / "m.manifest.json", change)
    against = [] if what in FORGED else ["--against", model]
    outcome = quantkit("verify", target, *against)
    assert outcome.status in {3, 7}, what
    assert "hint: " in outcome.stderr
    assert status("convert", model, "--to", "q4_0", "-o", target, *PLAIN) in {0, 6}


def test_what_cannot_be_known_is_called_a_claim(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    assert status("convert", model, "--to", "q8_0", "-o", target, *PLAIN) == 0

    def claims(*more: object) -> set[str]:
        found = {c["check"]: c for c in quantkit("verify", target, "--json", *more).json["checks"]}
        assert found["files"]["sealed"] is True
        return {claim for check in found.values() for claim in check.get("claims", ())}

    assert {"plan_digest", "source", "versions", "timings"} <= claims()
    assert not {"plan_digest", "source", "tokenizer_sha256"} & claims("--against", model)


def test_a_manifest_of_a_version_without_seals_is_read(model: Path, tmp_path: Path) -> None:
    target, manifest = tmp_path / "m.gguf", tmp_path / "m.manifest.json"
    command = ["convert", model, "--to", "q8_0", "-o", target, *PLAIN, "--json"]
    assert status(*command) == 0
    body = json.loads(manifest.read_text())
    older = {key: value for key, value in body.items() if key not in ("seal", "own_seal")}
    manifest.write_text(json.dumps(older))
    (tmp_path / "SHA256SUMS").unlink()
    outcome = quantkit("verify", target)
    assert outcome.status == 0
    assert "convert" in outcome.stdout
    assert quantkit(*command).json["artifacts"][0]["built"] is False
    assert set(json.loads(manifest.read_text())) == set(body), "and sealed, once it was compared with the source"


def test_a_checkpoint_names_its_recipe_and_plan(model: Path, tmp_path: Path) -> None:
    assert status("convert", model, "--to", "w8a16", "-o", tmp_path, *PLAIN) == 0
    path = tmp_path / "model.manifest.json"
    whole, sums = path.read_bytes(), (tmp_path / "SHA256SUMS").read_bytes()
    forged: list[Callable[[dict[str, Any]], object]] = [
        lambda body: body["method"].update(transform="awq"),
        lambda body: body["recipe"].update(name="fp8"),
        lambda body: body["recipe"].update(plan=other(body["recipe"]["plan"])),
        lambda body: body["recipe"].pop("plan"),
    ]
    for change in forged:
        reseal(path, change)
        assert status("verify", tmp_path, "--against", model) == 7
        path.write_bytes(whole)
        (tmp_path / "SHA256SUMS").write_bytes(sums)
    assert status("verify", tmp_path, "--against", model) == 0


def test_the_canonical_text_of_a_value() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "é\udcff"}) == b'{"a":"\\u00e9\\udcff","b":[1,2.5,null]}'
    assert json.loads(canonical_json(json.loads(canonical_json({"x": float(np.float32(0.1))})))) == {
        "x": 0.10000000149011612
    }
