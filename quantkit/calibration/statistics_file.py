"""Statistics as a file: a safetensors container that any reader of that format can look into.

__metadata__      format = "quantkit-statistics 1", statistics = JSON: model, data records, sites, linears, parts
<site>/<n>/squares, magnitudes    F64 (cols)           n counts the parts of the site
<site>/<n>/peaks                  F32 (cols)
<site>/<n>/gram/<first row>       F32 (rows, cols - first row), the upper triangle in bands
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from quantkit.calibration.samples import DataRecord
from quantkit.calibration.statistics import BAND, Gram, Linear, Part, Site, Statistics, Sums
from quantkit.errors import InputError
from quantkit.families.model import Rows
from quantkit.formats.safetensors import SafetensorsFile, parse_safetensors
from quantkit.untrusted import InputFile, open_input, parse_json_object, shown

FORMAT = "quantkit-statistics 1"
MAX_VALUES = 1 << 24  # JSON values of the metadata: window numbers, sites, linears
DTYPES = {torch.float64: "F64", torch.float32: "F32"}
NUMPY: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4")}


@dataclass(frozen=True)
class Encoded:
    """A file to be written: its exact size, and its bytes in pieces."""

    nbytes: int
    pieces: Iterator[bytes]


def encode_statistics(statistics: Statistics) -> Encoded:
    """Statistics as the bytes of a file. Equal statistics give equal bytes; nothing is held twice."""
    tensors = dict(sorted(_tensors(statistics), key=lambda item: item[1].dtype is not torch.float64))  # keeps alignment
    entries: dict[str, Any] = {"__metadata__": {"format": FORMAT, "statistics": _facts(statistics)}}
    offset = 0
    for name, tensor in tensors.items():
        stop = offset + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, stop]}
        offset = stop
    header = json.dumps(entries, separators=(",", ":")).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    return Encoded(8 + len(header) + offset, _pieces(header, tensors.values()))


def _pieces(header: bytes, tensors: Iterable[Tensor]) -> Iterator[bytes]:
    yield len(header).to_bytes(8, "little") + header
    for tensor in tensors:
        values = tensor.cpu().contiguous().numpy()
        yield values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _tensors(statistics: Statistics) -> Iterator[tuple[str, Tensor]]:
    for site in sorted(statistics.sites):
        for number, part in enumerate(statistics.parts[site]):
            prefix = f"{site}/{number}/"
            yield f"{prefix}squares", part.sums.squares
            yield f"{prefix}magnitudes", part.sums.magnitudes
            yield f"{prefix}peaks", part.sums.peaks
            for band, rows in enumerate(part.sums.gram.bands if part.sums.gram else ()):
                yield f"{prefix}gram/{band * BAND}", rows


def _facts(statistics: Statistics) -> str:
    facts = {
        "model": statistics.model,
        "data": {plan: asdict(record) for plan, record in sorted(statistics.data.items())},
        "sites": [
            {
                **asdict(statistics.sites[name]),
                "parts": [_part_facts(part) for part in statistics.parts[name]],
            }
            for name in sorted(statistics.sites)
        ],
        "linears": [asdict(statistics.linears[name]) for name in sorted(statistics.linears)],
    }
    return json.dumps(facts, sort_keys=True)


def _part_facts(part: Part) -> dict[str, Any]:
    gram = part.sums.gram is not None
    return {"plan": part.plan, "start": part.start, "stop": part.stop, "tokens": part.sums.tokens, "gram": gram}


@dataclass(frozen=True)
class StatisticsFile:
    """An open file whose header has been read and checked; sums are read when asked for."""

    source: InputFile
    header: SafetensorsFile
    facts: Statistics
    grams: Mapping[str, tuple[bool, ...]]

    def read(self, sites: Sequence[str] | None = None) -> Statistics:
        """The statistics of the given sites, None for all. Raises InputError for sums that cannot be sums."""
        chosen = sorted(self.facts.sites) if sites is None else sorted(sites)
        parts = {name: tuple(self._part(name, n) for n in range(len(self.facts.parts[name]))) for name in chosen}
        found = {name: self.facts.sites[name] for name in chosen}
        linears = {linear: self.facts.linears[linear] for site in found.values() for linear in site.linears}
        return Statistics(self.facts.model, found, linears, parts, self.facts.data)

    def close(self) -> None:
        self.source.close()

    def _part(self, site: str, number: int) -> Part:
        part, cols, prefix = self.facts.parts[site][number], self.facts.sites[site].cols, f"{site}/{number}/"
        gram = None
        if self.grams[site][number]:
            starts = range(0, cols, BAND)
            shapes = [(min(BAND, cols - start), cols - start) for start in starts]
            gram = Gram(tuple(self._tensor(f"{prefix}gram/{r}", s) for r, s in zip(starts, shapes, strict=True)))
        sums = Sums(
            part.sums.tokens,
            self._tensor(f"{prefix}squares", (cols,), "F64"),
            self._tensor(f"{prefix}magnitudes", (cols,), "F64"),
            self._tensor(f"{prefix}peaks", (cols,)),
            gram,
        )
        for name, values in (("squares", sums.squares), ("magnitudes", sums.magnitudes), ("peaks", sums.peaks)):
            if not bool((values.isfinite() & (values >= 0)).all()):
                _fail(self.source, f"{prefix}{name} has values that are not finite or negative", site)
        return Part(part.plan, part.start, part.stop, sums)

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: str = "F32") -> Tensor:
        entry = self.header.tensors.get(name)
        if entry is None or entry.dtype != dtype or entry.shape != shape:
            found = "nothing" if entry is None else f"{entry.dtype} {list(entry.shape)}"
            _fail(self.source, f"{shown(name)} is {found}, expected {dtype} {list(shape)}", name)
        raw = self.source.read(entry.start, entry.stop).view(NUMPY[dtype])
        assert raw.size == prod(shape)
        return torch.from_numpy(raw.astype(raw.dtype.newbyteorder("="), copy=False).reshape(shape))


def open_statistics(path: Path) -> StatisticsFile:
    """Open a file of statistics; reads the header only. Raises InputError for another or a damaged file."""
    source = open_input(path)
    try:
        header = parse_safetensors(source)
        if header.metadata.get("format") != FORMAT:
            _fail(source, f"this is not a file of statistics ({FORMAT})")
        raw = parse_json_object(header.metadata.get("statistics", "").encode(), path, values=MAX_VALUES)
        facts, grams = _parsed(raw, source)
    except InputError:
        source.close()
        raise
    return StatisticsFile(source, header, facts, grams)


def _parsed(raw: Mapping[str, Any], source: InputFile) -> tuple[Statistics, dict[str, tuple[bool, ...]]]:
    """The metadata as types; the sums of its parts are empty."""
    try:
        data = {plan: _record(found) for plan, found in raw["data"].items()}
        linears = [Linear(e["name"], Rows(**e["source"]), int(e["rows"]), int(e["cols"])) for e in raw["linears"]]
        by_name = {linear.name: linear for linear in linears}
        sites, parts, grams = {}, {}, {}
        for entry in raw["sites"]:
            site = Site(entry["name"], tuple(entry["linears"]), int(entry["cols"]))
            sites[site.name] = site
            parts[site.name] = tuple(_empty_part(found) for found in entry["parts"])
            grams[site.name] = tuple(bool(found["gram"]) for found in entry["parts"])
        consistent = all(site.name in site.linears and set(site.linears) <= set(by_name) for site in sites.values())
        plans = {part.plan for run in parts.values() for part in run}
        model = str(raw["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{shown(source.path)}: its facts are damaged ({type(error).__name__}: {shown(str(error), 80)})"
        raise InputError(message, path=str(source.path), hint="calibrate again") from error
    if not consistent or not plans <= set(data) or any(record.digest != plan for plan, record in data.items()):
        _fail(source, "its sites, linears and data records do not belong together")
    return Statistics(model, sites, by_name, parts, data), grams


def _record(found: Mapping[str, Any]) -> DataRecord:
    return DataRecord(**{**found, "ids": tuple(int(number) for number in found["ids"])})


def _empty_part(found: Mapping[str, Any]) -> Part:
    nothing = torch.zeros(0)
    return Part(
        str(found["plan"]),
        int(found["start"]),
        int(found["stop"]),
        Sums(int(found["tokens"]), nothing, nothing, nothing),
    )


def _fail(source: InputFile, why: str, tensor: str | None = None) -> NoReturn:
    message = f"{shown(source.path)}: {why}"
    raise InputError(message, path=str(source.path), tensor=tensor, hint="calibrate again")
