"""Hashing, small files, checksum files and the disk check."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage.scenario import lacking

from quantkit.errors import BusyError, ExistsError, InputError, NotWritableError, ResourceError
from quantkit.storage import free_bytes, hash_file, open_log, preflight, probe_file, update_sums, write_small
from quantkit.storage.disk import Args, Result, direct
from quantkit.storage.faults import Fault
from quantkit.storage.files import PROBE_S

# hash_file


@pytest.mark.parametrize("nbytes", [0, 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 9 << 20])
def test_a_file_is_hashed_in_pieces(nbytes: int, tmp_path: Path) -> None:
    data = bytes(range(256)) * (nbytes // 256 + 1)
    path = tmp_path / "f"
    path.write_bytes(data[:nbytes])
    seen: list[int] = []
    assert hash_file(path, seen.append) == hashlib.sha256(data[:nbytes]).hexdigest()
    assert sum(seen) == nbytes
    assert max(seen, default=0) <= 4 << 20


def test_what_cannot_be_hashed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # must not wait for a writer
    for path in [tmp_path / "missing", tmp_path, tmp_path / "pipe", Path("/dev/zero")]:
        with pytest.raises(InputError, match="cannot read"):
            hash_file(path)


# probe_file


def test_a_probe_that_a_killed_process_left_goes_with_the_next_one(tmp_path: Path) -> None:
    """One that is in use stays, and so does what only looks like a probe."""
    left, used = tmp_path / f".quantkit-{'0' * 16}.probe", tmp_path / f".quantkit-{'1' * 16}.probe"
    folder, theirs = tmp_path / f".quantkit-{'2' * 16}.probe", tmp_path / "mine.probe"
    folder.mkdir()
    for path in (left, used, theirs):
        path.write_text("0" * 32)
    old = time.time() - 2 * PROBE_S
    for path in (left, folder, theirs):
        os.utime(path, (old, old))
    with probe_file(tmp_path) as (path, text):
        assert path.read_text() == text
        assert not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {used.name, folder.name, theirs.name}


# write_small


def test_a_small_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "m.json"
    write_small(path, b"{}", overwrite=False)
    assert path.read_bytes() == b"{}"
    assert [p.name for p in path.parent.iterdir()] == ["m.json"]
    write_small(path, b"{}", overwrite=False)  # the same bytes: nothing to refuse
    with pytest.raises(ExistsError, match=r"m\.json exists and differs"):
        write_small(path, b"[]", overwrite=False)
    assert path.read_bytes() == b"{}"
    write_small(path, b"", overwrite=True)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("missing", [(), ("rename_noreplace",)])
@pytest.mark.parametrize("kind", ["enospc", "eio", "erofs", "short", "eintr"])
def test_a_small_file_is_old_or_new_whatever_fails(
    kind: str, missing: tuple[str, ...], overwrite: bool, tmp_path: Path
) -> None:
    for at in range(1, 20):
        path = tmp_path / str(at) / "m.json"
        path.parent.mkdir()
        if overwrite:
            path.write_bytes(b"old")
        try:
            write_small(path, b"new", overwrite=overwrite, ops=lacking(*missing, ops=Fault(kind, at)))
        except (ResourceError, NotWritableError):
            found = path.read_bytes() if path.exists() else b""
            assert found in ((b"old" if overwrite else b""), b"new")
            write_small(path, b"new", overwrite=overwrite)
        assert path.read_bytes() == b"new"
        assert [p.name for p in path.parent.iterdir()] == ["m.json"]


def test_an_open_umask_shows_in_the_mode(tmp_path: Path) -> None:
    before = os.umask(0o002)
    write_small(tmp_path / "m", b"", overwrite=False)
    os.umask(before)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o664


def test_what_a_killed_writer_left_is_removed_but_not_what_is_in_use(tmp_path: Path) -> None:
    (tmp_path / ".quantkit-0123456789abcdef.tmp").write_bytes(b"stray")
    (tmp_path / "quantkit-0.tmp").write_bytes(b"not ours")
    inside = threading.Event()
    goal = threading.Event()

    def slow(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call is os.replace:
            inside.set()
            assert goal.wait(10)
        return call(*args)

    def write_slowly() -> None:
        write_small(tmp_path / "slow", b"slow", overwrite=True, ops=slow)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    assert inside.wait(10)
    write_small(tmp_path / "fast", b"fast", overwrite=True)
    assert len(list(tmp_path.glob(".quantkit-*.tmp"))) == 1
    goal.set()
    writer.join()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fast", "quantkit-0.tmp", "slow"]


def test_a_writer_whose_temporary_file_was_swept_writes_another(tmp_path: Path) -> None:
    """Where locks always succeed, another process may take a file in use for a stray."""
    sweeps = iter([True, True, False])

    def swept(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call is os.replace and next(sweeps):
            os.unlink(args[0])  # type: ignore[arg-type]  # noqa: PTH108
        return call(*args)

    write_small(tmp_path / "m", b"data", overwrite=True, ops=swept)
    assert (tmp_path / "m").read_bytes() == b"data"
    assert len(list(tmp_path.iterdir())) == 1


def test_places_that_refuse(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(NotWritableError, match="Not a directory"):
        write_small(tmp_path / "file" / "m", b"", overwrite=True)
    with pytest.raises(NotWritableError, match="Is a directory"):
        write_small(tmp_path / "folder", b"", overwrite=True)
    with pytest.raises(NotWritableError, match="File name too long"):
        write_small(tmp_path / ("n" * 256), b"", overwrite=True)
    with pytest.raises(ExistsError, match="symbolic link to nowhere"):
        write_small(tmp_path / "loop", b"", overwrite=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "loop"]


def test_a_log_grows_by_lines(tmp_path: Path) -> None:
    for text in ["one\n", "two \udcff\n"]:
        with open_log(tmp_path / "log") as log:
            log.write(text)
            assert (tmp_path / "log").read_bytes().endswith(b"\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo \\udcff\n"
    with pytest.raises(NotWritableError):
        open_log(tmp_path)


# update_sums


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def assert_sums_check(folder: Path, count: int) -> None:
    out = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True
    )
    assert out.stdout.count(b": OK\n") == count


def test_sums_are_merged_and_sorted(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / name).write_text(name)
        update_sums(tmp_path, {name: sha256(name.encode())})
    assert [line[66:] for line in (tmp_path / "SHA256SUMS").read_text().splitlines()] == ["a", "b", "c"]
    assert_sums_check(tmp_path, 3)
    before = (tmp_path / "SHA256SUMS").stat()
    update_sums(tmp_path, {"a": sha256(b"a")})
    assert (tmp_path / "SHA256SUMS").stat() == before, "nothing changed, nothing written"
    (tmp_path / "a").write_text("changed")
    update_sums(tmp_path, {"a": sha256(b"changed")})
    assert_sums_check(tmp_path, 3)


NAMES = st.binary(min_size=1, max_size=40).filter(lambda b: b"/" not in b and b"\0" not in b and b not in (b".", b".."))


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_sums_of_any_names_satisfy_sha256sum(new_folder: Callable[[], Path], names: list[bytes]) -> None:
    folder = new_folder()
    for name in map(os.fsdecode, names):
        if name == "SHA256SUMS":
            continue
        (folder / name).write_bytes(os.fsencode(name))
        update_sums(folder, {name: sha256(os.fsencode(name))})
    if (folder / "SHA256SUMS").exists():
        assert_sums_check(folder, len(list(folder.iterdir())) - 1)


def test_sums_written_by_sha256sum_are_understood(tmp_path: Path) -> None:
    names = ["plain", "with space", "back\\slash", "new\nline", "car\rriage", " *star"]
    for name in names:
        (tmp_path / name).write_text("old")
    with (tmp_path / "SHA256SUMS").open("wb") as out:
        subprocess.run(["sha256sum", "--binary", *names], cwd=tmp_path, check=True, stdout=out)
    for name in names:
        (tmp_path / name).write_text("new")
    update_sums(tmp_path, dict.fromkeys(names, sha256(b"new")))
    assert_sums_check(tmp_path, len(names))


def test_other_lines_stay(tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_bytes(b"# mine \xff\n" + b"0" * 64 + b"  gone.gguf\n\n")
    update_sums(tmp_path, {"a": "1" * 64})
    assert (tmp_path / "SHA256SUMS").read_bytes().split(b"\n") == [
        b"1" * 64 + b"  a",
        b"0" * 64 + b"  gone.gguf",
        b"# mine \xff",
        b"",
    ]


def test_a_folder_or_a_giant_in_place_of_the_sums(tmp_path: Path) -> None:
    (tmp_path / "a" / "SHA256SUMS").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    with (tmp_path / "b" / "SHA256SUMS").open("wb") as file:
        file.truncate(1 << 40)
    for folder in "ab":
        with pytest.raises(NotWritableError, match="not a checksum file"):
            update_sums(tmp_path / folder, {"a": "1" * 64})


def test_concurrent_updates_lose_nothing(tmp_path: Path) -> None:
    def add(first: int) -> None:
        for number in range(first, first + 10):
            update_sums(tmp_path, {f"f{number:03}": sha256(b"%d" % number)})

    threads = [threading.Thread(target=add, args=(first,)) for first in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len((tmp_path / "SHA256SUMS").read_text().splitlines()) == 40


def test_waiting_for_the_sums_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call.__name__ == "flock":
            raise BlockingIOError
        return call(*args)

    monkeypatch.setattr("quantkit.storage.files.LOCK_SECONDS", 0.05)
    with pytest.raises(BusyError, match="is locked by another process"):
        update_sums(tmp_path, {"a": "1" * 64}, ops=held)


# The disk check


def test_free_bytes_need_no_folder(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    assert abs(free_bytes(tmp_path / "not" / "yet") - free.f_bavail * free.f_frsize) < 1 << 30


def test_the_disk_check_names_its_numbers(tmp_path: Path) -> None:
    preflight(tmp_path / "job", 1)
    with pytest.raises(ResourceError, match=r"4,611,686,018,427,387,904 bytes needed, [\d,]+ free \([\d,]+ short\)"):
        preflight(tmp_path / "job", 1 << 62)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_does_not_even_say_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "statvfs", broken)
    with pytest.raises(ResourceError, match=r"Input/output error \(1 bytes needed, unknown free\)"):
        preflight(tmp_path, 1)


def test_calls_are_direct_by_default() -> None:
    assert direct(divmod, 7, 2) == (3, 1)
