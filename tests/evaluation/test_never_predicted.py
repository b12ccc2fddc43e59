"""Tokens that stand for images have no probability in Chameleon: figures beside transformers' own forward."""

from __future__ import annotations

import json
from pathlib import Path

import family_table
import numpy as np
import torch
from walks import whole_model

from quantkit.evaluation.corpus import Corpus, Cutting, read_corpus
from quantkit.evaluation.measure import measure
from quantkit.evaluation.sides import Side, with_tensors
from quantkit.source import open_source
from quantkit.source.memory import MemoryTensor
from quantkit.tensors import TensorInfo

WEIGHT = "model.layers.1.mlp.down_proj.weight"
TEXT = "The harbour was quiet in the early morning, and the boats lay so still that their masts were doubled. " * 2
IMAGES = range(400, 8440)  # beyond the tokens of text: a part of the first slab of 4,096, and all of the second


def chameleon(folder: Path) -> Path:
    """A small checkpoint whose tokens of images are no tokens of its text."""
    made = family_table.build("chameleon", folder)
    config = json.loads((made / "config.json").read_text())
    names = sorted(name for name in config["vocabulary_map"] if name.startswith("IMGIMG"))[: len(IMAGES)]
    config["vocabulary_map"] = {"<image>": 8447, **dict(zip(names, IMAGES, strict=True))}
    (made / "config.json").write_text(json.dumps(config))
    return made


def by_transformers(folder: Path, found: Corpus, factor: float) -> np.ndarray:
    """Natural log-probabilities of all predictions that count, float64 (t, vocabulary)."""
    model = whole_model(folder)
    with torch.no_grad():
        model.get_parameter(WEIGHT).mul_(factor)
        whole = [model(torch.from_numpy(b.tokens).long()).logits.double().log_softmax(-1) for b in found.batches]
    rows = [whole[b][r, p] for b, r, p in zip(found.batch, found.row, found.position, strict=True)]
    return torch.stack(rows).numpy()


def test_divergence_counts_what_can_be_predicted(tmp_path: Path) -> None:
    folder = chameleon(tmp_path)
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    source = open_source(str(folder))
    info = source.tensors()[WEIGHT]
    values = source.ref(WEIGHT).read(0, info.rows) * np.float32(1.5)
    scaled = {WEIGHT: MemoryTensor(TensorInfo(WEIGHT, "F32", info.shape, values.nbytes), values)}
    corpus = read_corpus(source, (str(tmp_path / "text.jsonl"),), Cutting(window=32))
    sides = [Side("same", source), Side("x1.5", with_tensors(source, scaled))]
    same, other = measure(Side("original", source), sides, corpus, threads=1)
    p, q = (by_transformers(folder, corpus, factor) for factor in (1.0, 1.5))
    assert not np.exp(p)[:, IMAGES.start : IMAGES.stop].any()
    at = np.arange(corpus.tokens), corpus.target
    kl = (np.exp(p) * (p - q)).sum(1)
    assert kl.min() > 1e-4
    assert np.allclose(other.kl, kl, rtol=1e-3, atol=1e-6)  # float32 logits
    assert np.allclose(other.reference, p[at], atol=1e-4)
    assert np.allclose(other.other, q[at], atol=1e-4)
    assert np.array_equal(other.tops[0], p.argmax(1))
    assert not same.kl.any()
