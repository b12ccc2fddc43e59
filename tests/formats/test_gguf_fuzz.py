"""Damaged GGUF files: only an InputError may come out, quickly, and nothing is accepted that ggml refuses."""

from __future__ import annotations

import re
from pathlib import Path

import gguf_bytes as g
import pytest
from machine_speed import within
from mutants import mutants
from oracles import gguf_files

from quantkit.errors import InputError
from quantkit.formats.gguf.file import TensorEntry, encode_header, read_gguf, read_tensor_bytes
from quantkit.formats.gguf.types import KIND_NUMBERS
from quantkit.metadata import KeyValue

SEEDS = {
    "model": (
        [
            KeyValue("general.architecture", "string", "llama"),
            KeyValue("general.alignment", "u32", 32),
            KeyValue("llama.rope.freq_base", "f32", 10000.0),
            KeyValue("tokens", "string", ["a", "bc", "▁d"], array=True),
            KeyValue("scores", "f32", [0.5, 1.0, 2.0], array=True),
            KeyValue("flags", "bool", [True, False], array=True),
        ],
        [
            TensorEntry("token_embd.weight", (3, 32), 8, 102),
            TensorEntry("blk.0.ffn_up_exps.weight", (2, 3, 4), 1, 48),
            TensorEntry("output_norm.weight", (8,), 0, 32),
        ],
    ),
    "tensors": ([], [TensorEntry(f"t{i}", (2, 4), 0, 32) for i in range(4)]),
    "metadata": ([KeyValue(f"k{i}", kind, 1) for i, kind in enumerate(KIND_NUMBERS) if kind != "string"], []),
}

# Why this reader refuses files that ggml accepts: see the docstring of quantkit.formats.gguf.reader. ggml looks
# for the data of tensors only when it loads them.
STRICTER = re.compile(
    r"not UTF-8|names must be printable|power of two up to 65,536|ends at byte|at most [\d,]+ are (read|allowed)"
    r"|version 2 and"
)


def seed_file(name: str) -> tuple[bytes, int]:
    header = encode_header(*SEEDS[name])
    return header.data.ljust(header.nbytes, b"\7"), len(header.data)


@pytest.mark.parametrize("name", SEEDS)
def test_damage_gives_an_input_error_or_a_consistent_file(name: str, tmp_path: Path) -> None:
    raw, head = seed_file(name)
    path = tmp_path / "x.gguf"
    accepted = 0
    for mutant in mutants(raw, 4000, seed=len(name), head=head):
        path.write_bytes(mutant)
        with within(2):
            try:
                file = read_gguf(path)
            except InputError as error:
                assert error.hint
                assert error.message.isprintable()
                assert len(error.message) < 1000
            else:
                accepted += 1
                for tensor in file.tensors:
                    assert read_tensor_bytes(file, tensor).size == tensor.nbytes
    assert 0 < accepted < 3000  # the mutator neither destroys nor spares everything


@pytest.mark.parametrize("name", SEEDS)
def test_accepts_no_more_than_ggml(name: str, tmp_path: Path) -> None:
    raw, head = seed_file(name)
    paths = []
    for index, mutant in enumerate(mutants(raw, 1500, seed=97, head=head)):
        paths.append(tmp_path / f"{index}.gguf")
        paths[-1].write_bytes(mutant)
    agreed = 0
    for path, theirs in zip(paths, gguf_files.read_apart(paths), strict=True):
        try:
            file = read_gguf(path)
        except InputError as error:
            assert theirs is None or STRICTER.search(error.message), error.message
            continue
        agreed += 1
        assert isinstance(theirs, gguf_files.Contents), (path, theirs)
        assert theirs.tensors == tuple((t.name, t.type_id, t.offset, t.nbytes) for t in file.tensors)
        assert theirs.keys == tuple((e.key, g.ARRAY if e.array else KIND_NUMBERS[e.kind]) for e in file.metadata)
    assert agreed > 20
