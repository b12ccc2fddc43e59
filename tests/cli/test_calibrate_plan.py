"""What a calibration is expected to need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checkpoints import build
from commands import TINY

from quantkit.calibration.inputs import scratch_for
from quantkit.calibration.text.asked import CalibrationSpec
from quantkit.families.known import family_named
from quantkit.machine import memory_limit_bytes
from quantkit.pipeline.calibrate_plan import (
    BASE_BYTES,
    CalibratePlan,
    CalibrateRequest,
    plan_calibration,
    shortages,
    statistics_bytes,
)
from quantkit.source import open_source
from quantkit.tensors import TensorInfo


@pytest.fixture
def plan(tmp_path: Path) -> CalibratePlan:
    return planned(tmp_path)


def planned(folder: Path, name: str = "x.safetensors", **options: object) -> CalibratePlan:
    data = folder / "data.txt"
    data.write_text("Some words that are of no matter. " * 200)
    spec = CalibrationSpec((str(data),), 16, 32, **options)
    return plan_calibration(CalibrateRequest(str(TINY), spec, folder / "out" / name))


def test_shortages_are_warned_of(plan: CalibratePlan) -> None:
    memory, disk = plan.memory_bytes, plan.disk_bytes
    assert list(shortages(plan, memory, disk)) == []
    assert [code for code, _ in shortages(plan, memory - 1, disk - 1)] == ["QK-CAL-009", "QK-CAL-010"]


def test_activations_go_where_they_are_told(tmp_path: Path) -> None:
    memory, disk, auto = (planned(tmp_path, activations=mode) for mode in ("memory", "disk", "auto"))
    assert [p.activations_on_disk for p in (memory, disk, auto)] == [False, True, False]
    assert memory.memory_bytes - disk.memory_bytes == disk.disk_bytes - memory.disk_bytes == 16 * 32 * 256 * 4
    limit = memory_limit_bytes()
    assert scratch_for(auto.request.spec, tmp_path).memory_bytes == round(limit / 4)
    assert scratch_for(memory.request.spec, tmp_path).folder is None


def test_an_imatrix_takes_less(plan: CalibratePlan, tmp_path: Path) -> None:
    imatrix = planned(tmp_path, "x.gguf")
    assert BASE_BYTES < imatrix.memory_bytes < plan.memory_bytes
    assert imatrix.disk_bytes < plan.disk_bytes / 50
    assert imatrix.digest != plan.digest
    assert planned(tmp_path, "y.safetensors").digest == plan.digest
    assert planned(tmp_path, "y.safetensors").job_digest != plan.job_digest


def test_matrices_that_read_the_same_count_once() -> None:
    names = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    shapes = dict.fromkeys(names, (8, 300)) | {"self_attn.o_proj": (300, 64), "input_layernorm": (300,)}
    tensors = {
        f"model.layers.{layer}.{name}.weight": TensorInfo(name, "BF16", shape, 0)
        for layer in range(2)
        for name, shape in shapes.items()
    }
    moments = 20 * (300 + 300 + 300 + 64)
    found = statistics_bytes(family_named("llama"), tensors, hessian=False)
    assert found == {f"model.layers.{layer}.": moments for layer in range(2)}


def test_every_warning_is_in_the_docs() -> None:
    root = Path(__file__).parent.parent.parent
    sources = "".join(path.read_text() for path in (root / "quantkit").rglob("*.py"))
    in_code = set(re.findall(r'"(QK-CAL-\d+)"', sources))
    assert in_code == set(re.findall(r"QK-CAL-\d+", (root / "docs" / "cli.md").read_text()))
    assert len(in_code) == 11


def test_every_expert_counts(tmp_path: Path) -> None:
    tensors = open_source(str(build("mixtral-4x1M", tmp_path))).tensors()
    found = statistics_bytes(family_named("mixtral"), tensors, hessian=False)
    hidden, inner = 64, 96
    attention, router, expert = 2 * hidden, hidden, hidden + inner
    assert [*found.values()] == 2 * [20 * (attention + router + 4 * expert)]
