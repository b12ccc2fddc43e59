"""Weights for tests: distributions that find rounding bugs, and the tensors of the bundled trained model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

TINY_MODEL = Path(__file__).parent / "data" / "docs-llama-tiny"


def _bf16_rounded(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """What a bfloat16 checkpoint holds: many equal magnitudes, exact ties."""
    return (rng.normal(0, 0.02, shape).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def _zero_sub_blocks(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Runs of 16 zeros inside blocks that are not zero, and whole blocks of 256 zeros."""
    w = rng.standard_normal(shape).astype(np.float32)
    groups = w.reshape(shape[0], -1, 16)
    groups[rng.random(groups.shape[:2]) < 0.4] = 0
    w[::3, :256] = 0
    return w


def _mixed_scales(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Every run of 16 weights has its own magnitude, from 1e-12 to 1e3."""
    magnitude = 10.0 ** rng.uniform(-12, 3, (shape[0], shape[1] // 16, 1))
    return (rng.standard_normal((*magnitude.shape[:2], 16)) * magnitude).reshape(shape).astype(np.float32)


def _halves(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Multiples of one half up to 127: with a scale of one, every second weight is a tie."""
    w = rng.integers(-254, 255, shape).astype(np.float32) / 2
    w[:, ::32] = 127
    return w


def _few_values(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Small integers: equal magnitudes of both signs, ties everywhere, zeros of both signs."""
    return rng.integers(-3, 4, shape).astype(np.float32) * rng.choice(np.float32([1, -1]), shape)


def _outlier(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """One weight in a block of 256 is a thousand times the others."""
    w = rng.standard_normal(shape).astype(np.float32)
    w[:, 77::256] *= 1000
    return w


def _power_edges(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """The largest of 32 weights lies a few float32 steps below or above a power of two."""
    w = rng.uniform(-1, 1, (shape[0], shape[1] // 32, 32)).astype(np.float32)
    power = np.float32(2) ** rng.integers(-14, 11, w.shape[:2]).astype(np.float32)
    steps = rng.integers(-4, 5, w.shape[:2])
    w *= power[:, :, None] / 2
    w[:, :, 5] = (power.view(np.int32) + steps).astype(np.int32).view(np.float32)
    return w.reshape(shape)


def _scaled(scale: float) -> Callable[[np.random.Generator, tuple[int, int]], F32]:
    return lambda rng, shape: (rng.standard_normal(shape) * scale).astype(np.float32)


CASES: dict[str, Callable[[np.random.Generator, tuple[int, int]], F32]] = {
    "gaussian": _scaled(1.0),
    "student-t": lambda rng, shape: rng.standard_t(2, shape).astype(np.float32),
    "bf16": _bf16_rounded,
    "constant": lambda rng, shape: np.full(shape, 0.7, np.float32),
    "negative-constant": lambda rng, shape: np.full(shape, -0.013, np.float32),
    "zeros": lambda rng, shape: np.zeros(shape, np.float32),
    "minus-zeros": lambda rng, shape: np.full(shape, -0.0, np.float32),
    "zero-sub-blocks": _zero_sub_blocks,
    "positive": lambda rng, shape: rng.random(shape, np.float32) + np.float32(0.1),
    "negative": lambda rng, shape: -rng.random(shape, np.float32),
    "halves": _halves,
    "few-values": _few_values,
    "outlier": _outlier,
    "mixed-scales": _mixed_scales,
    "power-edges": _power_edges,
    "1e-6": _scaled(1e-6),
    "1e-20": _scaled(1e-20),
    "smallest-normal": _scaled(1e-38),
    "denormal": _scaled(1e-40),
    "smallest-denormal": _scaled(3e-45),
    "1e4": _scaled(1e4),
    "1e30": _scaled(1e30),
}  # fmt: skip


def weights(case: str, shape: tuple[int, int] = (6, 1024), seed: int = 0) -> F32:
    """The weights called `case`, the same in every run."""
    return CASES[case](np.random.default_rng([seed, *case.encode()]), shape)


def importances(cols: int) -> dict[str, F32 | None]:
    """Importance weights per column: none, smooth, spread over decades, and with columns that were never active."""
    rng = np.random.default_rng(cols)
    spread = (10.0 ** rng.uniform(-6, 3, cols)).astype(np.float32)
    dead = np.where(rng.random(cols) < 0.3, 0, spread).astype(np.float32)
    dead[: min(cols, 256)] = 0
    return {"none": None, "smooth": rng.random(cols, np.float32) + np.float32(0.5), "spread": spread, "dead": dead}


def tiny_tensors() -> Iterator[tuple[str, F32]]:
    """Name and float32 values of every matrix of the bundled model, which is stored in bfloat16."""
    data = (TINY_MODEL / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__" or len(entry["shape"]) < 2:
            continue
        assert entry["dtype"] == "BF16", (name, entry)
        begin, end = entry["data_offsets"]
        patterns = np.frombuffer(data, np.uint16, (end - begin) // 2, start + begin)
        yield name, (patterns.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
