"""Checkpoint folders whose linear layers are stored quantized, in every container and variant that quantkit writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import UnsupportedError
from quantkit.formats.containers import modelopt
from quantkit.formats.containers.awq import AWQLayout
from quantkit.formats.containers.base import Layout, Written
from quantkit.formats.containers.bitsandbytes import BitsandbytesLayout
from quantkit.formats.containers.compressed_tensors_layout import CompressedLayout
from quantkit.formats.containers.fp8 import FP8Layout
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.mlx import MLXLayout
from quantkit.formats.containers.packed import Entry, PackedTensor, packed
from quantkit.formats.containers.table import writing
from quantkit.formats.safetensors.writer import encode_header
from quantkit.qtypes.schemes.affine import Affine
from quantkit.qtypes.schemes.base import Quantized, nearest
from quantkit.qtypes.schemes.codebook import Codebook
from quantkit.qtypes.schemes.integers import Integers, RowInt8
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import Float8
from quantkit.source import open_source

MODEL = Path(__file__).parent / "data" / "docs-llama-tiny"
WEIGHTS = "model.safetensors"
CONTAINERS = {
    GPTQLayout: "gptq", AWQLayout: "awq", CompressedLayout: "compressed-tensors", BitsandbytesLayout: "bitsandbytes",
    FP8Layout: "fp8", MLXLayout: "mlx",
}  # fmt: skip
LINEAR = ("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight")


@dataclass(frozen=True)
class Variant:
    """A layout, and whether the file says so the way ModelOpt does."""

    layout: Layout
    modelopt: bool = False


def _integers(bits: int, group: int, symmetry: str, version: int = 2) -> Integers:
    return Integers(bits, group, symmetry, lowest_zero=2 - version)  # type: ignore[arg-type]


VARIANTS: dict[str, Variant] = {
    **{
        f"gptq-v{version}-{bits}-{symmetry}-g{group}{'-act' if act else ''}": Variant(
            GPTQLayout(_integers(bits, group, symmetry, version), version, act)  # type: ignore[arg-type]
        )
        for version in (1, 2)
        for bits in (2, 3, 4, 8)
        for symmetry, group, act in (("symmetric", 32, False), ("asymmetric", -1, False), ("asymmetric", 64, True))
    },
    **{f"awq-{symmetry}-g{group}": Variant(AWQLayout(_integers(4, group, symmetry)))
       for symmetry in ("symmetric", "asymmetric") for group in (32, -1)},
    **{f"packed-{bits}-{symmetry}-g{group}": Variant(CompressedLayout(Integers(bits, group, symmetry, "BF16")))
       for bits in (2, 3, 4, 8) for symmetry in ("symmetric", "asymmetric") for group in (32, -1)},
    **{f"int8-{act}": Variant(CompressedLayout(Integers(8, -1, scale_dtype="BF16"), act))
       for act in ("dynamic", "static")},
    **{f"fp8-{strategy}-{act}": Variant(CompressedLayout(Float8(strategy, "BF16"), act))
       for strategy in ("tensor", "channel", "block") for act in ("none", "dynamic", "static")},
    "nvfp4": Variant(CompressedLayout(NVFP4())),
    "mxfp4": Variant(CompressedLayout(MXFP4())),
    **{f"{table}{'-nested' if double else ''}-{block}": Variant(BitsandbytesLayout(Codebook(table, double, block)))
       for table in ("nf4", "fp4") for double in (False, True) for block in (64, 128)},
    "llm-int8": Variant(BitsandbytesLayout(RowInt8())),
    **{f"mlx-{bits}-g{group}": Variant(MLXLayout(Affine(bits, group, "BF16"))) for bits, group in ((3, 32), (8, 64))},
    "native-fp8": Variant(FP8Layout()),
    **{f"modelopt-fp8-{strategy}": Variant(CompressedLayout(Float8(strategy)), modelopt=True)
       for strategy in ("tensor", "channel", "block")},
}  # type: ignore[arg-type]  # fmt: skip


def round_weight(layout: Layout, weight: np.ndarray, seed: int = 0) -> Quantized:
    """The weight on the layout's grid; with activation order its columns are taken in a random one."""
    if not getattr(layout, "act_order", False):
        return layout.scheme.encode(weight)
    order = np.random.default_rng(seed).permutation(weight.shape[1]).astype(np.int32)
    moved = np.ascontiguousarray(weight[:, order])
    grid = layout.scheme.fit(moved)
    return Quantized(nearest(moved, grid), grid, order)


def pack_module(variant: Variant, module: str, quantized: Quantized) -> tuple[PackedTensor, ...]:
    static = getattr(variant.layout, "activations", None) == "static"
    return variant.layout.pack(module, quantized, 0.5 if static else None)


def config_of(variant: Variant, modules: Iterable[str], plain: Iterable[str] = ("lm_head",)) -> dict[str, Any]:
    """What config.json and further files say: {file name: its object}, config.json's being one section of it."""
    layouts = dict.fromkeys(modules, variant.layout)
    if variant.modelopt:
        strategy = variant.layout.scheme.strategy
        return {"hf_quant_config.json": modelopt.hf_quant_config(strategy, version="1", kv_cache=True)}
    written = Written(layouts, tuple(plain), (), "quantkit:1")
    container = writing(CONTAINERS[type(variant.layout)])
    return {"config.json": container.config(written)["quantization_config"], **container.sides(written)}


def write_tensors(path: Path, tensors: Iterable[PackedTensor]) -> None:
    found = list(tensors)
    header = encode_header([tensor.entry for tensor in found])
    path.write_bytes(header.data + b"".join(tensor.data.tobytes() for tensor in found))


def write_folder(
    folder: Path,
    variant: Variant,
    rounded: Mapping[str, Quantized],
    others: Iterable[PackedTensor] = (),
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A checkpoint of these rounded modules and other tensors."""
    folder.mkdir(parents=True)
    tensors = [tensor for name, quantized in rounded.items() for tensor in pack_module(variant, name, quantized)]
    write_tensors(folder / WEIGHTS, [*tensors, *others])
    said = config_of(variant, rounded)
    section = {"quantization_config": said.pop("config.json")} if "config.json" in said else {}
    (folder / "config.json").write_text(json.dumps({**(config or {}), **section}))
    for name, content in said.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def plain_tensor(name: str, values: np.ndarray, dtype: str = "BF16") -> PackedTensor:
    return packed(Entry(name, dtype, values.shape), values)


def _takes(layout: Layout, shape: tuple[int, int]) -> bool:
    """Whether a container takes weights of this shape; others stay as they are."""
    try:
        layout.entries("m", *shape)
    except UnsupportedError:
        return False
    return True


def quantized_model(
    folder: Path, variant: Variant, source: Path = MODEL, layers: int | None = None
) -> dict[str, np.ndarray]:
    """A copy of a checkpoint whose linear layers are rounded. Returns their decoded values by weight name.

    Only the first `layers` blocks are taken, by default all.
    """
    original = open_source(str(source))
    rounded, others = {}, []
    for name, info in original.tensors().items():
        _, in_block, rest = name.partition(".layers.")
        if layers is not None and in_block and int(rest.partition(".")[0]) >= layers:
            continue
        values = original.ref(name).read(0, info.rows).reshape(info.shape)
        if name.endswith(LINEAR) and _takes(variant.layout, values.shape):
            rounded[name.removesuffix(".weight")] = round_weight(variant.layout, values)
        else:
            others.append(plain_tensor(name, values))
    original.close()
    config = json.loads((source / "config.json").read_text())
    write_folder(folder, variant, rounded, others, config | ({} if layers is None else {"num_hidden_layers": layers}))
    for side in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (source / side).exists():
            shutil.copyfile(source / side, folder / side)
    return {f"{name}.weight": quantized.values() for name, quantized in rounded.items()}
