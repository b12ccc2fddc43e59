"""Published configurations of families whose tensors have unlike shapes: described at their full size from headers.

The tensors are those that the rows ask for, so that numbers which contradict each other show; where an index was
published, its names are all the names there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from real_folders import REALITY, read_config, real_folders
from row_headers import headers

from quantkit.errors import UnsupportedError
from quantkit.families.describe import describe, find_family
from quantkit.metadata import KeyValue
from quantkit.tensors import TensorInfo

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
BILLIONS = {
    "falcon-40b": 41.8,
    "lfm2-1.2b": 1.17,
    "olmocr-qwen2vl": 7.6,
    "aic-gemma-4-26b-a4b": 25.2,
    "aic-glm-5.2": 744.0,
    "aic-llama-4-scout-17b-16e-instruct": 107.8,
    "aic-nvidia-nemotron-3-nano-30b-a3b-bf16": 31.6,
}  # weights of the language model, by its publisher


def _index(name: str) -> Mapping[str, str]:
    """The published names, of which file each is; none where there is no index."""
    path = next((path for file in INDEXES if (path := REALITY / name / file).is_file()), None)
    return {} if path is None else json.loads(path.read_text("utf-8"))["weight_map"]


def _stored(name: str) -> dict[str, bool]:
    """What the index says of the head: that there is one, whatever is the default."""
    return {"tie_word_embeddings": False} if "lm_head.weight" in _index(name) else {}


@dataclass(frozen=True)
class Tokens:
    vocab_size: int
    metadata: tuple[KeyValue, ...] = ()
    sha256: str | None = None
    warnings: tuple[tuple[str, str], ...] = ()


@pytest.mark.parametrize("name", sorted(set(BILLIONS) & set(real_folders())))
def test_a_published_configuration_is_a_model_of_the_published_size(name: str) -> None:
    config = read_config(name)
    named = find_family(config)
    hparams = named.family.hparams({**_stored(name), **config})
    tensors = {info.name: info for info in headers(named.family, hparams)}
    model = describe(tensors, config, lambda file: None, named, Tokens(hparams.count("vocab_size")), name=name)
    weights = sum(tensor.rows * tensor.cols for tensor in model.tensors)
    assert weights / 1e9 == pytest.approx(BILLIONS[name], rel=0.01)


@pytest.mark.parametrize("name", [n for n in BILLIONS if _index(n)])
def test_every_published_name_has_a_row_or_a_reason(name: str) -> None:
    config = read_config(name)
    named = find_family(config)
    said, published = {**_stored(name), **config}, _index(name)
    of_rows = {info.name: info for info in headers(named.family, named.family.hparams(said))}
    tensors = {n: _as(of_rows, n, named.family.source_name(n)) for n in published}
    size = named.family.hparams(config).count("vocab_size")
    model = describe(tensors, config, lambda file: None, named, Tokens(size), name=name)
    assert set(model.dropped) == {n for n in published if n.startswith(("visual.", "model.visual."))}
    with pytest.raises(UnsupportedError, match="no place for"):
        further = {
            **tensors,
            "model.layers.0.novel.weight": TensorInfo("model.layers.0.novel.weight", "BF16", (8,), 16),
        }
        describe(further, config, lambda file: None, named, Tokens(size), name=name)


def _as(of_rows: Mapping[str, TensorInfo], published: str, name: str) -> TensorInfo:
    """A published tensor in the shape that rows ask for; what they do not ask for is small."""
    shape = of_rows[name].shape if name in of_rows else (8,)
    return TensorInfo(published, "BF16", shape, 0)
