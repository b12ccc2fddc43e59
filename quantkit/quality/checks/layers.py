"""Looks at a checkpoint for servers: are its tensors what its configuration says, and its weights the source's?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.formats.containers.packed import Entry, PackedTensor
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.plan.base import PlannedModule
from quantkit.plan.checkpoint import ServerPlan
from quantkit.plan.reading import read_weight
from quantkit.quality.checks.base import WORST_TENSORS, Check, Verification
from quantkit.quality.feedback import gain
from quantkit.quality.tensor_errors import TensorError, compare, floor_of_bits
from quantkit.source import Checkpoint
from quantkit.untrusted import open_input

SAMPLED_LAYERS = 24
SHARD = ".safetensors"


@dataclass(frozen=True)
class PartTensors(Mapping[str, PackedTensor]):
    """The tensors of finished files, by quantkit's own reader."""

    places: Mapping[str, tuple[Path, Entry, int]]

    def __getitem__(self, name: str) -> PackedTensor:
        path, entry, start = self.places[name]
        with closing(open_input(path)) as file:
            return PackedTensor(entry, file.read(start, start + entry.nbytes))

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def open_parts(paths: Sequence[Path]) -> PartTensors:
    """The tensors of safetensors files. Raises InputError for one that does not parse."""
    places = {}
    for path in paths:
        for name, found in read_safetensors(path).tensors.items():
            places[name] = (path, Entry(name, found.dtype, found.shape), found.start)
    return PartTensors(places)


def verify_server_parts(
    paths: Sequence[Path], checkpoint: Checkpoint, plan: ServerPlan, layers: Sequence[Mapping[str, Any]] = ()
) -> Verification:
    """Look at finished files that have no manifest yet: some layers, evenly spread, are decoded and compared.

    `layers` is what their method noted, which is said beside.
    """
    tensors = open_parts([path for path in paths if path.suffix == SHARD])
    missing = [t.name for t in plan.tensors if t.name not in tensors]
    if missing or len(tensors) != len(plan.tensors):
        return Verification((Check("structure", False, f"{len(missing)} tensors are missing"),))
    step = max(len(plan.modules) // SAMPLED_LAYERS, 1)
    check = check_layers(tensors, checkpoint, plan.modules[::step], moved=bool(plan.method.transform))
    return Verification((with_gain(check, layers),))


def with_gain(check: Check, layers: Sequence[Mapping[str, Any]]) -> Check:
    """A check of numbers that passed, with the loss after feedback beside the plain errors."""
    found = gain(layers)
    if found is None or check.ok is False:
        return check
    return replace(check, detail=f"{check.detail}; {found.words()}", data={**check.data, "feedback": found.as_json()})


def check_layers(
    tensors: Mapping[str, PackedTensor], checkpoint: Checkpoint, modules: Sequence[PlannedModule], *, moved: bool
) -> Check:
    """Decode layers and compare them with the source. A layer fails below the floor of its bits (floor_of_bits).

    Where a transform has `moved` scales between layers, only decoding is checked: weights are others on purpose.
    """
    errors: list[TensorError] = []
    for planned in modules:
        try:
            decoded = planned.layout.unpack(planned.name, tensors).values()
        except QuantkitError as error:
            return Check("numbers", False, f"{planned.name} does not decode: {error.message}")
        if not moved:
            errors.append(compare(planned.name, planned.layout.traits.word, read_weight(checkpoint, planned), decoded))
    if moved:
        return Check("numbers", True, f"{len(modules)} layers decode; scales were moved, so they are not compared")
    worst = sorted(errors, key=lambda e: e.snr_db)[:WORST_TENSORS]
    bits = {planned.name: planned.layout.traits.bits for planned in modules}
    failed = [e for e in worst if e.snr_db < floor_of_bits(bits[e.name])]
    data = {"compared": len(errors), "worst": [{"name": e.name, "snr_db": round(e.snr_db, 2)} for e in worst]}
    detail = f"worst {worst[0].name} {worst[0].snr_db:.1f} dB"
    if failed:
        return Check(
            "numbers", False, f"{failed[0].name} has a signal to noise ratio of {failed[0].snr_db:.1f} dB", data
        )
    return Check("numbers", True, detail, data)
