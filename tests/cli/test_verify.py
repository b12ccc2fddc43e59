"""quantkit verify: it finds what is wrong, and says where."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import checkpoints
import gguf
import pytest
from commands import TINY, quantkit


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("built") / "model.gguf"
    assert quantkit("convert", TINY, "--to", "q4_k_m", "-o", path).status == 0
    return path


@pytest.fixture
def artifact(built: Path, tmp_path: Path) -> Path:
    """A fresh copy of the artifact with its manifest."""
    for file in built.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / built.name


def checks(*arguments: object) -> tuple[int, dict[str, dict[str, object]]]:
    outcome = quantkit("verify", *arguments, "--json")
    body = json.loads(outcome.stdout.splitlines()[0])
    return outcome.status, {c["check"]: c for c in body.get("checks", [])}


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def test_a_good_file_passes_every_look(artifact: Path) -> None:
    status, found = checks(artifact, "--against", TINY, "--engine", "llama.cpp", "--say", "The module")
    assert status == 0
    assert {name: c["ok"] for name, c in found.items()} == {
        "files": True,
        "structure": True,
        "tokenizer": True,
        "numbers": True,
        "llama.cpp": True,
    }
    assert found["llama.cpp"]["text"].startswith("The module")
    worst = [w["snr_db"] for w in found["numbers"]["worst"]]
    assert worst == sorted(worst)
    assert 15 < worst[0] < 30


def test_gates_of_a_folder_of_files_are_refused_before_any_of_them_is_read(artifact: Path) -> None:
    flip(artifact, artifact.stat().st_size - 1)  # to be found by whoever reads it
    gates = ("--against", TINY, "--gate", "assistant", "--data", TINY.parent / "held-out.jsonl")
    outcome = quantkit("verify", artifact.parent, *gates, "--json")
    assert outcome.status == 2, outcome.stdout
    error = outcome.json["error"]
    assert "--gate measures one artifact" in error["message"]
    assert str(artifact) in error["hint"]


def test_without_a_source_it_says_what_it_did_not_check(artifact: Path) -> None:
    status, found = checks(artifact)
    assert status == 0
    assert [found[n]["ok"] for n in ("files", "structure", "tokenizer", "numbers")] == [True, True, None, None]


def test_without_a_manifest_the_file_is_still_read(artifact: Path) -> None:
    artifact.with_name("model.manifest.json").unlink()
    status, found = checks(artifact, "--against", TINY)
    assert status == 0
    assert found["files"]["ok"] is None


def test_every_flipped_bit_is_found_and_the_tensor_named(artifact: Path, built: Path) -> None:
    manifest = json.loads(artifact.with_name("model.manifest.json").read_text())
    rng = random.Random(5)
    for tensor in rng.sample(manifest["tensors"], 6):
        offset = tensor["offset"] + rng.randrange(tensor["bytes"])
        flip(artifact, offset, rng.randrange(8))
        outcome = quantkit("verify", artifact)
        assert outcome.status == 7
        assert tensor["name"] in outcome.stderr
        shutil.copy(built, artifact)


def test_flipped_header_bits_are_found(artifact: Path, built: Path) -> None:
    header = json.loads(artifact.with_name("model.manifest.json").read_text())["size"]["header_bytes"]
    rng = random.Random(6)
    for _ in range(40):
        flip(artifact, rng.randrange(header), rng.randrange(8))
        assert quantkit("verify", artifact).status in {3, 7}
        shutil.copy(built, artifact)


def test_a_truncated_or_grown_file_is_found(artifact: Path, built: Path) -> None:
    for size in (100, 50_000, artifact.stat().st_size - 1):
        artifact.write_bytes(built.read_bytes()[:size])
        assert quantkit("verify", artifact).status in {3, 7}
    artifact.write_bytes(built.read_bytes() + b"\0" * 32)
    assert quantkit("verify", artifact).status == 7
    artifact.with_name("model.manifest.json").unlink()
    assert quantkit("verify", artifact).status in {3, 7}


def test_a_manifest_that_was_changed_is_found(artifact: Path) -> None:
    path = artifact.with_name("model.manifest.json")
    body = json.loads(path.read_text())
    body["tensors"][3]["type"] = "q8_0"
    path.write_text(json.dumps(body))
    assert quantkit("verify", artifact).status == 7
    path.write_text("{}")
    assert quantkit("verify", artifact).status == 3


def test_another_source_is_found(artifact: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(TINY, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    start = int.from_bytes(weights[:8], "little") + 8
    rng = random.Random(1)
    middle = list(weights[start:])
    weights[start:] = bytes(middle[2 * 4096 :] + middle[: 2 * 4096])
    (other / "model.safetensors").write_bytes(weights)
    status, found = checks(artifact, "--against", other)
    assert status == 7, rng
    assert found["numbers"]["ok"] is False


@pytest.mark.parametrize("swap", ["token", "score"])
def test_a_swapped_tokenizer_entry_is_found(swap: str, artifact: Path) -> None:
    artifact.with_name("model.manifest.json").unlink()
    field = gguf.GGUFReader(artifact).fields[f"tokenizer.ggml.{swap}s"]
    first, second = (field.parts[field.data[i]] for i in (400, 700))
    data = bytearray(artifact.read_bytes())
    if swap == "score":
        for value in (first, second):
            assert data.count(value.tobytes()) == 1
        a, b = data.index(first.tobytes()), data.index(second.tobytes())
        data[a : a + 4], data[b : b + 4] = data[b : b + 4], data[a : a + 4]
    else:
        a = data.index(first.tobytes())
        data[a : a + len(first)] = bytes(reversed(first.tobytes()))
    artifact.write_bytes(data)
    status, found = checks(artifact, "--against", TINY)
    assert status == 7
    assert found["tokenizer"]["ok"] is False


def test_permuted_rows_are_found(artifact: Path) -> None:
    artifact.with_name("model.manifest.json").unlink()
    tensor = next(t for t in gguf.GGUFReader(artifact).tensors if t.name == "blk.1.attn_q.weight")
    data = bytearray(artifact.read_bytes())
    row = tensor.n_bytes // 256
    start = tensor.data_offset
    rows = [data[start + i * row : start + (i + 1) * row] for i in range(256)]
    data[start : start + tensor.n_bytes] = b"".join(rows[::2] + rows[1::2])
    artifact.write_bytes(data)
    status, found = checks(artifact, "--against", TINY)
    assert status == 7
    assert "blk.1.attn_q.weight" in str(found["numbers"]["detail"])


def test_values_that_are_no_numbers_are_found(artifact: Path) -> None:
    """A scale of NaN: no ratio is below any floor, and the tensor is no tensor."""
    artifact.with_name("model.manifest.json").unlink()
    tensor = next(t for t in gguf.GGUFReader(artifact).tensors if t.name == "blk.1.attn_q.weight")
    data = bytearray(artifact.read_bytes())
    data[int(tensor.data_offset) : int(tensor.data_offset) + 2] = b"\x00\x7e"
    artifact.write_bytes(data)
    status, found = checks(artifact, "--against", TINY)
    assert status == 7
    assert "1 tensor is far from the source, worst blk.1.attn_q.weight" in str(found["numbers"]["detail"])
    assert found["numbers"]["worst"][0] == {"tensor": "blk.1.attn_q.weight", "type": "q4_k", "snr_db": None}  # type: ignore[index]
    assert "no number" in quantkit("verify", artifact, "--against", TINY).stdout


def test_a_pre_tokenizer_that_was_named_is_asked_for_again(tmp_path: Path) -> None:
    source = checkpoints.build("qwen3", tmp_path)
    made = quantkit("convert", source, "--to", "q8_0", "--pre", checkpoints.PRE, "-o", tmp_path / "out")
    assert made.status == 0, made.stderr
    again = ("verify", made.stdout.strip(), "--against", source)
    unnamed = quantkit(*again)
    assert (unnamed.status, "give the --pre that convert was given" in unnamed.stderr) == (7, True), unnamed.stderr
    assert quantkit(*again, "--pre", checkpoints.PRE).status == 0
