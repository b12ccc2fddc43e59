"""Checkpoints of the same function in other numbers: channels with random scales far apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from quantkit.families.model import Model
from quantkit.families.sites import sites_of
from quantkit.plan.describe import describe_source
from quantkit.source import Checkpoint, open_source


def described(folder: Path) -> tuple[Checkpoint, Model]:
    source = open_source(str(folder))
    return source, describe_source(source)


def weights(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    found = {name: checkpoint.ref(name).read(0, info.rows) for name, info in checkpoint.tensors().items()}
    return {name: values.reshape(checkpoint.tensors()[name].shape) for name, values in found.items()}


def scaled(folder: Path, to: Path, seed: int = 0) -> Path:
    """The checkpoint with random scales at every site, by the sites' own words: the same function, in float32."""
    source, model = described(folder)
    random, tensors = np.random.default_rng(seed), weights(source)
    for site in sites_of(source.tensors(), source.config, model):
        scale = np.exp(random.standard_normal(site.channels)).astype(np.float32)
        scale[random.random(site.channels) < 0.05] *= 50
        first = site.producer.stop - site.channels
        one = np.float32(site.centered)
        made = tensors[site.producer.tensor]
        factors = scale if made.ndim == 1 else scale[:, None]
        made[first : site.producer.stop] = (made[first : site.producer.stop] + one) * factors - one
        if site.bias is not None:
            tensors[site.bias.tensor][site.bias.stop - site.channels : site.bias.stop] *= scale
        for rows in site.consumers:
            tensors[rows.tensor].reshape(-1, len(site.channel_of))[rows.start : rows.stop] /= scale[site.channel_of]
    to.mkdir()
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    for name in source.file_names():
        (to / name).write_bytes(source.read_file(name) or b"")
    (to / "config.json").write_text(json.dumps({**source.config, "dtype": "float32"}))
    return to
