"""Are the tensors of an artifact those that were promised, and does nothing follow them?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from quantkit.formats.gguf.reader import read_gguf
from quantkit.formats.safetensors import INDEX
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.plan.carried import CONFIG
from quantkit.quality.checks.base import Check
from quantkit.quality.made import Made, Place
from quantkit.quality.made_gguf import GGUFMade

WRITTEN_JSON = frozenset({CONFIG, INDEX, "quantize_config.json", "hf_quant_config.json"})


def check_structure(made: Made, promised: Sequence[Place] | None = None) -> Check:
    """What the reader found is what a plan or a manifest promises, place by place, and nothing follows the last."""
    wrong = made.ends()
    if wrong:
        return Check("structure", False, wrong)
    found = {place.name: place for place in made.places()}
    wanted = found if promised is None else {place.name: place for place in promised}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            there, expected = (_said(of.get(name)) for of in (found, wanted))
            return Check("structure", False, f"tensor {name} is {there}, expected {expected}")
    return Check("structure", True, "", {"tensors": len(found)})


def _said(place: Place | None) -> str:
    return "missing" if place is None else str(tuple(place[1:]))


def check_part(path: Path) -> Check:
    """One finished file on its own: a GGUF or safetensors file that ends after its last tensor, or valid JSON."""
    if path.suffix == ".gguf":
        return check_structure(GGUFMade((read_gguf(path),)))
    if path.suffix == ".safetensors":
        return Check("structure", True, "", {"tensors": len(read_safetensors(path).tensors)})
    if path.name in WRITTEN_JSON:
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            return Check("structure", False, f"{path.name} is not JSON: {error}")
    return Check("structure", True, "")
