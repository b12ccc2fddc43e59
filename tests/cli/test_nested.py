"""Files one folder below a checkpoint's: carried byte for byte, listed, replaced as one, checked, no link followed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import llama_folder
import pytest
from cli.test_places import PLAIN, reseal, status
from commands import quantkit

TEMPLATES = "additional_chat_templates"
NESTED = {
    f"{TEMPLATES}/tools.jinja": b"{{ messages }}\r\n{# \xc3\xa4 #}",
    f"{TEMPLATES}/\u00e9t\u00e9 \\u.jinja".replace("\\", "-"): b"",
    "1_Pooling/config.json": b'{ "pooling_mode_cls_token": true }',
}
LEFT = (f"{TEMPLATES}/notes.txt", "2_Dense/model.safetensors", f"{TEMPLATES}/a\\b.jinja")


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def add(folder: Path, contents: dict[str, bytes]) -> None:
    for name, data in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = llama_folder.write(tmp_path_factory.mktemp("nested") / "model")
    (folder / "chat_template.jinja").write_text("{{ messages[0] }}")
    return folder


@pytest.fixture(scope="module")
def source(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested") / "model"
    shutil.copytree(plain, folder)
    add(folder, NESTED)
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nested") / "out"
    assert status("convert", source, "--to", "w8a16", "-o", out, *PLAIN) == 0
    return out


@pytest.fixture
def artifact(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "artifact"))


def test_they_go_along_byte_for_byte_and_are_listed(built: Path, source: Path) -> None:
    found = files(built)
    assert NESTED.items() <= found.items()
    manifest = json.loads(found["model.manifest.json"])
    listed = {file["name"] for file in manifest["artifact"]}
    assert listed == found.keys() - {"model.manifest.json", "SHA256SUMS"}
    assert NESTED.keys() <= {file["name"] for file in manifest["source"]["files"]}
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=built, check=True)
    lines = found["SHA256SUMS"].decode().splitlines()
    assert {line[66:] for line in lines} == found.keys() - {"SHA256SUMS"}
    outcome = quantkit("verify", built, "--against", source, "--json")
    assert outcome.status == 0, outcome.stderr
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    again = quantkit("convert", source, "--to", "w8a16", "-o", built, *PLAIN, "--json")
    assert (again.status, again.json["artifacts"][0]["built"]) == (0, False)
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before
    assert {f["path"] for f in again.json["artifacts"][0]["files"]} == {str(built / name) for name in listed}


def test_transformers_finds_the_templates_by_name(built: Path) -> None:
    transformers = pytest.importorskip("transformers")
    found = transformers.AutoTokenizer.from_pretrained(built).chat_template
    names = {Path(name).stem: data for name, data in NESTED.items() if name.startswith(TEMPLATES)}
    assert found.keys() == {"default", *names}
    assert {name: found[name].replace("\n", "\r\n").encode() for name in names} == names


def test_what_stays_behind_is_said(plain: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(plain, tmp_path / "source"))
    add(source, dict.fromkeys(LEFT, b"x"))
    outcome = quantkit("convert", source, "--to", "fp8", "-o", tmp_path / "out", "--no-verify")
    assert outcome.status == 0, outcome.stderr
    warning = next(line for line in outcome.stderr.splitlines() if "warning[not-carried]" in line)
    assert "3 files" in warning
    assert "2_Dense/model.safetensors" in warning
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]


def grow(count: int) -> Callable[[Path], None]:
    return lambda source: add(source, {f"{TEMPLATES}/{n}.jinja": b"x" for n in range(count)})


def one_of(nbytes: int) -> Callable[[Path], None]:
    def write(source: Path) -> None:
        add(source, {f"{TEMPLATES}/a.jinja": b""})
        os.truncate(source / TEMPLATES / "a.jinja", nbytes)

    return write


BOUNDS: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "as many as are read": (grow(64), None),
    "too many": (grow(65), "has 65 chat templates in folders, at most 64"),
    "too large": (one_of((4 << 20) + 1), "at most 4,194,304 are read"),
}


@pytest.mark.parametrize("what", BOUNDS)
def test_count_and_size_are_bounded(what: str, plain: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(plain, tmp_path / "source"))
    change, message = BOUNDS[what]
    change(source)
    outcome = quantkit("plan", source, "--to", "fp8")
    assert outcome.status == (3 if message else 0), outcome.stderr
    assert (message or "") in outcome.stderr


# Verifying


def flipped(artifact: Path) -> None:
    path = artifact / TEMPLATES / "tools.jinja"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def behind_link(artifact: Path) -> None:
    (artifact / TEMPLATES).rename(artifact.parent / "elsewhere")
    (artifact / TEMPLATES).symlink_to("../elsewhere")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flipped, "tools.jinja has sha256"),
    "a template more": (lambda a: (a / TEMPLATES / "evil.jinja").write_text("x"), f"{TEMPLATES}/evil.jinja"),
    "another folder": (lambda a: add(a, {"2_Dense/config.json": b"{}"}), "2_Dense/config.json"),
    "one is missing": (lambda a: (a / TEMPLATES / "tools.jinja").unlink(), f"{TEMPLATES}/tools.jinja is missing"),
    "a folder that is a link": (behind_link, "lies behind a link"),
    "a folder in the folder": (lambda a: (a / TEMPLATES / "more").mkdir(), f"{TEMPLATES}/more"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_finds_what_is_not_as_it_was(damage: str, artifact: Path) -> None:
    change, message = DAMAGE[damage]
    change(artifact)
    outcome = quantkit("verify", artifact)
    assert (outcome.status, message in outcome.stderr + outcome.stdout) == (7, True), outcome.stderr


def test_harmless_things_in_a_folder_are_no_strangers(artifact: Path) -> None:
    add(artifact, {f"{TEMPLATES}/README.md": b"x", f"{TEMPLATES}/.cache": b"x"})
    (artifact / "3_Normalize").mkdir()
    assert status("verify", artifact) == 0


def test_without_a_manifest_a_template_more_is_found(artifact: Path, source: Path) -> None:
    for name in ("model.manifest.json", "SHA256SUMS"):
        (artifact / name).unlink()
    assert status("verify", artifact, "--against", source) == 0
    add(artifact, {f"{TEMPLATES}/evil.jinja": b"x"})
    outcome = quantkit("verify", artifact, "--against", source)
    assert (outcome.status, "evil.jinja is not what the source has" in outcome.stderr) == (7, True), outcome.stderr


@pytest.mark.parametrize(
    "name", ["../x.jinja", "a/../x", "/etc/passwd", "a//b", "a/b/c", ".a/b", "a/.b", "a\n/b", "a/"]
)
def test_a_manifest_names_nothing_outside(name: str, artifact: Path) -> None:
    (artifact.parent / "x.jinja").write_bytes(b"")

    def change(body: dict[str, object]) -> None:
        listed = body["artifact"]
        assert isinstance(listed, list)
        next(file for file in listed if file["bytes"] == 0)["name"] = name

    reseal(artifact / "model.manifest.json", change)
    outcome = quantkit("verify", artifact)
    assert (outcome.status, "is no file name" in outcome.stderr) == (3, True), outcome.stderr


# Replacing, and what is in the way


def test_what_the_older_artifact_lists_goes_with_its_folder(artifact: Path, plain: Path, tmp_path: Path) -> None:
    command = ["convert", plain, "--to", "w8a16", "-o", artifact, *PLAIN]
    assert status(*command) == 6
    assert status(*command, "--force") == 0
    assert status("convert", plain, "--to", "w8a16", "-o", tmp_path / "fresh", *PLAIN) == 0
    assert files(artifact).keys() == files(tmp_path / "fresh").keys()
    assert not [path for path in artifact.iterdir() if path.is_dir()]
    assert TEMPLATES not in (artifact / "SHA256SUMS").read_text()
    assert status("verify", artifact) == 0


def test_another_template_takes_the_place_of_one(artifact: Path, source: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(source, tmp_path / "other"))
    (other / TEMPLATES / "tools.jinja").write_bytes(b"new")
    (other / "1_Pooling" / "config.json").unlink()
    assert status("convert", other, "--to", "w8a16", "-o", artifact, "--force", *PLAIN) == 0
    assert (artifact / TEMPLATES / "tools.jinja").read_bytes() == b"new"
    assert not (artifact / "1_Pooling").exists()
    assert status("verify", artifact, "--against", other) == 0


def test_what_nobody_lists_stops_the_run(artifact: Path, plain: Path) -> None:
    add(artifact, {f"{TEMPLATES}/mine.jinja": b"x"})
    before = files(artifact)
    outcome = quantkit("convert", plain, "--to", "w8a16", "-o", artifact, "--force", *PLAIN)
    assert (outcome.status, f"{TEMPLATES}/mine.jinja" in outcome.stderr) == (6, True), outcome.stderr
    assert files(artifact) == before


@pytest.mark.parametrize("older", [True, False])
def test_a_link_in_place_of_the_folder_is_not_followed(
    older: bool, source: Path, plain: Path, built: Path, tmp_path: Path
) -> None:
    """Neither to write there, nor to remove what an older artifact lists."""
    out, victim = tmp_path / "out", tmp_path / "victim"
    if older:
        shutil.copytree(built, out)
        (out / TEMPLATES).rename(victim)
    else:
        out.mkdir()
        victim.mkdir()
    (out / TEMPLATES).symlink_to(victim)
    before = files(victim)
    for given in (source, plain):
        outcome = quantkit("convert", given, "--to", "w8a16", "-o", out, "--force", *PLAIN)
        assert outcome.status in {5, 6}, (outcome.status, outcome.stderr)
        assert TEMPLATES in outcome.stderr
        assert files(victim) == before
    assert (out / TEMPLATES).is_symlink()
