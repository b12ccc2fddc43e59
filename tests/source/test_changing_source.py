"""A source that is rewritten while it is read, or between two runs, with its times put back."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import commands
import llama_folder
import numpy as np
import pytest

import quantkit
from quantkit.blocksums import LEAST_BYTES, BlockSums
from quantkit.errors import InputError, InterruptedRunError, RecipeError
from quantkit.events import Event, StageStarted, TensorProgress, Warned
from quantkit.families.model import Model
from quantkit.filling.hashing import SourceHasher
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.plan.describe import describe_source
from quantkit.source import SourceFile, open_source
from quantkit.tensors import U8
from quantkit.untrusted import InputFile, open_input

WEIGHTS = "model.safetensors"


def rewrite(path: Path, *, at: int = -40) -> None:
    """Change a few weights in place; size and time of modification stay."""
    before = path.stat()
    raw = bytearray(path.read_bytes())
    raw[at : at + 8] = bytes(8)
    with path.open("r+b") as file:
        file.write(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = llama_folder.write(tmp_path / "model")
    time.sleep(0.05)  # times of files come in ticks
    return folder


@pytest.mark.parametrize("recipe", ["q8_0", "bf16", "w8a16"])
@pytest.mark.parametrize("when", ["at the start", "after a tensor", "at the end"])
def test_a_change_during_a_run_is_noticed(when: str, recipe: str, model: Path, tmp_path: Path) -> None:
    seen: list[Event] = []

    def hear(event: Event) -> None:
        seen.append(event)
        progress = [e for e in seen if isinstance(e, TensorProgress)]
        at = {
            "at the start": isinstance(event, StageStarted) and event.stage == "quantize",
            "after a tensor": len(progress) == 1 and event is progress[0],
            "at the end": len(progress) == 3 and event is progress[2],
        }[when]
        if at:
            rewrite(model / WEIGHTS)

    output = quantkit.Output(out=tmp_path / "out", verify=False)
    with pytest.raises(InputError, match="changed while it was read"):
        quantkit.convert(quantkit.Request(str(model), recipes=(recipe,)), output, emit=hear)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_change_between_two_runs_is_noticed(model: Path, tmp_path: Path) -> None:
    asked = iter([False] * 6 + [True] * 99)
    output = quantkit.Output(out=tmp_path / "a.gguf", verify=False)
    request = quantkit.Request(str(model), recipes=("q8_0",))
    with pytest.raises(InterruptedRunError):
        quantkit.convert(request, output, stop=lambda: next(asked))
    data = len((model / WEIGHTS).read_bytes())
    rewrite(model / WEIGHTS, at=data // 2)
    quantkit.convert(request, output)
    quantkit.convert(request, quantkit.Output(out=tmp_path / "b.gguf", verify=False))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_what_was_hashed_is_what_was_quantized(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no time tells: files in memory maps, clocks that stand, file systems that keep no time of change."""
    monkeypatch.setattr("quantkit.untrusted.InputFile.unchanged", lambda self: None)
    heard: list[Event] = []

    def hear(event: Event) -> None:
        if isinstance(event, TensorProgress) and not heard:
            heard.append(event)
            time.sleep(0.3)  # the hash has read the whole file by now, the quantizer not its last tensors
            rewrite(model / WEIGHTS)

    output = quantkit.Output(out=tmp_path / "out", verify=False, threads=1)
    with pytest.raises(InputError, match="read before are others now"):
        quantkit.convert(quantkit.Request(str(model), recipes=("q8_0",)), output, emit=hear)


def test_the_source_is_hashed_while_the_plan_is_made(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a change after that is noticed, whatever times of files say."""
    monkeypatch.setattr("quantkit.untrusted.InputFile.unchanged", lambda self: None)
    hashed, whole = threading.Event(), SourceHasher._hash

    def hashing(self: SourceHasher, file: SourceFile) -> str:
        found = whole(self, file)
        hashed.set()
        return found

    def described(*given: Any) -> Model:
        assert hashed.wait(20)
        rewrite(model / WEIGHTS)
        return describe_source(*given)

    monkeypatch.setattr(SourceHasher, "_hash", hashing)
    monkeypatch.setattr("quantkit.pipeline.prepare.describe_source", described)
    with pytest.raises(InputError, match="read before are others now"):
        quantkit.convert(quantkit.Request(str(model), recipes=("bf16",)), quantkit.Output(out=tmp_path / "out"))


def test_nothing_is_hashed_for_a_plan_that_fails(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def described(*given: Any) -> Model:
        raise InputError("no model")

    monkeypatch.setattr("quantkit.pipeline.prepare.describe_source", described)
    with pytest.raises(InputError, match="no model"):
        quantkit.convert(quantkit.Request(str(model), recipes=("bf16",)))
    assert not hashing_threads()


@pytest.mark.parametrize("code", ["needs-calibration", "refused", ""])
@pytest.mark.parametrize("make", [quantkit.convert, quantkit.quantize])
def test_nothing_is_hashed_once_a_listener_or_a_lack_of_text_has_ended_it(
    make: Callable[..., object], code: str, model: Path, tmp_path: Path
) -> None:
    """Of two recipes the one that wants text is told of, of one alone it is an error."""

    def hear(event: Event) -> None:
        if isinstance(event, Warned) and event.code == code:
            raise InterruptedError(code)

    request = quantkit.Request(str(model), recipes=("w4a16", "bf16") if code else ("w4a16",))
    place = quantkit.Output(out=tmp_path / "out") if make is quantkit.convert else tmp_path / "out"
    with pytest.raises(InterruptedError if code else RecipeError, match=code or "needs calibration text"):
        make(request, place, emit=hear)
    assert not hashing_threads()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux lists them")
@pytest.mark.parametrize("arguments", [["--to", "q4_k_n"], ["--to", "q8_0", "--threads", "1", "--tp", "3"], []])
def test_a_hash_that_has_begun_ends_with_what_is_refused(
    arguments: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the command line it begins before the request is looked at."""
    begun: list[int] = []
    whole = SourceHasher._hash_opened
    monkeypatch.setattr(SourceHasher, "_hash_opened", lambda self, file: (begun.append(1), whole(self, file))[1])
    (model / "config.json").write_text("{}" if not arguments else (model / "config.json").read_text())
    before = descriptors()
    refused = commands.quantkit("convert", model, *arguments, "--out", tmp_path / "out", "--no-verify")
    assert refused.status not in (0, 1), refused.stderr
    assert begun
    assert not hashing_threads()
    assert descriptors() == before


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("change", ["none", "rewritten", "replaced", "moved behind an index"])
def test_hashes_are_of_the_source_whatever_was_begun_with(change: str, model: Path) -> None:
    with quantkit.hash_ahead(str(model)) as hasher:
        [(ahead, digest)] = hasher._ahead.values()
        assert digest.result() == sha256(model / WEIGHTS)
        if change == "rewritten":
            rewrite(model / WEIGHTS)
        elif change == "replaced":
            (model / "other").write_bytes((model / WEIGHTS).read_bytes())
            rewrite(model / "other")
            (model / "other").replace(model / WEIGHTS)
        elif change == "moved behind an index":
            (model / WEIGHTS).rename(model / "weights.safetensors")
            rewrite(model / "weights.safetensors")
            names = read_safetensors(model / "weights.safetensors").tensors
            (model / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {name: "weights.safetensors" for name in names}})
            )
        with closing(open_source(str(model))) as source:
            hasher.go_on(source.files())
            assert hasher.result() == {file.name: sha256(model / file.name) for file in source.files()}
            shared = any(file.opened.watched.sums is ahead.watched.sums for file in source.files() if file.opened)
            assert shared == (change == "none")


def test_a_change_after_the_hash_has_begun_is_noticed(model: Path) -> None:
    """What was read before the source was open counts as read, whatever times of files say."""
    with quantkit.hash_ahead(str(model)) as hasher, closing(open_source(str(model))) as source:
        [(_, digest)] = hasher._ahead.values()
        hasher.go_on(source.files())
        digest.result()
        rewrite(model / WEIGHTS)
        with pytest.raises(InputError, match="read before are others now"):
            for name, info in source.tensors().items():
                source.ref(name).read(0, info.rows)


@pytest.mark.parametrize(
    "kind", ["nowhere", "a file", "a pipe", "a link", "a pointer", "nothing", "~nobody", "hf://a/b"]
)
def test_nothing_is_begun_with_where_there_is_nothing_to_begin_with(kind: str, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    weights, said = folder / WEIGHTS, {"nowhere": str(tmp_path / "not"), "a file": str(model / WEIGHTS)}
    if kind == "a pipe":
        os.mkfifo(weights)
    elif kind == "a link":
        weights.symlink_to(model / WEIGHTS)
    elif kind == "a pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12\n")
    with quantkit.hash_ahead(said.get(kind, kind if kind[0] in "~h" else str(folder))) as hasher:
        assert not hasher._ahead


@pytest.mark.parametrize("source", ["model", "~nobody/model", "hf://org/model", "", "a\0b", "a\ud800"])
def test_nothing_is_begun_with_in_a_folder_that_is_gone_or_under_no_name(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with quantkit.hash_ahead(source) as hasher:
        assert not hasher._ahead


def test_an_early_end_reads_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files wait for their turn."""
    files, read, go = [], [], threading.Event()
    for number in range(20):
        (tmp_path / str(number)).write_bytes(bytes(100))
        opened = open_input(tmp_path / str(number))
        files.append(SourceFile(str(number), str(tmp_path / str(number)), 100, weights=True, opened=opened))
    whole = InputFile.read_apart

    def reading(self: InputFile, start: int, stop: int) -> U8:
        read.append(self.path.name)
        go.wait(10)
        return whole(self, start, stop)

    monkeypatch.setattr(InputFile, "read_apart", reading)
    hasher = SourceHasher(files)
    closing_thread = threading.Thread(target=hasher.close)
    while not read:
        time.sleep(0.01)
    closing_thread.start()
    while not hasher._stopped:
        time.sleep(0.01)
    go.set()
    closing_thread.join()
    assert read == ["0"]
    for file in files:
        file.opened.close()


def hashing_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("hash")]


@pytest.mark.parametrize("nbytes", [1, LEAST_BYTES - 1, LEAST_BYTES, 3 * LEAST_BYTES + 5])
def test_every_byte_that_is_read_twice_is_compared(nbytes: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    dice = np.random.default_rng(1)
    data = dice.integers(0, 256, nbytes, np.uint8)
    path.write_bytes(data.tobytes())
    file = open_input(path)
    with file.watch():
        for _ in range(20):
            start, stop = sorted(int(n) for n in dice.integers(0, nbytes + 1, 2))
            assert file.read(start, stop).tobytes() == data[start:stop].tobytes()
        file.read(0, nbytes)
        for at in {0, nbytes // 2, nbytes - 1}:
            changed = bytearray(data.tobytes())
            changed[at] ^= 1
            path.write_bytes(changed)
            with pytest.raises(InputError, match="others now"):
                file.read(at, at + 1)
            path.write_bytes(data.tobytes())
            assert file.read(at, at + 1)[0] == data[at]
    path.write_bytes(bytes(nbytes))
    assert file.read(0, nbytes).tobytes() == bytes(nbytes), "and not after the watch"
    file.close()


def test_the_sums_of_any_file_fit_into_memory() -> None:
    sums = BlockSums(10**13)
    assert sums._sums.nbytes <= 4 << 20
    assert sums.around(5, 6, 10**13) == (0, sums.block)


def summed(data: bytes, keys: np.ndarray) -> int:
    """The sum of a block, word by word: each under its key, and what lies half a word further under another."""
    padded = data.ljust(8 * keys.shape[1], b"\0") + bytes(4)
    found = 0
    for at, (key, other) in enumerate(keys.T.tolist()):
        found += key * int.from_bytes(padded[8 * at : 8 * at + 8], "little")
        found += other * int.from_bytes(padded[8 * at + 4 : 8 * at + 12], "little")
    return found % 2**64 or 1


@pytest.mark.parametrize("nbytes", [1, 7, LEAST_BYTES, 17 * LEAST_BYTES, 33 * LEAST_BYTES + 5])
def test_every_block_has_its_own_sum(nbytes: int) -> None:
    sums, data = BlockSums(nbytes), np.random.default_rng(nbytes).bytes(nbytes)
    assert sums.agree(0, np.frombuffer(data, np.uint8).copy())
    blocks = [data[at : at + LEAST_BYTES] for at in range(0, nbytes, LEAST_BYTES)]
    assert sums._sums.tolist() == [summed(block, sums._keys) for block in blocks]


def swapped(block: np.ndarray, step: int) -> np.ndarray:
    return np.concatenate([block[step : 2 * step], block[:step], block[2 * step :]])


def signs(block: np.ndarray) -> np.ndarray:
    """The top bits of two words turned around: what sums with odd factors do not see."""
    changed = block.copy()
    changed[[7, 15]] ^= 0x80
    return changed


def high(block: np.ndarray) -> np.ndarray:
    """The top bit of one word turned around: what sums with even factors do not see."""
    changed = block.copy()
    changed[8 * 5 + 7] ^= 0x80
    return changed


def last(block: np.ndarray) -> np.ndarray:
    """The last byte changed, which lies in no word that begins half a word later."""
    changed = block.copy()
    changed[-1] ^= 1
    return changed


@pytest.mark.parametrize(
    "change", [lambda b: swapped(b, 4), lambda b: swapped(b, 8), lambda b: swapped(b, 4096), signs, high, last]
)
def test_what_plain_sums_do_not_see_is_a_change(change) -> None:
    block = np.random.default_rng(1).integers(0, 256, LEAST_BYTES, dtype=np.uint8)
    for at in (0, LEAST_BYTES):  # in a whole block, and in the last one, which is short
        sums = BlockSums(2 * LEAST_BYTES - 1)
        part = block if at == 0 else block[:-1]
        assert sums.agree(at, part)
        assert sums.agree(at, part.copy())
        assert not sums.agree(at, change(part))
