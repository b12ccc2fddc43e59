"""What a job promises: exact files, resume from what is proven on the disk, publication of whole files only."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage import scenario
from storage.scenario import CONTENTS, FILES, HEADER, NAMES, TENSORS, build, fill, lacking, open_scenario

from quantkit.errors import BusyError, ExistsError, NotWritableError, ResourceError, VerificationError
from quantkit.storage import Job, PartFile, Record, open_job, remove_job
from quantkit.storage import disk as disk_module
from quantkit.storage.disk import Args, Result
from quantkit.storage.faults import Fault

ALL = {t.name for t in TENSORS}


def part(out: Path, name: str) -> Path:
    [path] = (out / scenario.JOB).glob(f"run-*/{name}")
    return path


def journal(out: Path) -> Path:
    [path] = (out / scenario.JOB).glob("run-*/journal.jsonl")
    return path


def publish(job: Job, out: Path, *, overwrite: bool = False) -> None:
    job.publish([out / name for name in NAMES], overwrite=overwrite, check=scenario.check_structure)


# Opening


def test_files_have_their_size_and_blocks_at_once(tmp_path: Path) -> None:
    with open_job(tmp_path / "job", digest="d", files=[PartFile("big", 8 << 20), PartFile("empty", 0)]) as job:
        sizes = [p.stat() for p in job.paths]
        assert [s.st_size for s in sizes] == [8 << 20, 0]
        assert sizes[0].st_blocks * 512 >= 8 << 20


def test_a_new_job_has_no_records_and_leaves_nothing_when_nothing_was_finished(tmp_path: Path) -> None:
    with open_scenario(tmp_path) as job:
        assert not job.records
        job.write(0, 0, HEADER)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small_is_found_before_anything_is_made(tmp_path: Path) -> None:
    files = [PartFile("a", 1 << 60), PartFile("b", 1)]
    with pytest.raises(ResourceError, match=r"1,152,921,504,607,\d+,\d+ bytes needed, [\d,]+ free"):
        open_job(tmp_path / "out" / "job", digest="d", files=files)
    assert list(tmp_path.iterdir()) == []


def test_allocated_blocks_count_when_a_job_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, half = [PartFile("a", 8 << 20)], bytes(4 << 20)
    with open_job(tmp_path / "job", digest="d", files=files) as job:
        job.write(0, 0, half)
        job.finish(Record("t", 0, 0, len(half), hashlib.sha256(half).hexdigest(), {}))
    free = 2 << 20  # less than the job's 8 MiB, enough for what is not allocated yet
    monkeypatch.setattr("quantkit.storage.files.free_bytes", lambda folder: free)
    with open_job(tmp_path / "job", digest="d", files=files) as job:
        assert set(job.records) == {"t"}
    with pytest.raises(ResourceError):
        open_job(tmp_path / "other", digest="d", files=files)


@pytest.mark.parametrize(
    "names",
    [
        ["a", "a"],
        ["a/b", "a/b"],
        ["a/b/c"],
        ["/b"],
        ["a/"],
        ["../b"],
        [".a/b"],
        ["a/.."],
        ["a/b\\"],
        ["a\n/b"],
        ["nested-1", "a/b"],
        [""],
        [".."],
        ["."],
        ["journal.jsonl"],
    ],
)
def test_part_names_are_plain_and_distinct(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not distinct file names"):
        open_job(tmp_path / "job", digest="d", files=[PartFile(name, 1) for name in names])


def test_a_name_of_any_bytes_works(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \n\x1b[31m \xf0\x9f\x98\x80.gguf")
    data = b"x" * 100
    out = tmp_path / os.fsdecode(b"\xff folder")
    with open_job(out / "job", digest="d", files=[PartFile(name, len(data))]) as job:
        job.write(0, 0, data)
        [published] = job.publish([out / name], overwrite=False, check=lambda path: None)
        with pytest.raises(ExistsError, match=r"caf\\xe9 \\n\\x1b\[31m 😀.gguf exists and differs$"):
            open_and_publish(out, name, b"y" * 100)
    assert published.path.read_bytes() == data


def open_and_publish(out: Path, name: str, data: bytes) -> None:
    with open_job(out / "job2", digest="d", files=[PartFile(name, len(data))]) as job:
        job.write(0, 0, data)
        job.publish([out / name], overwrite=False, check=lambda path: None)


def test_a_name_too_long_is_found_before_work(tmp_path: Path) -> None:
    with pytest.raises(NotWritableError, match="File name too long"):
        open_job(tmp_path / "job", digest="d", files=[PartFile("n" * 256, 1)])
    with pytest.raises(NotWritableError, match="File name too long"):
        open_job(tmp_path / ("n" * 256) / "job", digest="d", files=[PartFile("n", 1)])
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_output_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(NotWritableError, match=r"out.*: Not a directory"):
        open_scenario(tmp_path / "out")
    with pytest.raises(NotWritableError, match=r"out.*: Not a directory"):
        open_scenario(tmp_path / "out" / "below")
    assert (tmp_path / "out").read_text() == "a file"


def test_a_folder_that_may_not_be_written() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        folder.chmod(0o555)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                if os.geteuid() == 0:  # root may write everywhere
                    os.setuid(65534)
                open_scenario(folder)
            except NotWritableError as error:
                status = 0 if error.message == f"cannot write {folder / scenario.JOB}: Permission denied" else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert list(folder.iterdir()) == []
        folder.chmod(0o755)


def test_a_symbolic_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    build(tmp_path, stop_after=3)
    path = part(tmp_path, NAMES[0])
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(NotWritableError):
        open_scenario(tmp_path)
    assert victim.read_text() == "precious"


# Writing


def test_arrays_of_any_type_are_written_as_their_bytes(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    with open_job(tmp_path / "job", digest="d", files=[PartFile("a", 200)]) as job:
        job.write(0, 8, array)
        job.write(0, 200, np.empty((0, 3), np.uint8))
        assert job.read(0, 8, 96) == array.tobytes()
        assert job.read(0, 190, 50) == bytes(10), "to the end of the file and no further"
        with pytest.raises(TypeError):
            job.write(0, 0, array.T)


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 1), (5, 6), (11, 0), (0, 11), (1 << 62, 1)])
def test_writing_outside_of_a_file_is_a_bug(offset: int, nbytes: int, tmp_path: Path) -> None:
    with open_job(tmp_path / "job", digest="d", files=[PartFile("a", 10)]) as job:
        with pytest.raises(ValueError, match="outside of file 0"):
            job.write(0, offset, bytes(nbytes))
        with pytest.raises(ValueError, match="not inside its file"):
            job.finish(Record("t", 0, offset, nbytes, "", {}))
        assert job.paths[0].stat().st_size == 10


def test_a_file_has_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        build(tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in scenario.files(tmp_path)} == {0o640}
    assert stat.S_IMODE((tmp_path / scenario.FOLDER).stat().st_mode) == 0o750


def test_finished_tensors_are_synced_by_bytes_not_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def watching(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call is os.fsync:
            synced.append(Path(f"/proc/self/fd/{args[0]}").readlink().name)
        return call(*args)

    monkeypatch.setattr("quantkit.storage.job.SYNC_BYTES", 3000)
    files = [PartFile("a", 10_000)]
    with open_job(tmp_path / "job", digest="d", files=files, ops=watching) as job:
        synced.clear()
        for i in range(10):
            job.write(0, i * 1000, bytes(1000))
            job.finish(Record(f"t{i}", 0, i * 1000, 1000, hashlib.sha256(bytes(1000)).hexdigest(), {}))
        assert synced == ["a", "journal.jsonl"] * 3, "data first, then the journal, after every third tensor"
        monkeypatch.setattr("quantkit.storage.job.SYNC_SECONDS", 0.0)
        job.finish(Record("t0", 0, 0, 1000, hashlib.sha256(bytes(1000)).hexdigest(), {}))
        assert len(synced) == 8, "or when time has passed"


@pytest.mark.parametrize("piece", [4 << 20, 1 << 20, 600_000, 1000])
def test_what_is_written_is_on_its_way_to_the_disk_before_the_end(piece: int, tmp_path: Path) -> None:
    """Slabs of small types are no whole MiB: the stretches that are sent lie end to end all the same."""
    sent: list[tuple[object, ...]] = []

    def watching(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call.__name__ == "posix_fadvise":
            sent.append(args[1:3])
        return call(*args)

    nbytes = 4 << 20
    with open_job(tmp_path / "job", digest="d", files=[PartFile("a", nbytes)], ops=watching) as job:
        for start in range(0, nbytes, piece):
            job.write(0, start, bytes(min(piece, nbytes - start)))
        assert [byte for start, count in sent for byte in range(start, start + count, 1 << 20)] == [
            number << 20 for number in range(4)
        ]
        job.write(0, 0, bytes(100))
        assert sum(count for _, count in sent) == nbytes, "once each"


# Resuming


@pytest.mark.parametrize("finished", range(len(TENSORS) + 1))
def test_finished_tensors_are_found_again(finished: int, tmp_path: Path) -> None:
    build(tmp_path, stop_after=finished)
    with open_scenario(tmp_path) as job:
        assert dict(job.records) == {t.name: t.record for t in TENSORS[:finished]}
        fill(job)
        publish(job, tmp_path)
        assert set(job.records) == ALL, "records grow with what is finished"
    assert tuple((tmp_path / name).read_bytes() for name in NAMES) == CONTENTS


@pytest.mark.parametrize("missing", [(), ("fallocate",)])
@given(data=st.data())
@settings(derandomize=True, max_examples=40, deadline=None)
def test_damaged_parts_are_noticed_and_written_again(
    missing: tuple[str, ...], data: st.DataObject, new_folder: Callable[[], Path]
) -> None:
    """Bits flipped anywhere, padding and header included: the result is that of a run without an accident."""
    out = new_folder()
    build(out, stop_after=data.draw(st.integers(1, len(TENSORS)), "finished"))
    for file, name in enumerate(scenario.PARTS):
        path = part(out, name)
        raw = bytearray(path.read_bytes())
        for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=3), f"damage of {file}"):
            raw[at] ^= 0x40
        length = data.draw(st.sampled_from([len(raw), len(raw) - 100, 0, len(raw) + 100]), f"length of {file}")
        path.write_bytes(bytes(raw[:length]) + b"!" * (length - len(raw)))
    build(out, lacking(*missing))
    scenario.assert_complete(out)


@given(cut=st.floats(0, 1), tail=st.binary(max_size=30))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_a_torn_journal_costs_work_only(cut: float, tail: bytes, new_folder: Callable[[], Path]) -> None:
    out = new_folder()
    build(out, stop_after=4)
    log = journal(out).read_bytes()
    journal(out).write_bytes(log[: int(cut * len(log))] + tail)
    with open_scenario(out) as job:
        kept = set(job.records)
        fill(job)
    with open_scenario(out) as job:
        assert set(job.records) == ALL, f"lines after the torn one count; kept {kept}"
    build(out)
    scenario.assert_complete(out)


def test_only_what_is_proven_is_kept(tmp_path: Path) -> None:
    build(tmp_path, stop_after=len(TENSORS))
    path = part(tmp_path, NAMES[0])
    raw = bytearray(path.read_bytes())
    raw[TENSORS[2].offset + 10] ^= 1
    raw[TENSORS[0].offset + len(TENSORS[0].data)] = 7  # padding
    path.write_bytes(raw)
    with open_scenario(tmp_path) as job:
        assert set(job.records) == ALL - {TENSORS[2].name}
    build(tmp_path)
    scenario.assert_complete(tmp_path)


@pytest.mark.parametrize(
    ("digest", "files"),
    [("0" * 64, FILES), (scenario.DIGEST, (FILES[0],)), (scenario.DIGEST, (FILES[0], PartFile("other.gguf", 7)))],
)
def test_the_work_of_another_job_is_set_aside(digest: str, files: tuple[PartFile, ...], tmp_path: Path) -> None:
    build(tmp_path, stop_after=4)
    with open_job(tmp_path / scenario.JOB, digest=digest, files=files) as job:
        assert not job.records
        assert job.read(0, 0, files[0].nbytes) == bytes(files[0].nbytes)
        assert sorted(p.name for p in job.paths[0].parent.iterdir()) == sorted(
            ["journal.jsonl", *scenario.PARTS[: len(files)]]
            if files == FILES
            else ["journal.jsonl", *(f.name for f in files)]
        )
    assert list(tmp_path.iterdir()) == [], "which had finished nothing"


def test_of_several_earlier_runs_the_longest_is_continued(tmp_path: Path) -> None:
    build(tmp_path, stop_after=4)
    [longest] = (tmp_path / scenario.JOB).glob("run-*")
    longest.rename(tmp_path / "aside")
    build(tmp_path, stop_after=1)
    (tmp_path / "aside").rename(longest)
    with open_scenario(tmp_path) as job:
        assert len(job.records) == 4
        assert len(list(job.folder.glob("run-*"))) == 1


def test_an_error_while_earlier_work_is_looked_at_loses_none_of_it(tmp_path: Path) -> None:
    build(tmp_path, stop_after=4)
    for at in range(1, 40):
        try:
            open_scenario(tmp_path, Fault("eio", at)).close()
        except ResourceError:
            assert (tmp_path / scenario.JOB).is_dir()
    with open_scenario(tmp_path) as job:
        assert len(job.records) == 4


# Publishing


def test_a_target_that_differs_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / NAMES[1]).write_bytes(b"mine")
    with pytest.raises(ExistsError, match=f"{NAMES[1]} exists and differs"):
        build(tmp_path)
    assert (tmp_path / NAMES[1]).read_bytes() == b"mine"
    assert (tmp_path / NAMES[0]).read_bytes() == CONTENTS[0]
    build(tmp_path, overwrite=True)
    scenario.assert_complete(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_that_is_equal_counts_as_published(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / NAMES[1]).write_bytes(CONTENTS[1])
    inode = (tmp_path / NAMES[1]).stat().st_ino
    build(tmp_path, overwrite=overwrite)
    assert (tmp_path / NAMES[1]).stat().st_ino == inode
    scenario.assert_complete(tmp_path)


def test_another_process_may_publish_the_same_bytes_first(tmp_path: Path) -> None:
    def late(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call is disk_module.rename_noreplace and Path(str(args[1])).name in NAMES:  # type: ignore[comparison-overlap]
            Path(str(args[1])).write_bytes(Path(str(args[0])).read_bytes())
        return call(*args)

    build(tmp_path, late)
    scenario.assert_complete(tmp_path)


def test_another_process_may_publish_other_bytes_first(tmp_path: Path) -> None:
    def late(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call is disk_module.rename_noreplace and Path(str(args[1])).name in NAMES:  # type: ignore[comparison-overlap]
            (tmp_path / Path(str(args[1])).name).write_bytes(b"other")
        return call(*args)

    with pytest.raises(ExistsError, match="exists and differs"):
        build(tmp_path, late)
    assert (tmp_path / NAMES[0]).read_bytes() == b"other"


@pytest.mark.parametrize("missing", [(), ("rename_noreplace",)])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to("nowhere"), "is a symbolic link to nowhere"),
        (lambda path: path.mkdir(), "exists and differs"),
        (os.mkfifo, "exists and differs"),
    ],
    ids=["dangling", "folder", "pipe"],
)
def test_what_is_not_a_file_stays(
    make: Callable[[Path], None], reason: str, missing: tuple[str, ...], tmp_path: Path
) -> None:
    target = tmp_path / NAMES[0]
    make(target)
    before = target.lstat()
    with pytest.raises(ExistsError, match=reason):
        build(tmp_path, lacking(*missing))
    assert target.lstat().st_ino == before.st_ino


def test_a_folder_is_not_replaced_even_when_asked(tmp_path: Path) -> None:
    (tmp_path / NAMES[0]).mkdir()
    with pytest.raises(NotWritableError, match="Is a directory"):
        build(tmp_path, overwrite=True)
    assert (tmp_path / NAMES[0]).is_dir()


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / NAMES[0]).symlink_to("other")
    build(tmp_path, overwrite=True)
    assert (tmp_path / "other").read_text() == "mine"
    assert (tmp_path / NAMES[0]).read_bytes() == CONTENTS[0]
    assert not (tmp_path / NAMES[0]).is_symlink()


def test_a_link_in_place_of_a_rename_leaves_one_name(tmp_path: Path) -> None:
    with open_scenario(tmp_path, lacking("rename_noreplace")) as job:
        fill(job)
        parts = job.paths
        publish(job, tmp_path)
        assert job.paths == tuple(tmp_path / name for name in NAMES)
        assert not any(path.exists() for path in parts)


def test_nothing_is_renamed_when_a_check_fails(tmp_path: Path) -> None:
    def picky(path: Path) -> None:
        if NAMES[1] in path.name:
            raise VerificationError("wrong")

    with open_scenario(tmp_path) as job:
        fill(job)
        with pytest.raises(VerificationError, match="wrong"):
            job.publish([tmp_path / name for name in NAMES], overwrite=False, check=picky)
    assert [p.name for p in tmp_path.iterdir()] == [scenario.JOB]


def test_a_disk_that_returns_other_bytes_is_noticed(tmp_path: Path) -> None:
    with open_scenario(tmp_path) as job:
        fill(job)
        job.write(0, TENSORS[2].offset + 17, b"\0\1\2")  # stands for what a bad disk does
        with pytest.raises(VerificationError, match=r'"blk\.2\.weight" reads back with other bytes') as caught:
            publish(job, tmp_path)
        assert caught.value.tensor == "blk.2.weight"
    assert [p.name for p in tmp_path.iterdir()] == [scenario.JOB]
    build(tmp_path)
    scenario.assert_complete(tmp_path)


def test_a_run_killed_between_two_renames_continues_with_the_second(tmp_path: Path) -> None:
    class StoppedError(Exception): ...

    def one_rename(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call is disk_module.rename_noreplace and NAMES[1] in str(args[1]):  # type: ignore[comparison-overlap]
            raise StoppedError
        return call(*args)

    with pytest.raises(StoppedError):
        build(tmp_path, one_rename)
    published = (tmp_path / NAMES[0]).stat()
    with open_scenario(tmp_path) as job:
        assert set(job.records) == ALL
        assert job.paths[0] == tmp_path / NAMES[0]
        job.write(0, 0, HEADER)  # the same bytes: nothing to do
        with pytest.raises(VerificationError, match="published with other bytes at 3"):
            job.write(0, 3, b"other")
        with pytest.raises(ExistsError, match=f"is not what the run before published as .*{NAMES[0]}"):
            job.publish([tmp_path / "x", tmp_path / "y"], overwrite=False, check=lambda path: None)
    with open_scenario(tmp_path) as job:
        fill(job)
        (tmp_path / NAMES[0]).rename(tmp_path / "aside")
        with pytest.raises(ExistsError, match="is not what the run before published"):
            publish(job, tmp_path)
        (tmp_path / "aside").rename(tmp_path / NAMES[0])
    build(tmp_path)
    after = (tmp_path / NAMES[0]).stat()
    assert (after.st_ino, after.st_mtime_ns) == (published.st_ino, published.st_mtime_ns)
    scenario.assert_complete(tmp_path)


def test_a_published_file_that_changed_since_is_built_again(tmp_path: Path) -> None:
    with open_scenario(tmp_path) as job:
        fill(job)
        publish(job, tmp_path)
    (tmp_path / NAMES[0]).write_bytes(b"edited by hand")
    with open_scenario(tmp_path) as job:
        assert set(job.records) == {t.name for t in TENSORS if t.file == 1}
    with pytest.raises(ExistsError):
        build(tmp_path)
    assert (tmp_path / NAMES[0]).read_bytes() == b"edited by hand"


def test_a_part_with_a_second_name_is_never_written_again(tmp_path: Path) -> None:
    """Where renames cannot refuse to replace, a kill between link and unlink leaves both names."""
    build(tmp_path, stop_after=len(TENSORS))
    with open_scenario(tmp_path) as job:
        path = job.paths[0]
        os.link(path, tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    build(tmp_path)
    assert (tmp_path / "elsewhere").read_bytes() == before
    (tmp_path / "elsewhere").unlink()
    scenario.assert_complete(tmp_path)


def test_no_way_to_publish_without_replacing(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="Operation not supported"):
        build(tmp_path, lacking("rename_noreplace", "link"))
    assert not (tmp_path / NAMES[0]).exists()
    build(tmp_path, lacking("rename_noreplace", "link"), overwrite=True)
    scenario.assert_complete(tmp_path)


# Ending


def test_closing_twice_and_discarding_inside_is_fine(tmp_path: Path) -> None:
    with open_scenario(tmp_path) as job:
        fill(job)
        job.close()
        job.close()
    with open_scenario(tmp_path) as job:
        job.discard()
    assert list(tmp_path.iterdir()) == []


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    build(tmp_path, stop_after=2)
    build(tmp_path)
    with pytest.raises(BusyError):
        build(tmp_path / NAMES[0])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_left_job_can_be_removed(tmp_path: Path) -> None:
    build(tmp_path, stop_after=2)
    with open_scenario(tmp_path), pytest.raises(BusyError):
        remove_job(tmp_path / scenario.JOB)
    remove_job(tmp_path / scenario.JOB)
    remove_job(tmp_path / scenario.JOB)
    assert list(tmp_path.iterdir()) == []
