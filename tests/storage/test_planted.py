"""What somebody else put where quantkit works: it is not followed, not written, not removed and not believed."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from storage import scenario
from storage.scenario import JOB, NAMES, TENSORS, build, open_scenario

from quantkit.errors import NotWritableError, QuantkitError
from quantkit.storage import Job, keys, user_key
from quantkit.storage.journal import header_line, record_line

NAME = "run-0123456789abcdef"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder that is nobody's business here."""
    folder = tmp_path / "victim"
    (folder / "sub").mkdir(parents=True)
    (folder / "important.txt").write_text("data")
    (folder / "sub" / "more.txt").write_text("data")
    (folder / "journal.jsonl").write_text("hello\n")
    (folder / "lock").write_text("mine")
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def link_job(out: Path, victim: Path) -> None:
    (out / JOB).symlink_to(victim)


def link_run(out: Path, victim: Path) -> None:
    (out / JOB).mkdir()
    (out / JOB / NAME).symlink_to(victim)


def link_two_runs(out: Path, victim: Path) -> None:
    link_run(out, victim)
    (out / JOB / "run-1").mkdir()
    (out / JOB / "run-1" / "journal.jsonl").write_text("x\n")


def link_in_run(name: str) -> Callable[[Path, Path], None]:
    def plant(out: Path, victim: Path) -> None:
        (out / JOB / NAME).mkdir(parents=True)
        (out / JOB / NAME / name).symlink_to(victim / name)

    return plant


def second_name(name: str) -> Callable[[Path, Path], None]:
    def plant(out: Path, victim: Path) -> None:
        (out / JOB / NAME).mkdir(parents=True)
        place = out / JOB / name if name == "lock" else out / JOB / NAME / name
        os.link(victim / name, place)

    return plant


def link_lock(out: Path, victim: Path) -> None:
    (out / JOB).mkdir()
    (out / JOB / "lock").symlink_to(victim / "lock")


def pipe(name: str) -> Callable[[Path, Path], None]:
    def plant(out: Path, victim: Path) -> None:
        (out / JOB / NAME).mkdir(parents=True)
        os.mkfifo(out / JOB / name if name == "lock" else out / JOB / NAME / name)

    return plant


PLANTED: dict[str, Callable[[Path, Path], None]] = {
    "job": link_job,
    "run": link_run,
    "two runs": link_two_runs,
    "lock": link_lock,
    "journal": link_in_run("journal.jsonl"),
    "part": link_in_run(NAMES[0]),
    "lock with a second name": second_name("lock"),
    "journal with a second name": second_name("journal.jsonl"),
    "part with a second name": second_name(NAMES[0]),
    "lock that is a pipe": pipe("lock"),
    "journal that is a pipe": pipe("journal.jsonl"),
    "part that is a pipe": pipe(NAMES[0]),
}


@pytest.mark.parametrize("what", PLANTED)
def test_nothing_behind_a_link_is_touched(what: str, victim: Path, tmp_path: Path) -> None:
    before = contents(victim)
    out = tmp_path / "out"
    out.mkdir()
    PLANTED[what](out, victim)
    try:
        build(out)
    except QuantkitError as error:
        assert isinstance(error, NotWritableError), error
        assert error.hint
        assert not list(out.glob("*.gguf"))
    else:
        assert tuple((out / name).read_bytes() for name in NAMES) == scenario.CONTENTS
    assert contents(victim) == before
    with open_scenario(tmp_path / "another") as job:
        scenario.fill(job)
        job.discard()
    assert contents(victim) == before


def test_only_what_has_our_names_is_removed(tmp_path: Path) -> None:
    build(tmp_path, stop_after=2)
    (tmp_path / JOB / "thesis.txt").write_text("years of work")
    (tmp_path / JOB / "run-mine").mkdir()
    (tmp_path / JOB / "run-mine" / "a").write_text("mine")
    build(tmp_path)
    assert {p.name for p in (tmp_path / JOB).iterdir()} == {"thesis.txt", "run-mine"}
    assert (tmp_path / JOB / "run-mine" / "a").read_text() == "mine"


# State that lies


def lie(out: Path, key: bytes | None) -> None:
    """A journal and files that agree on other weights."""
    run = out / JOB / NAME
    run.mkdir(parents=True)
    files = scenario.FILES
    lines = [header_line(scenario.DIGEST, files, key or b"")]
    data = [bytearray(content) for content in scenario.CONTENTS]
    for tensor in TENSORS:
        other = bytes(byte ^ 1 for byte in tensor.data)
        data[tensor.file][tensor.offset : tensor.offset + len(other)] = other
        record = tensor.record
        changed = type(record)(
            record.tensor, record.file, record.offset, record.nbytes, hashlib.sha256(other).hexdigest(), record.extra
        )
        lines.append(record_line(changed, key or b""))
    (run / "journal.jsonl").write_bytes(b"".join(lines))
    for name, content in zip(scenario.PARTS, data, strict=True):
        (run / name).write_bytes(content)


@pytest.mark.parametrize("key", [None, b"a key of somebody else's, 32 bytes"])
def test_a_journal_that_agrees_with_other_weights_is_not_believed(key: bytes | None, tmp_path: Path) -> None:
    lie(tmp_path, key)
    with open_scenario(tmp_path) as job:
        assert not job.records
    shutil.rmtree(tmp_path / JOB, ignore_errors=True)
    lie(tmp_path, key)
    build(tmp_path)
    scenario.assert_complete(tmp_path)


def test_lines_of_another_job_of_the_same_user_do_not_count(tmp_path: Path) -> None:
    build(tmp_path / "a", stop_after=4)
    [journal] = (tmp_path / "a" / JOB).glob("run-*/journal.jsonl")
    lines = journal.read_bytes().split(b"\n")
    from quantkit.storage import open_job

    with open_job(tmp_path / "b" / JOB, digest="other" * 12, files=scenario.FILES) as job:
        job.finish(TENSORS[0].record)
    [other] = (tmp_path / "b" / JOB).glob("run-*/journal.jsonl")
    with other.open("ab") as file:
        file.write(b"\n".join(lines[1:]))
    for name, content in zip(scenario.PARTS, scenario.CONTENTS, strict=True):
        (other.parent / name).write_bytes(content)
    with open_job(tmp_path / "b" / JOB, digest="other" * 12, files=scenario.FILES) as job:
        assert set(job.records) == {TENSORS[0].name}


def test_a_fresh_job_begins_in_any_case(tmp_path: Path) -> None:
    build(tmp_path, stop_after=3)
    from quantkit.storage import open_job

    with open_job(tmp_path / JOB, digest=scenario.DIGEST, files=scenario.FILES, fresh=True) as job:
        assert not job.records
        assert len(list(job.folder.glob("run-*"))) == 1


# The key


def test_the_key_is_made_once_and_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    keys._key.cache_clear()
    first = user_key()
    path = tmp_path / "state" / "quantkit" / "seal.key"
    assert path.read_bytes() == first
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    keys._key.cache_clear()
    assert user_key() == first
    assert [p.name for p in path.parent.iterdir()] == ["seal.key"]


@pytest.mark.parametrize("how", ["mode", "short", "link", "folder link"])
def test_a_key_that_others_can_read_or_choose_is_no_key(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "quantkit"
    other = tmp_path / "other"
    other.mkdir()
    (other / "seal.key").write_bytes(b"k" * 32)
    (other / "seal.key").chmod(0o600)
    if how == "folder link":
        folder.symlink_to(other)
    else:
        folder.mkdir()
        if how == "link":
            (folder / "seal.key").symlink_to(other / "seal.key")
        else:
            (folder / "seal.key").write_bytes(b"k" * (31 if how == "short" else 32))
            (folder / "seal.key").chmod(0o644 if how == "mode" else 0o600)
    monkeypatch.setattr(keys, "_places", lambda: iter([folder]))
    keys._key.cache_clear()
    assert user_key() != b"k" * 32
    keys._key.cache_clear()


# Replacing as one


@pytest.mark.parametrize("at", range(6))
def test_what_is_retired_goes_before_the_first_rename_whatever_happens(at: int, tmp_path: Path) -> None:
    older = ("manifest.json", "config.json", "old-2.gguf", "old/a.jinja", "templates/old.jinja")
    for name in older:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    order = (*older, "old")
    removed: list[str] = []

    def stumble(call: Callable[..., object], *args: object) -> object:
        name = os.path.relpath(str(args[0]), tmp_path) if call.__name__ in ("unlink", "rmdir") else ""
        if name in order:
            if len(removed) == at:
                raise OSError(5, "Input/output error")
            removed.append(name)
        return call(*args)

    def publish(job: Job) -> None:
        scenario.fill(job)
        targets = [tmp_path / name for name in NAMES]
        job.publish(targets, overwrite=True, check=scenario.check_structure, retire=lambda: older)

    with pytest.raises(QuantkitError), open_scenario(tmp_path, stumble) as job:  # type: ignore[arg-type]
        publish(job)
    assert removed == list(order[:at])
    assert not any((tmp_path / name).exists() for name in NAMES)
    with open_scenario(tmp_path) as job:
        assert job.retired == older
        scenario.fill(job)
        job.publish([tmp_path / name for name in NAMES], overwrite=True, check=scenario.check_structure)
        job.discard()
    assert scenario.files(tmp_path) == set(NAMES)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {scenario.FOLDER}


# Folders of files


def link_to(victim: Path, folder: Path) -> None:
    folder.symlink_to(victim)


def file_as(victim: Path, folder: Path) -> None:
    folder.write_text("mine")


@pytest.mark.parametrize("plant", [link_to, file_as])
@pytest.mark.parametrize("when", ["before", "after the folder was made", "after a file was named"])
def test_what_takes_the_place_of_a_folder_is_not_followed(
    when: str, plant: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.mkdir()
    (victim / "tools.jinja").write_text("mine")
    (victim / "old.jinja").write_text("mine")
    planted = []

    def swap() -> None:
        planted.append(True)
        if (out / scenario.FOLDER).exists():
            (out / scenario.FOLDER).rename(tmp_path / "aside")
        plant(victim, out / scenario.FOLDER)

    def late(call: Callable[..., object], *args: object) -> object:
        if not planted and when != "before":
            name = Path(str(args[0])).name if args else ""
            named = call.__name__ == "replace" and Path(str(args[-1])).name == "tools.jinja"
            if named if when == "after a file was named" else call.__name__ == "open" and name == scenario.FOLDER:
                swap()
        return call(*args)

    if when == "before":
        swap()
    with suppress(NotWritableError), open_scenario(out, late) as job:  # type: ignore[arg-type]
        scenario.fill(job)
        retire = [f"{scenario.FOLDER}/old.jinja"] if when == "before" else []
        targets = [out / name for name in NAMES]
        job.publish(targets, overwrite=True, check=scenario.check_structure, retire=lambda: retire)
    assert planted
    assert contents(victim) == {"tools.jinja": b"mine", "old.jinja": b"mine"}
    if plant is file_as:
        assert (out / scenario.FOLDER).read_text() == "mine"
    (out / scenario.FOLDER).unlink()
    build(out, overwrite=True)
    scenario.assert_complete(out)
