"""Every family against llama.cpp's converter: every tensor, every metadata key, on checkpoints from transformers.

Differences that are meant, and why:
- The order of keys and tensors: the plan decides it.
- Keys in OF_THE_PLAN: the plan adds them, they describe the artifact.
- The exponentials of state-space layers may differ in the last bit: quantkit takes them in float64 and rounds once.
- Norms of a Gemma checkpoint in f16: the reference adds 1 in f16, quantkit in f32 (no variant here is one).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from described import Folder, evaluate
from gguf import GGUFReader, GGUFValueType

from quantkit.families.describe_gguf import describe_gguf
from quantkit.families.model import Constant, Part, Rows
from quantkit.families.parts import Mapped
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo

pytestmark = [pytest.mark.reference, pytest.mark.slow]

OF_THE_PLAN = {"general.file_type", "general.quantization_version"}

KINDS = {
    "u32": GGUFValueType.UINT32, "i32": GGUFValueType.INT32, "f32": GGUFValueType.FLOAT32,
    "bool": GGUFValueType.BOOL, "string": GGUFValueType.STRING, "u8": GGUFValueType.UINT8,
}  # fmt: skip
NAMES = {kind: name for name, kind in KINDS.items()}


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All checkpoints, and beside each what the reference makes of it: NAME.f32.gguf and NAME.auto.gguf."""
    root = tmp_path_factory.mktemp("families")
    jobs = []
    for name, variant in checkpoints.VARIANTS.items():
        checkpoints.build(name, root)
        pre = checkpoints.PRE if variant.bpe else None
        jobs += [[str(root / name), str(root / f"{name}.{out}.gguf"), out, pre] for out in ("f32", "auto")]
    script = Path(checkpoints.__file__).with_name("convert_reference.py")
    done = subprocess.run([sys.executable, str(script)], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return root


def keys_of_the_file(reader: GGUFReader) -> dict[str, tuple[list[GGUFValueType], Any]]:
    return {
        key: (list(field.types), field.contents())
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.") and key not in OF_THE_PLAN
    }


def keys_of_the_description(metadata: tuple[KeyValue, ...]) -> dict[str, tuple[list[GGUFValueType], Any]]:
    assert len({kv.key for kv in metadata}) == len(metadata)
    return {kv.key: ([*([GGUFValueType.ARRAY] * kv.array), KINDS[kv.kind]], _stored(kv)) for kv in metadata}


def _stored(kv: KeyValue) -> object:
    if kv.array:
        assert isinstance(kv.value, tuple)
        return list(kv.value)
    return float(np.float32(kv.value)) if kv.kind == "f32" else kv.value


@pytest.mark.parametrize("name", checkpoints.VARIANTS)
def test_tensors_are_those_of_the_reference(converted: Path, name: str) -> None:
    folder = Folder(converted / name)
    arrays, model = folder.arrays(), folder.describe()
    reference = {str(t.name): t.data for t in GGUFReader(converted / f"{name}.f32.gguf").tensors}
    assert {t.name for t in model.tensors} == set(reference)
    for tensor in model.tensors:
        expected = reference[tensor.name]
        assert tensor.shape == expected.shape, tensor.name
        apart = np.abs(evaluate(tensor, arrays).view(np.int32).astype(np.int64) - expected.view(np.int32))
        same = apart <= (1 if any(is_exponential(part) for part in tensor.parts) else 0)
        assert same.all(), f"{tensor.name}: {same.mean():.1%} of the values are equal"


def is_exponential(part: Part) -> bool:
    return isinstance(part, Mapped) and part.what == "-exp"


@pytest.mark.parametrize("name", checkpoints.VARIANTS)
def test_every_element_of_the_source_has_one_place(converted: Path, name: str) -> None:
    """None is lost without being named, none is there twice: proved on the numbers of the elements."""
    arrays, model = Folder(converted / name).arrays(), Folder(converted / name).describe()
    numbered, first = {}, 0
    for source, (dtype, values) in arrays.items():
        numbered[source] = dtype, np.arange(first, first + values.size, dtype=np.float32).reshape(values.shape)
        first += values.size
    assert first < 1 << 24, "float32 has no more whole numbers"
    tensors = [replace(t, add=0.0, parts=tuple(map(unmapped, t.parts))) for t in model.tensors]
    made = [t for t in tensors if not any(isinstance(part, Constant) for part in t.parts)]
    found = np.concatenate([evaluate(tensor, numbered).reshape(-1) for tensor in made]).astype(np.int64)
    expected = [values for source, (_, values) in numbered.items() if source not in model.dropped]
    if "reranker" not in name.lower():  # of whose head two rows are used
        assert np.array_equal(np.sort(found), np.concatenate([v.reshape(-1) for v in expected]).astype(np.int64))


def unmapped(part: Part) -> Part:
    return unmapped(part.part) if isinstance(part, Mapped) else part


@pytest.mark.parametrize("name", checkpoints.VARIANTS)
def test_tensors_that_stay_f32_are_those_of_the_reference(converted: Path, name: str) -> None:
    types = {str(t.name): t.tensor_type.name for t in GGUFReader(converted / f"{name}.auto.gguf").tensors}
    auto = "BF16" if checkpoints.VARIANTS[name].dtype == "bfloat16" else "F16"
    for tensor in Folder(converted / name).describe().tensors:
        assert types[tensor.name] == ("F32" if tensor.stored == "f32" else auto), tensor.name


@pytest.mark.parametrize("name", checkpoints.VARIANTS)
def test_metadata_is_that_of_the_reference(converted: Path, name: str) -> None:
    expected = keys_of_the_file(GGUFReader(converted / f"{name}.f32.gguf"))
    pre = checkpoints.PRE if checkpoints.VARIANTS[name].bpe else None
    assert keys_of_the_description(Folder(converted / name).describe_with_tokenizer(pre).metadata) == expected


@pytest.mark.parametrize("name", checkpoints.VARIANTS)
def test_a_gguf_source_is_described_like_its_checkpoint(converted: Path, name: str) -> None:
    """Roles, layers, kept types and sizes of the reference's file equal those of the checkpoint it was made from."""
    reader = GGUFReader(converted / f"{name}.f32.gguf")
    infos = [TensorInfo(str(t.name), "F32", tuple(t.data.shape), int(t.n_bytes)) for t in reader.tensors]
    metadata = tuple(
        KeyValue(key, NAMES[types[-1]], value, array=types[0] is GGUFValueType.ARRAY)
        for key, (types, value) in keys_of_the_file(reader).items()
    )
    found = describe_gguf({info.name: info for info in infos}, metadata)
    expected = Folder(converted / name).describe()
    assert found.shape == expected.shape
    assert found.gguf_architecture == expected.gguf_architecture
    assert found.metadata == metadata
    parts = {t.name: t.parts for t in found.tensors}
    assert all(parts[info.name] == (Rows(info.name, 0, info.rows),) for info in infos)
    facts = [{t.name: (t.role, t.shape, t.layer, t.stored) for t in model.tensors} for model in (found, expected)]
    assert facts[0] == facts[1]
