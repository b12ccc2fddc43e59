"""Statistics of blocks in files: the same whole, whatever was there before and however often a run was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import build
from walks import TINY, model_of, same_bits, statistics_of, windows

from quantkit.calibration.coverage import check_coverage
from quantkit.calibration.saved import block_files, moments_of, opened, save_statistics
from quantkit.calibration.statistics.file import encode_files, encode_statistics
from quantkit.calibration.statistics.sums import Statistics
from quantkit.errors import InputError, InterruptedRunError
from quantkit.events import TensorProgress


def encoded(folder: Path, checkpoint: Path, *, hessian: bool = True, stop=lambda: False) -> bytes:
    model, samples = model_of(checkpoint), windows(400, count=5, seqlen=40)
    files = block_files(model, samples, folder)
    save_statistics(model, samples, files, hessian=hessian, stop=stop)
    with opened(files) as found:
        return b"".join(encode_files(found).pieces)


def whole(checkpoint: Path, *, hessian: bool = True) -> Statistics:
    return statistics_of(model_of(checkpoint), windows(400, count=5, seqlen=40), hessian=hessian)


@pytest.mark.parametrize("name", ["tiny", "mixtral-4x1M"])
@pytest.mark.parametrize("hessian", [True, False])
def test_the_files_together_are_the_file_of_the_whole(name: str, hessian: bool, tmp_path: Path) -> None:
    checkpoint = TINY if name == "tiny" else build(name, tmp_path)
    expected = b"".join(encode_statistics(whole(checkpoint, hessian=hessian)).pieces)
    assert encoded(tmp_path / "blocks", checkpoint, hessian=hessian) == expected


def test_finished_blocks_are_not_measured_again(tmp_path: Path) -> None:
    expected = encoded(tmp_path / "whole", TINY)
    for after in range(4):
        folder = tmp_path / f"stopped-{after}"
        folder.mkdir()
        asked = iter(range(100))
        with pytest.raises(InterruptedRunError, match=f"{after} of 5 blocks finished") as caught:
            encoded(folder, TINY, stop=lambda asked=asked, after=after: next(asked) == after)
        assert "same command" in (caught.value.hint or "")
        kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert len(kept) == after
        assert encoded(folder, TINY) == expected
        assert all((folder / name).stat().st_mtime_ns == time for name, time in kept.items())


def test_when_all_is_there_nothing_runs(tmp_path: Path) -> None:
    model, samples = model_of(TINY), windows(400, count=2, seqlen=10)
    files = block_files(model, samples, tmp_path)
    heard: list[object] = []
    save_statistics(model, samples, files, heard.append, hessian=False)
    assert sum(isinstance(event, TensorProgress) for event in heard) == 5
    save_statistics(model, samples, files, heard.append, hessian=False)
    assert sum(isinstance(event, TensorProgress) for event in heard) == 5
    tensors = set(model.checkpoint.tensors())
    assert set(files.finished()) == set(range(5))
    assert all(names and names <= tensors for names in files.finished().values())


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "other samples", "gone", "not statistics"])
def test_a_damaged_or_foreign_file_is_made_again(damage: str, tmp_path: Path) -> None:
    expected = encoded(tmp_path / "whole", TINY)
    folder = tmp_path / "blocks"
    encoded(folder, TINY)
    path = folder / "0002.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "gone":
        path.unlink()
    elif damage == "not statistics":
        path.write_bytes((TINY / "model.safetensors").read_bytes())
    else:
        model, samples = model_of(TINY), windows(400, count=4, seqlen=40)
        other = block_files(model, samples, tmp_path / "other")
        save_statistics(model, samples, other, hessian=True)
        path.write_bytes(other.path(2).read_bytes())
    assert encoded(folder, TINY) == expected


def test_a_file_that_vanishes_before_the_end_is_named(tmp_path: Path) -> None:
    model, samples = model_of(TINY), windows(400, count=2, seqlen=10)
    files = block_files(model, samples, tmp_path)
    save_statistics(model, samples, files, hessian=False)
    files.path(3).unlink()
    with pytest.raises(InputError, match=r"0003.safetensors is gone or damaged"), opened(files):
        pass


def test_moments_are_those_of_the_whole(tmp_path: Path) -> None:
    checkpoint = build("mixtral-4x1M", tmp_path)
    model, samples = model_of(checkpoint), windows(400, count=5, seqlen=40)
    files = block_files(model, samples, tmp_path / "blocks")
    save_statistics(model, samples, files, hessian=True)
    with opened(files) as found:
        moments = moments_of(found)
    assert same_bits(moments, whole(checkpoint, hessian=False))
    with_hessians, without = check_coverage(whole(checkpoint)), check_coverage(moments)
    assert check_coverage(moments, hessian=True) == with_hessians != without


def test_blocks_of_somebody_elses_making_are_measured_again(tmp_path: Path) -> None:
    """A file of statistics that is whole, of the right model and text, and not what this user's run has written."""
    folder, again = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    again.mkdir()
    whole = encoded(folder, TINY)
    for path in folder.glob("*.safetensors"):
        raw = bytearray(path.read_bytes())
        raw[-4:] = b"\0\0\0\x40"  # another number, and a whole file
        path.write_bytes(raw)
    assert encoded(folder, TINY) == whole
