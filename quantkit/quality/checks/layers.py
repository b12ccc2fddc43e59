"""Looks at a checkpoint for servers: are its tensors what its configuration says, and its weights the source's?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.errors import QuantkitError, UnsupportedError
from quantkit.formats.containers.packed import Entry, PackedTensor
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.plan.base import Plan, Unit
from quantkit.plan.reading import read_weight
from quantkit.quality.checks.base import WORST_TENSORS, Check, Verification
from quantkit.quality.feedback import gain
from quantkit.quality.readers import decoders, open_with_package
from quantkit.quality.tensor_errors import TensorError, compare, floor_of_bits
from quantkit.source import Checkpoint
from quantkit.tensors import F32
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
    paths: Sequence[Path], checkpoint: Checkpoint, plan: Plan, layers: Sequence[Mapping[str, Any]] = ()
) -> Verification:
    """Look at finished files that have no manifest yet: some layers, evenly spread, are decoded and compared.

    The safetensors package reads them, and what config.json says of a layer decides how it is decoded. `layers` is
    what their method noted, which is said beside.
    """
    with open_with_package([path for path in paths if path.suffix == SHARD]) as tensors:
        promised = {t.name: t.entry for t in plan.tensors}
        for name in sorted(promised.keys() | tensors.keys()):
            there = tensors.infos.get(name)
            found = there and Entry(name, there.dtype, there.shape)
            if found != promised.get(name):
                what = f"tensor {name} is {found}, expected {promised.get(name)}"
                return Verification((Check("structure", False, what),))
        try:
            decoded = decoders(paths, tensors)
        except UnsupportedError as error:
            return Verification((Check("numbers", None, f"quantkit does not read it back: {error.message}"),))
        except QuantkitError as error:
            return Verification((Check("structure", False, error.message),))
        sampled = plan.rounded[:: max(len(plan.rounded) // SAMPLED_LAYERS, 1)]
        silent = next((unit.name for unit in sampled if unit.name not in decoded), None)
        if silent is not None:
            return Verification((Check("structure", False, f"no configuration says how {silent} is stored"),))
        moved = plan.method is not None and bool(plan.method.transform)
        check = check_layers(decoded, checkpoint, sampled, moved=moved)
    return Verification((with_gain(check, layers),))


def with_gain(check: Check, layers: Sequence[Mapping[str, Any]]) -> Check:
    """A check of numbers that passed, with the loss after feedback beside the plain errors."""
    found = gain(layers)
    if found is None or check.ok is False:
        return check
    return replace(check, detail=f"{check.detail}; {found.words()}", data={**check.data, "feedback": found.as_json()})


def check_layers(
    decoded: Mapping[str, Callable[[], F32]], checkpoint: Checkpoint, units: Sequence[Unit], *, moved: bool
) -> Check:
    """Decode layers and compare them with the source. A layer fails below the floor of its bits (floor_of_bits).

    Where a transform has `moved` scales between layers, only decoding is checked: weights are others on purpose.
    """
    errors: list[TensorError] = []
    bits = {}
    for unit in units:
        assert unit.layout is not None, unit.name
        bits[unit.name] = unit.layout.traits.bits
        try:
            values = decoded[unit.name]()
        except QuantkitError as error:
            return Check("numbers", False, f"{unit.name} does not decode: {error.message}")
        if not moved:
            errors.append(compare(unit.name, unit.word, read_weight(checkpoint, unit.tensor), values))
    if moved:
        return Check("numbers", True, f"{len(units)} layers decode; scales were moved, so they are not compared")
    worst = sorted(errors, key=lambda e: e.snr_db)[:WORST_TENSORS]
    failed = [e for e in worst if e.snr_db < floor_of_bits(bits[e.name])]
    data = {"compared": len(errors), "worst": [{"name": e.name, "snr_db": round(e.snr_db, 2)} for e in worst]}
    detail = f"worst {worst[0].name} {worst[0].snr_db:.1f} dB"
    if failed:
        return Check(
            "numbers", False, f"{failed[0].name} has a signal to noise ratio of {failed[0].snr_db:.1f} dB", data
        )
    return Check("numbers", True, detail, data)
