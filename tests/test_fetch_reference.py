"""scripts/fetch_reference.py: unpacks what is wanted, never outside its folder, never over someone's files."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "fetch_reference.py"
ROOT = "llama_cpp_python-0.3.36/vendor/llama.cpp"

GOOD = {
    f"{ROOT}/LICENSE": b"licence",
    f"{ROOT}/convert_hf_to_gguf.py": b"pass",
    f"{ROOT}/convert_lora_to_gguf.py": b"pass",
    f"{ROOT}/conversion/llama.py": b"pass",
    f"{ROOT}/gguf-py/gguf/quants.py": b"pass",
    f"{ROOT}/gguf-py/gguf/scripts/gguf_dump.py": b"pass",
    f"{ROOT}/models/ggml-vocab-qwen2.gguf": b"GGUF",
    f"{ROOT}/include/llama.h": b"enum llama_ftype",
    f"{ROOT}/models/templates/a.jinja": b"{{ a }}",
    f"{ROOT}/src/llama-vocab.cpp": b"patterns",
    f"{ROOT}/tests/snapshots/a.schema": b"[q4_0]",
}
BAD = {
    f"{ROOT}/conversion/../../../../escape.py": b"bad",
    f"/{ROOT}/conversion/absolute.py": b"bad",
    f"{ROOT}/src/llama.cpp": b"not wanted",
    f"{ROOT}/conversion/deep/er.py": b"not wanted",
    "elsewhere/conversion/x.py": b"not wanted",
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec.loader.exec_module(module)
    return module


def fetch(script: ModuleType, target: Path, obtain: Callable[[Path], Path] | None = None) -> str:
    return script.fetch(target, script.LLAMA_CPP, script.unpack, obtain)


def archive(path: Path, files: dict[str, bytes]) -> Path:
    """A tar.gz of `files`, and a symbolic link under a wanted name."""
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo(f"{ROOT}/conversion/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def test_unpack_takes_the_wanted_files_and_nothing_else(script, tmp_path):
    count = script.unpack(archive(tmp_path / "a.tar.gz", {**BAD, **GOOD}), tmp_path / "deep" / "out")
    expected = {str(PurePosixPath(name).relative_to(ROOT)): data for name, data in GOOD.items()}
    assert contents(tmp_path / "deep") == {f"out/{name}": data for name, data in expected.items()}
    assert count == len(GOOD)


def test_an_archive_that_lacks_something_is_an_error(script, tmp_path):
    files = {name: data for name, data in GOOD.items() if "snapshots" not in name}
    with pytest.raises(SystemExit, match="tests/snapshots"):
        script.unpack(archive(tmp_path / "a.tar.gz", files), tmp_path / "out")


def test_an_archive_that_is_too_large_is_an_error(script, tmp_path):
    with pytest.raises(SystemExit, match="more than 20 bytes"):
        script.unpack(archive(tmp_path / "a.tar.gz", GOOD), tmp_path / "out", max_bytes=20)


def test_fetch_creates_keeps_and_updates_its_folder(script, tmp_path):
    target = tmp_path / "sources" / "llama.cpp"

    def obtain(folder: Path) -> Path:
        return archive(folder / "a.tar.gz", GOOD)

    assert f"{len(GOOD)} files" in fetch(script, target, obtain)
    assert (target / "conversion" / "llama.py").read_bytes() == b"pass"
    assert [p.name for p in target.parent.iterdir()] == ["llama.cpp"]
    (target / "conversion" / "llama.py").write_bytes(b"touched")
    assert "already" in fetch(script, target, obtain)
    assert (target / "conversion" / "llama.py").read_bytes() == b"touched"
    (target / ".version").write_text("0.3.1\n")
    assert f"{len(GOOD)} files" in fetch(script, target, obtain)
    assert (target / "conversion" / "llama.py").read_bytes() == b"pass"
    assert [p.name for p in target.parent.iterdir()] == ["llama.cpp"]


def test_fetch_leaves_foreign_folders_and_links_alone(script, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    with pytest.raises(SystemExit, match="not made by this script"):
        fetch(script, mine)
    link = tmp_path / "link"
    link.symlink_to(mine)
    assert "left as it is" in fetch(script, link)
    assert contents(mine) == {"notes.txt": b"keep me"}
    assert link.is_symlink()


def test_a_failed_unpacking_leaves_what_was_there(script, tmp_path):
    target = tmp_path / "sources" / "llama.cpp"
    target.mkdir(parents=True)
    (target / ".version").write_text("0.3.1\n")
    with pytest.raises(SystemExit):
        fetch(script, target, lambda folder: archive(folder / "a.tar.gz", BAD))
    assert contents(target.parent) == {"llama.cpp/.version": b"0.3.1\n"}
